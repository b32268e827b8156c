"""The attention of a text, as lists of what is read: for a token, or for all blocks of a layer.

The programs of a bucket length are compiled at the first request for it, by a thread that does not
own the device. They run in slices, as those of the tasks do.
"""

import functools
import threading
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_bigbird.models.attention_maps import attention_of_token, sparse_block_map
from flax_bigbird.server.batches import Group
from flax_bigbird.server.engine import Unit
from flax_bigbird.server.programs import Program, ProgramRun

COST = 2  # times that of reading the text
MIN_WEIGHT = 1e-6  # of what is listed
FULL, GLOBAL, WINDOW, RANDOM = "f", "g", "w", "r"


class AttentionPrograms:
    """The programs of one model that compute its attention.

    Args:
      name: The name of the model.
      model: An encoder.
      lengths: The lengths that texts are padded to.
      slice_tokens: The number of tokens after whose work a batch lets others pass; None for never.
    """

    def __init__(self, name: str, model: Any, lengths: Sequence[int], slice_tokens: int | None):
        self._name, self._model, self._slice_tokens = name, model, slice_tokens
        self.lengths = tuple(lengths)
        self._params = jax.tree.map(jnp.asarray, model.params)
        self._leaves = jax.tree.leaves(self._params)
        self._programs: dict[tuple[bool, int], Program] = {}
        self._lock = threading.Lock()

    def unit(self, ids: list[int], pad_token_id: int, position: int | None) -> Unit:
        """Returns the unit of work of a text; its program is compiled if necessary.

        Args:
          ids: The token ids, at most as many as the longest bucket has.
          pad_token_id: The id of padding.
          position: The position of the token; None for the map between blocks.
        """
        length = next(n for n in self.lengths if n >= len(ids))
        padded = np.full(length, pad_token_id, np.int32)
        padded[: len(ids)] = ids
        arrays: dict[str, Any] = {"input_ids": padded[None]}
        arrays["attention_mask"] = (np.arange(length) < len(ids)).astype(np.int32)[None]
        if position is not None:
            arrays["position"] = np.int32(position)
        begin = functools.partial(self._begin, self._program(arrays, length))
        key = ("attention", self._name, length, position is None)
        return Unit(Group(key, self._name, COST * length, (1,), begin), arrays)

    def _program(self, arrays: dict[str, Any], length: int) -> Program:
        key = ("position" in arrays, length)
        with self._lock:
            if key not in self._programs:
                batch = {x: jax.ShapeDtypeStruct(a.shape, a.dtype) for x, a in arrays.items()}
                slices = 1 if self._slice_tokens is None else -(-length // self._slice_tokens)
                self._programs[key] = Program(self._step, self._params, batch, slices)
            return self._programs[key]

    def _step(self, params: Any, batch: dict[str, Any]) -> dict[str, Any]:
        if "position" not in batch:
            weights = sparse_block_map(self._model, params, **batch)
            return {"blocks": weights[None]}
        reads, read_by = attention_of_token(self._model, params, **batch)
        return {"reads": reads[None], "read_by": read_by[None]}

    def _begin(self, program: Program, payloads: list[Any], size: int) -> ProgramRun:
        del size
        return ProgramRun(program, self._leaves, payloads[0], 1)


class Layout:
    """The kinds of blocks of a text: which are global, in the window, or random.

    Args:
      sparsity: The model's configuration.
      num_tokens: The number of tokens of the text.
    """

    def __init__(self, sparsity: Any, num_tokens: int):
        self.size = sparsity.block_size
        self.num_blocks = -(-num_tokens // self.size)
        self._layout = sparsity.layout
        self._is_full = self.num_blocks <= sparsity.max_full_attention_blocks

    def kind(self, query: int, key: int) -> str:
        """Returns why a block of queries reads a block of keys."""
        if self._is_full or not self._layout.is_middle(query, self.num_blocks):
            return FULL
        if not self._layout.is_middle(key, self.num_blocks):
            return GLOBAL
        return WINDOW if abs(query - key) <= self._layout.window_radius else RANDOM


def token_lists(
    outputs: dict[str, np.ndarray],
    layout: Layout,
    position: int,
    num_tokens: int,
    layers: Sequence[int],
    heads: Sequence[int],
    top_k: int,
) -> list[dict[str, Any]]:
    """Returns the tokens with the highest weights that a token reads, and that read it.

    Args:
      outputs: `reads` and `read_by`, `[L, N, T]` each.
      layout: The layout of the text.
      position: The position of the token.
      num_tokens: The number of tokens of the text.
      layers: The indices of layers.
      heads: The indices of heads.
      top_k: The maximum number of tokens of each list.
    """
    own = position // layout.size

    def listed(name: str, layer: int, head: int) -> dict[str, Any]:
        weights = outputs[name][layer, head, :num_tokens]
        best = np.argsort(-weights, kind="stable")[:top_k]
        best = best[weights[best] > MIN_WEIGHT]
        blocks = best // layout.size
        pairs = [(own, b) if name == "reads" else (b, own) for b in blocks.tolist()]
        return {
            "positions": best.tolist(),
            "weights": _rounded(weights[best]),
            "kinds": "".join(layout.kind(*pair) for pair in pairs),
        }

    return [
        {
            "layer": layer,
            "heads": [
                {
                    "head": head,
                    "reads": listed("reads", layer, head),
                    "read_by": listed("read_by", layer, head),
                }
                for head in heads
            ],
        }
        for layer in layers
    ]


def block_lists(
    weights: np.ndarray, layout: Layout, layers: Sequence[int], heads: Sequence[int]
) -> list[dict[str, Any]]:
    """Returns the blocks that each block reads.

    Args:
      weights: `[L, N, M, M]`.
      layout: The layout of the text.
      layers: The indices of layers.
      heads: The indices of heads.
    """

    def row(layer: int, head: int, query: int) -> dict[str, Any]:
        values = weights[layer, head, query, : layout.num_blocks]
        blocks = np.flatnonzero(values > MIN_WEIGHT)
        kinds = "".join(layout.kind(query, key) for key in blocks.tolist())
        return {"blocks": blocks.tolist(), "weights": _rounded(values[blocks]), "kinds": kinds}

    return [
        {
            "layer": layer,
            "heads": [
                {"head": head, "rows": [row(layer, head, n) for n in range(layout.num_blocks)]}
                for head in heads
            ],
        }
        for layer in layers
    ]


def _rounded(weights: np.ndarray) -> list[float]:
    return np.round(weights.astype(np.float64), 6).tolist()
