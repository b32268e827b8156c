"""The attention of a text, as lists of what is read: for a token, or for all blocks of a layer."""

from collections.abc import Sequence
from typing import Any

import numpy as np

MIN_WEIGHT = 1e-6  # of what is listed
FULL, GLOBAL, WINDOW, RANDOM = "f", "g", "w", "r"


class Layout:
    """The kinds of blocks of a text: which are global, in the window, or random.

    Args:
      sparsity: The model's configuration.
      num_tokens: The number of tokens of the text.
      padded_length: The number of tokens that it is padded to. Unless the model is
        `padding_invariant`, its pattern is that of this length: the last global blocks of a padded
        text are padding.
    """

    def __init__(self, sparsity: Any, num_tokens: int, padded_length: int):
        self.size = sparsity.block_size
        self.num_blocks = -(-num_tokens // self.size)
        self._layout = sparsity.layout
        self._pattern_blocks = self.num_blocks
        if not sparsity.padding_invariant:
            self._pattern_blocks = -(-padded_length // self.size)
        pattern_length = self._pattern_blocks * self.size
        self._is_full = any(map(sparsity.uses_full_attention, (padded_length, pattern_length)))

    def kind(self, query: int, key: int) -> str:
        """Returns why a block of queries reads a block of keys."""
        if self._is_full or not self._layout.is_middle(query, self._pattern_blocks):
            return FULL
        if not self._layout.is_middle(key, self._pattern_blocks):
            return GLOBAL
        return WINDOW if abs(query - key) <= self._layout.window_radius else RANDOM


def token_lists(
    outputs: dict[str, np.ndarray],
    layout: Layout,
    position: int,
    num_tokens: int,
    layers: Sequence[int],
    heads: Sequence[int] | None,
    top_k: int,
) -> list[dict[str, Any]]:
    """Returns the tokens with the highest weights that a token reads, and that read it.

    Args:
      outputs: `reads` and `read_by`, `[L, N, T]` each.
      layout: The layout of the text.
      position: The position of the token.
      num_tokens: The number of tokens of the text.
      layers: The indices of layers.
      heads: The indices of heads; None for the mean of all heads.
      top_k: The maximum number of tokens of each list.
    """
    own = position // layout.size

    def listed(name: str, layer: int, head: int | None) -> dict[str, Any]:
        every = outputs[name][layer, :, :num_tokens]
        weights = every.mean(0) if head is None else every[head]
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
                for head in ([None] if heads is None else heads)
            ],
        }
        for layer in layers
    ]


def block_lists(
    weights: np.ndarray, layout: Layout, layers: Sequence[int], heads: Sequence[int] | None
) -> list[dict[str, Any]]:
    """Returns the blocks that each block reads.

    Args:
      weights: `[L, N, M, M]`.
      layout: The layout of the text.
      layers: The indices of layers.
      heads: The indices of heads; None for the mean of all heads.
    """

    def row(layer: int, head: int | None, query: int) -> dict[str, Any]:
        every = weights[layer, :, query, : layout.num_blocks]
        values = every.mean(0) if head is None else every[head]
        blocks = np.flatnonzero(values > MIN_WEIGHT)
        kinds = "".join(layout.kind(query, key) for key in blocks.tolist())
        return {"blocks": blocks.tolist(), "weights": _rounded(values[blocks]), "kinds": kinds}

    return [
        {
            "layer": layer,
            "heads": [
                {"head": head, "rows": [row(layer, head, n) for n in range(layout.num_blocks)]}
                for head in ([None] if heads is None else heads)
            ],
        }
        for layer in layers
    ]


def _rounded(weights: np.ndarray) -> list[float]:
    return np.round(weights.astype(np.float64), 6).tolist()
