"""The programs that compute the attention of a text: that of a token, or that between blocks.

The programs of a bucket length are compiled at the first request for it, by a thread that has no
other work. They run in slices, as those of the tasks do.
"""

import asyncio
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_bigbird.models.attention_maps import attention_of_token, sparse_block_map
from flax_bigbird.server.batches import Group
from flax_bigbird.server.engine import Engine, Unit
from flax_bigbird.server.programs import Program, ProgramRun, count_slices
from flax_bigbird.tasks.base import PredictionTask

COST = 2  # times that of reading the text


class AttentionPrograms:
    """The programs of one model that compute its attention.

    Args:
      name: The name of the model.
      task: The task of the model, which pads texts to its bucket lengths.
      model: An encoder.
      slice_tokens: The number of tokens after whose work a batch lets others pass; None for never.
    """

    def __init__(self, name: str, task: PredictionTask, model: Any, slice_tokens: int | None):
        self._name, self._task, self._model = name, task, model
        self._slice_tokens = slice_tokens
        self._params = jax.tree.map(jnp.asarray, model.params)
        self._leaves = jax.tree.leaves(self._params)
        self._programs: dict[tuple[bool, int], asyncio.Task[Program]] = {}

    async def unit(self, engine: Engine, ids: list[int], position: int | None) -> Unit:
        """Returns the unit of work of a text; its program is compiled if necessary.

        Args:
          engine: The engine, in one of whose threads the program is compiled.
          ids: The token ids, at most as many as the longest bucket has.
          position: The position of the token; None for the map between blocks.
        """
        length = self._task.options.bucket_length(len(ids))
        padded = self._task.pad(ids, length)
        arrays: dict[str, Any] = {name: values[None] for name, values in padded.items()}
        if position is not None:
            arrays["position"] = np.int32(position)
        begin = functools.partial(self._begin, await self._program(engine, arrays, length))
        key = ("attention", self._name, length, position is None)
        return Unit(Group(key, self._name, COST * length, (1,), begin), arrays)

    async def _program(self, engine: Engine, arrays: dict[str, Any], length: int) -> Program:
        key = ("position" in arrays, length)
        task = self._programs.get(key)
        if task is None or (task.done() and task.exception() is not None):
            batch = {x: jax.ShapeDtypeStruct(a.shape, a.dtype) for x, a in arrays.items()}
            num_slices = count_slices(length, self._slice_tokens)
            work = engine.in_compiler(Program, self._step, self._params, batch, num_slices)
            task = self._programs[key] = asyncio.create_task(work)
        return await asyncio.shield(task)  # others may wait for it, if this client leaves

    def _step(self, params: Any, batch: dict[str, Any]) -> dict[str, Any]:
        if "position" not in batch:
            weights = sparse_block_map(self._model, params, **batch)
            return {"blocks": weights[None]}
        reads, read_by = attention_of_token(self._model, params, **batch)
        return {"reads": reads[None], "read_by": read_by[None]}

    def _begin(self, program: Program, payloads: list[Any], size: int) -> ProgramRun:
        del size
        return ProgramRun(program, self._leaves, payloads[0], 1)
