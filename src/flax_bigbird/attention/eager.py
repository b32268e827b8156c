"""Compiles functions that are called outside of `jax.jit`, once per shapes and static values.

JAX compiles a loop anew in every call outside of a compiled program, because the function that is
its body is another object each time. A function that is called through `compile_eager` is compiled
once, under gradients and `jax.vmap` too.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array


class FrozenArray:
    """A NumPy array that is compared and hashed by its values.

    Attributes:
      values: A copy of the array.
    """

    def __init__(self, values: np.ndarray):
        self.values = values.copy()
        self._key = (values.shape, values.dtype.str, values.tobytes())

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FrozenArray) and self._key == other._key


def is_tracing() -> bool:
    """Returns whether a program is being traced, as in `jax.jit` and the bodies of loops.

    Transformations outside of `jax.jit`, such as `jax.grad`, compute constants at once; their
    operands are tracers all the same.
    """
    return isinstance(jnp.zeros((), np.int32), Tracer)


def compile_eager(function: Callable[..., Array], static: tuple[Any, ...], *trees: Any) -> Array:
    """Calls `function(*static, *trees)`, compiled unless a program is being traced.

    Args:
      function: A function of a module; others would be compiled anew.
      static: Hashable arguments, everything else that the program depends on among them.
      *trees: Arrays and other pytrees. NumPy arrays inside of a pytree, such as those of a static
        pattern, are constants of the program; all other arrays are its arguments.
    """
    trees = tuple(jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in trees)
    if is_tracing():
        return function(*static, *trees)
    leaves, structure = jax.tree.flatten(trees)
    constants = tuple(FrozenArray(x) if isinstance(x, np.ndarray) else None for x in leaves)
    arrays = [x for x in leaves if not isinstance(x, np.ndarray)]
    return _compiled(function, static, structure, constants, arrays)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _compiled(function, static, structure, constants, arrays):
    remaining = iter(arrays)
    leaves = [next(remaining) if x is None else x.values for x in constants]
    return function(*static, *jax.tree.unflatten(structure, leaves))
