"""BigBird's pattern: global, window and random blocks.

    an encoder, M = 8, no random blocks               a causal decoder
      k 0 1 2 3 4 5 6 7                                 k 0 1 2 3 4 5 6 7
    q 0 x x x x x x x x   <- global row               q 0 \\
      1 x x x         x                                 1 x \\
      2 x x x x       x                                 2 x x \\
      3 x   x x x     x                                 3 x   x \\
      4 x     x x x   x                                 4 x     x \\
      5 x       x x x x                                 5 x       x \\
      6 x         x x x                                 6 x         x \\
      7 x x x x x x x x   <- global row                 7 x           x \\

Source: Zaheer et al. 2020, arXiv 2007.14062, section 2 and appendix D.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from flax_bigbird.attention.patterns.block_pattern import (
    BlockPattern,
    IntArray,
    check_pattern_sizes,
    merge_repeats,
)
from flax_bigbird.attention.patterns.layout import BIGBIRD, Layout


def bigbird_pattern(
    num_blocks: int | Int[Array, " B"],
    block_size: int,
    *,
    max_blocks: int | None = None,
    random: IntArray | None = None,
    extra_first: int = 0,
    causal: bool = False,
    layout: Layout = BIGBIRD,
) -> BlockPattern:
    """Builds BigBird's pattern (paper, section 2), for a whole batch or for each example.

        M = 5; an example of 3 blocks      one of 5 blocks
          k 0 1 2 3 4                        k 0 1 2 3 4
        q 0 x x x    <- global row         q 0 x x x x x   <- global row
          1 x x x                            1 x x x   x
          2 x x x    <- global row           2 x x x x x
          3            (padding)             3 x   x x x
          4                                  4 x x x x x   <- global row

    Args:
      num_blocks: M, or the number of blocks of each example, traced, in `1..max_blocks`. The
        second needs an encoder: a row of a decoder does not depend on how many rows there are.
      block_size: W, in tokens.
      max_blocks: M, if `num_blocks` is an array.
      random: Random block ids for each head and row, `[N, M, R]` or `[#B, N, M, R]`, static or
        traced, with -1 for none. Repeated ids, and ids inside the window or among the global
        blocks, count as often as they are listed.
      extra_first: How many more times block 0 counts in every row that is not global. Both Hugging
        Face ports list block 0 where their random blocks would be in evaluation (transformers
        issue 23055).
      causal: Whether to build a decoder's pattern: the leading blocks, then the row's window up to
        itself. No row and no trailing block is global.
      layout: How many blocks are global and how wide the window is.

    Returns:
      A pattern of at most `layout.row_width` + R entries per row. It is static if `num_blocks` and
      `random` are. The blocks after an example's last must be masked as keys by the caller.

    Raises:
      ValueError: If `num_blocks` is an array and `causal` is True, or `max_blocks` is missing; or
        if a size is too large.
    """
    if isinstance(num_blocks, jax.Array):
        if causal or max_blocks is None:
            raise ValueError(
                "a pattern for each example needs causal=False and max_blocks; got "
                f"causal={causal} and max_blocks={max_blocks}: pass one integer num_blocks instead"
            )
        per_example: Any = num_blocks
        rows = max_blocks
    else:
        per_example, rows = np.array([num_blocks]), num_blocks
    check_pattern_sizes(rows, block_size)
    row = np.arange(rows)
    ids, valid = layout.fixed_blocks(per_example[:, None, None], rows, causal=causal)
    if causal:
        ids, valid = ids[None], valid[None]
    if extra_first:
        extra_rows = (row >= 1 if causal else row >= 0)[:, None]
        ids, valid = _append(ids, np.zeros((1, rows, extra_first), int), valid, extra_rows)
    ids, valid = ids[:, None].astype(np.int32), valid[:, None]
    if random is not None and random.shape[-1]:
        random = random[None] if random.ndim == 3 else random
        ids, valid = _append(ids, random, valid, random >= 0)
    middle = layout.is_middle(row, per_example[:, None])  # [#B, M]
    if not causal:  # global rows read everything, so their lists stay empty
        valid = valid & middle[:, None, :, None]
    blocks, counts = merge_repeats(ids, valid)
    if causal:
        global_rows: Any = np.zeros((1, 0), np.int32)
    elif isinstance(num_blocks, jax.Array):
        global_rows = _global_rows_per_example(num_blocks, layout)
    else:
        global_rows = layout.global_rows(num_blocks)[None]
    num_random = 0 if random is None else random.shape[-1]
    fixed = layout.row_width - 1 + (extra_first > 0)
    far_reads = (fixed, num_random)
    return BlockPattern(blocks, counts, global_rows, block_size, causal, far_reads)


def _append(ids: Any, more: Any, valid: Any, more_valid: Any) -> tuple[Any, Any]:
    """Appends entries to every row; the leading axes broadcast."""
    xp: Any = np if all(isinstance(x, np.ndarray) for x in (ids, more)) else jnp
    lead = np.broadcast_shapes(ids.shape[:-1], more.shape[:-1])

    def join(x: Any, y: Any, width: int) -> Any:
        y = xp.broadcast_to(y, (*lead, width))
        return xp.concatenate([xp.broadcast_to(x, (*lead, x.shape[-1])), y.astype(x.dtype)], -1)

    width = more.shape[-1]
    return join(ids, more, width), join(valid, more_valid, width)


def _global_rows_per_example(num_blocks: Int[Array, " B"], layout: Layout) -> Int[Array, "B G"]:
    """Returns the global rows of each example. A short example may name a row twice, harmlessly."""
    batch = len(num_blocks)
    leading = np.broadcast_to(np.arange(layout.num_leading), (batch, layout.num_leading))
    trailing = num_blocks[:, None] - 1 - np.arange(layout.num_trailing)
    rows = jnp.concatenate([leading, trailing], -1)
    return jnp.clip(rows, 0, num_blocks[:, None] - 1).astype(jnp.int32)


def full_pattern(num_blocks: int, block_size: int, *, causal: bool = False) -> BlockPattern:
    """Builds the static pattern in which every row is global: full attention."""
    check_pattern_sizes(num_blocks, block_size)
    empty = np.zeros((1, 1, num_blocks, 1), np.int32)
    every = np.arange(num_blocks, dtype=np.int32)[None]
    return BlockPattern(empty, empty, every, block_size, causal)
