"""The blocks that a row may draw as random ones: those outside its window and the global blocks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_bigbird.attention.patterns.layout import Layout


def num_eligible(num_blocks: Any, max_blocks: int, causal: bool, layout: Layout) -> Any:
    """Returns how many blocks rows `0..max_blocks-1` may draw.

    Args:
      num_blocks: The number of blocks of an example, an integer or traced, `[..., 1]`. Rows past it
        may draw none.
      max_blocks: M, the number of rows.
      causal: Whether a row may draw only blocks before itself.
      layout: The window and the global blocks.

    Returns:
      `[..., M]` integers.
    """
    xp = jnp if isinstance(num_blocks, jax.Array) else np
    row = np.arange(max_blocks)
    before = np.maximum(row - layout.window_radius - layout.num_leading, 0)
    if causal:
        return before.astype(np.int32)
    after = xp.maximum(num_blocks - layout.num_trailing - 1 - row - layout.window_radius, 0)
    middle = layout.is_middle(row, num_blocks)
    return xp.where(middle, before + after, 0).astype(xp.int32)


def nth_eligible(rank: Any, row: Any, causal: bool, layout: Layout) -> Any:
    """Returns the block at a rank among those that a row may draw, in order of their ids."""
    if causal:
        return rank + layout.num_leading
    xp = np if isinstance(rank, np.ndarray) else jnp
    before = xp.maximum(row - layout.window_radius - layout.num_leading, 0)
    after_window = rank - before + row + layout.window_radius + 1
    return xp.where(rank < before, rank + layout.num_leading, after_window)
