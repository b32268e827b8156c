"""The compiled programs of a model: one for each bucket length and batch size.

All of them are compiled before the first request. A program of many tokens consists of slices, see
`flax_bigbird.server.slices`.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.extend.core as jex_core
import jax.numpy as jnp
import numpy as np

from flax_bigbird.data.batching import stack
from flax_bigbird.data.types import Arrays
from flax_bigbird.server.batches import Group, batch_sizes
from flax_bigbird.server.slices import last_uses, read_results, split_program
from flax_bigbird.tasks.base import PredictionTask, Window

Shape = tuple[tuple[str, tuple[int, ...], str], ...]
"""The names, shapes and dtypes of the arrays of one window."""


def shape_of(arrays: Arrays) -> Shape:
    """Returns the shape of the arrays of a window."""
    return tuple((name, x.shape, str(x.dtype)) for name, x in sorted(arrays.items()))


def count_slices(tokens: int, slice_tokens: int | None) -> int:
    """Returns the number of slices of a program for some tokens; see `ModelPrograms`."""
    return 1 if slice_tokens is None else -(-tokens // slice_tokens)


class Program:
    """The compiled slices of one program.

    Args:
      step: The function `(params, batch)` to compile.
      params: The parameters, arrays on the device.
      batch: The shapes and dtypes of a batch.
      num_slices: The number of slices, if the function can be split.
    """

    def __init__(self, step: Any, params: Any, batch: Any, num_slices: int):
        self._program, results = jax.make_jaxpr(step, return_shape=True)(params, batch)
        self._results = jax.tree.structure(results)
        self._slices = split_program(self._program, num_slices)
        self._compiled = [_compile(part.program) for part in self._slices]
        self._finished = last_uses(self._slices, self._program.jaxpr.outvars)

    def __len__(self) -> int:
        return len(self._slices)

    def run(self, params: list[Any], batch: Any) -> Iterator[Any]:
        """Yields None after each slice, and then the results, in host memory.

        Args:
          params: The leaves of the parameters.
          batch: The arrays of the batch.
        """
        arguments = [*params, *jax.tree.leaves(batch)]
        values = dict(zip(self._program.jaxpr.invars, arguments, strict=True))
        for part, compiled, finished in zip(
            self._slices, self._compiled, self._finished, strict=True
        ):
            outputs = compiled(*(values[variable] for variable in part.inputs))
            jax.block_until_ready(outputs)
            values.update(zip(part.outputs, outputs, strict=True))
            for variable in finished:
                values.pop(variable, None)
            yield None
        results = jax.device_get(read_results(self._program, values))
        yield jax.tree.unflatten(self._results, results)


def _compile(program: Any) -> Any:
    arguments = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in program.jaxpr.invars]
    return jax.jit(jex_core.jaxpr_as_fun(program)).lower(*arguments).compile()


class ProgramRun:
    """A batch of windows that is being computed."""

    def __init__(self, program: Program, params: list[Any], batch: Arrays, count: int):
        self._steps = program.run(params, batch)
        self._remaining, self._count = len(program), count
        self._results: Any = None

    @property
    def is_done(self) -> bool:
        return self._remaining == 0

    def advance(self) -> None:
        """Computes the next slice."""
        next(self._steps)
        self._remaining -= 1
        if not self._remaining:
            self._results = next(self._steps)

    def outputs(self) -> list[Arrays]:
        """Returns the outputs of each window."""
        return [
            {name: value[slot] for name, value in self._results.items()}
            for slot in range(self._count)
        ]


class ModelPrograms:
    """The programs of one model and task.

    Args:
      name: The name of the model.
      task: The task.
      model: The model.
      example: A window of the shapes that all windows of the task have.
      max_batch_tokens: The maximum number of tokens of a batch.
      slice_tokens: The number of tokens after whose work a batch lets others pass; None for never.
    """

    def __init__(
        self,
        name: str,
        task: PredictionTask,
        model: Any,
        example: Window,
        max_batch_tokens: int,
        slice_tokens: int | None,
    ):
        self.name, self._task = name, task
        self._slice_tokens = slice_tokens
        self._step = functools.partial(task.predict_step, model)
        self._params = jax.tree.map(jnp.asarray, model.params)
        self._leaves = jax.tree.leaves(self._params)
        self._programs: dict[tuple[Shape, int], Program] = {}
        self._groups: dict[Shape, Group] = {}
        for length in task.options.bucket_lengths:
            shape = shape_of(task.collate_window(example, length))
            sizes = batch_sizes(length, max(max_batch_tokens, length))
            begin = functools.partial(self._begin, shape)
            self._groups[shape] = Group((name, shape), name, length, sizes, begin)

    def buckets(self) -> list[tuple[Shape, int]]:
        """Returns the shapes and batch sizes that are compiled."""
        return [(shape, size) for shape, group in self._groups.items() for size in group.sizes]

    def compile(self, shape: Shape, size: int) -> None:
        """Compiles the program of a bucket."""
        batch = {
            name: jax.ShapeDtypeStruct((size, *axes), np.dtype(dtype))
            for name, axes, dtype in shape
        }
        tokens = self._groups[shape].tokens * size
        num_slices = count_slices(tokens, self._slice_tokens)
        self._programs[shape, size] = Program(self._step, self._params, batch, num_slices)

    def group(self, arrays: Arrays) -> Group:
        """Returns the group of a window that is padded to a bucket length."""
        return self._groups[shape_of(arrays)]

    def collate(self, window: Window) -> Arrays:
        """Returns the arrays of a window, padded to its bucket length."""
        length = self._task.options.bucket_length(len(window.input_ids))
        return self._task.collate_window(window, length)

    def _begin(self, shape: Shape, payloads: list[Arrays], size: int) -> ProgramRun:
        filled = payloads + [payloads[0]] * (size - len(payloads))
        program = self._programs[shape, size]
        return ProgramRun(program, self._leaves, stack(filled), len(payloads))
