"""Splits a traced program into slices, between which the device can do other work.

A batch of long documents may take seconds. Without a pause, a short request that arrives meanwhile
waits for all of it. A program of equations is therefore cut into slices of about equal cost, at the
points where few arrays are alive: between the layers of a model, these are the hidden states and
the mask. The slices compute what the whole program computes.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.extend.core as jex_core
import numpy as np

# A cut may lie this fraction of a slice's cost away from where the costs would be equal.
MAX_SHIFT = 0.5


@dataclasses.dataclass(frozen=True)
class Slice:
    """Some consecutive equations of a program.

    Attributes:
      program: The equations as a program of their own.
      inputs: The variables of the whole program that it reads.
      outputs: The variables that it computes and that later slices, or the caller, read.
    """

    program: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]


def split_program(program: Any, num_slices: int) -> list[Slice]:
    """Splits a program into at most `num_slices` slices of similar cost.

    Args:
      program: A `ClosedJaxpr`. With effects, such as callbacks, it is not split.
      num_slices: The number of slices.
    """
    equations = program.jaxpr.eqns
    if num_slices < 2 or program.effects or len(equations) < 2:
        cuts: list[int] = []
    else:
        cuts = _cuts(program, num_slices)
    bounds = [0, *cuts, len(equations)]
    constants = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
    # Ordered, so that every process has the same programs, and finds them in the compilation cache.
    read_later = dict.fromkeys(_variables(program.jaxpr.outvars))
    slices: list[Slice] = []
    for start, end in zip(reversed(bounds[:-1]), reversed(bounds[1:]), strict=True):
        part = equations[start:end]
        defined = {v for equation in part for v in equation.outvars}
        used = list(_variables(v for equation in part for v in equation.invars))
        outputs = tuple(v for v in read_later if v in defined)
        inputs = tuple(v for v in used if v not in defined and v not in constants)
        own = [v for v in used if v in constants]
        slices.append(_slice(program, part, inputs, outputs, {v: constants[v] for v in own}))
        read_later = {v: None for v in read_later if v not in defined} | dict.fromkeys(inputs)
    return slices[::-1]


def read_results(program: Any, values: dict[Any, Any]) -> list[Any]:
    """Returns the results of a program whose slices have computed `values`, by variable."""
    constants = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
    return [
        v.val if isinstance(v, jex_core.Literal) else values.get(v, constants.get(v))
        for v in program.jaxpr.outvars
    ]


def last_uses(slices: Sequence[Slice], kept: Sequence[Any]) -> list[set[Any]]:
    """Returns, for each slice, the variables that no later slice reads.

    Args:
      slices: The slices.
      kept: Variables that are read after the last slice.
    """
    needed = set(kept)
    finished: list[set[Any]] = []
    for part in reversed(slices):
        finished.append(set(part.inputs) - needed)
        needed |= set(part.inputs)
    return finished[::-1]


def _slice(
    program: Any,
    equations: Sequence[Any],
    inputs: tuple[Any, ...],
    outputs: tuple[Any, ...],
    constants: dict[Any, Any],
) -> Slice:
    jaxpr = jex_core.Jaxpr(
        constvars=list(constants),
        invars=list(inputs),
        outvars=list(outputs),
        eqns=list(equations),
        effects=program.jaxpr.effects,
        debug_info=_debug_info(program, inputs, outputs),
    )
    closed = jex_core.ClosedJaxpr(jaxpr, list(constants.values()))
    return Slice(closed, inputs, outputs)


def _debug_info(program: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    """Returns the names of a slice's arguments and results, as many as it has."""
    info = program.jaxpr.debug_info
    return info._replace(
        arg_names=tuple(f"x{n}" for n in range(len(inputs))),
        result_paths=tuple(f"y{n}" for n in range(len(outputs))),
    )


def _cuts(program: Any, num_slices: int) -> list[int]:
    """Returns the indices of the equations before which the program is cut."""
    equations = program.jaxpr.eqns
    costs = list(itertools.accumulate(equation_cost(equation) for equation in equations))
    alive = _bytes_alive(program)
    step = costs[-1] / num_slices
    cuts: list[int] = []
    for n in range(1, num_slices):
        near = [
            index
            for index in range(1, len(equations))
            if abs(costs[index - 1] - n * step) <= MAX_SHIFT * step
            and index > (cuts[-1] if cuts else 0)
        ]
        if near:
            cuts.append(min(near, key=lambda i: (alive[i], abs(costs[i - 1] - n * step))))
    return cuts


def _bytes_alive(program: Any) -> list[int]:
    """Returns how many bytes are alive before each equation, without the program's own inputs."""
    equations = program.jaxpr.eqns
    inputs = {*program.jaxpr.invars, *program.jaxpr.constvars}
    last: dict[Any, int] = dict.fromkeys(_variables(program.jaxpr.outvars), len(equations))
    for index in reversed(range(len(equations))):
        for variable in _variables(equations[index].invars):
            last.setdefault(variable, index)
    changes = [0] * (len(equations) + 2)
    for index, equation in enumerate(equations):
        for variable in equation.outvars:
            if variable in last and variable not in inputs:
                size = _num_bytes(variable.aval)
                changes[index + 1] += size
                changes[last[variable] + 1] -= size
    return list(itertools.accumulate(changes))


def equation_cost(equation: Any) -> float:
    """Returns about how many operations an equation takes.

    Products of matrices count by their operations, and loops by their length; everything else
    counts by the size of its results.
    """
    name = equation.primitive.name
    if name == "dot_general":
        contracted = equation.params["dimension_numbers"][0][0]
        shape = equation.invars[0].aval.shape
        terms = math.prod(shape[axis] for axis in contracted)
        return 2.0 * terms * math.prod(equation.outvars[0].aval.shape)
    inner = sum(
        equation_cost(nested) for jaxpr in _nested(equation.params) for nested in jaxpr.eqns
    )
    if name == "scan":
        inner *= equation.params["length"]
    if inner:
        return inner
    return float(sum(math.prod(getattr(v.aval, "shape", ())) for v in equation.outvars))


def _nested(params: dict[str, Any]) -> Iterator[Any]:
    """Yields the programs inside the parameters of an equation."""
    for value in jax.tree.leaves(list(params.values()), is_leaf=_is_program):
        if isinstance(value, jex_core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, jex_core.Jaxpr):
            yield value


def _is_program(value: Any) -> bool:
    return isinstance(value, jex_core.ClosedJaxpr | jex_core.Jaxpr)


def _variables(atoms: Any) -> Iterator[Any]:
    """Yields the atoms that are variables, each once, in order."""
    return iter(dict.fromkeys(v for v in atoms if not isinstance(v, jex_core.Literal)))


def _num_bytes(aval: Any) -> int:
    try:
        return math.prod(aval.shape) * np.dtype(aval.dtype).itemsize
    except (AttributeError, TypeError):  # keys of random generators, tokens
        return 0
