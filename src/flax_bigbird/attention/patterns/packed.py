"""Patterns for rows of a batch that hold several examples, each of which attends only to itself.

three examples of 2, 1 and 2 blocks in a row of 6
  k 0 1 2 3 4 5
q 0 x x
  1 x x
  2     x
  3       x x
  4       x x
  5              (padding)
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from flax_bigbird.attention.patterns.block_pattern import BlockPattern


def block_segment_ids(
    segment_ids: Int[Array, "B T"], block_size: int
) -> tuple[Int[Array, "B M"], Bool[Array, " B"]]:
    """Returns the segment of each block.

    Each run of one id is a segment, as it is for the positions of its tokens: two examples of the
    same id are not one, although only padding inside a block separates them.

    Args:
      segment_ids: Which example each token belongs to, 0 for none.
      block_size: W, in tokens.

    Returns:
      The number of each block's segment in its batch row, counted from 1, and 0 for none; and
      whether a segment of each batch row starts inside a block, or has a negative id.
    """
    padded = jnp.pad(segment_ids, ((0, 0), (0, -segment_ids.shape[1] % block_size)))
    is_start = (padded != 0) & (padded != jnp.pad(padded, ((0, 0), (1, 0)))[:, :-1])
    inside = np.arange(padded.shape[1]) % block_size != 0
    invalid = (is_start & inside) | (padded < 0)
    number = jnp.where(padded != 0, jnp.cumsum(is_start, axis=1, dtype=jnp.int32), 0)
    return number.reshape(len(padded), -1, block_size).max(-1), invalid.any(1)


def _first_blocks(segments: Int[Array, "B M"]) -> Int[Array, "B M"]:
    """Returns the first block of each block's segment."""
    row = np.arange(segments.shape[1], dtype=np.int32)
    starts = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
    return jax.lax.cummax(jnp.where(starts, row, 0), axis=1)


def packed_full_pattern(
    segments: Int[Array, "B M"], max_blocks: int, block_size: int, *, causal: bool = False
) -> tuple[BlockPattern, Bool[Array, " B"]]:
    """Builds the pattern in which every block reads all blocks of its segment.

    Args:
      segments: The segment id of each block, 0 for none. Each run of one id is a segment.
      max_blocks: The largest number of blocks of a segment.
      block_size: W, in tokens.
      causal: Whether a block reads its segment up to itself only.

    Returns:
      A traced pattern of `max_blocks` entries per row, without global rows; and whether each
      batch row holds a longer segment, in which case its results are undefined.
    """
    row = np.arange(segments.shape[1], dtype=np.int32)
    start = _first_blocks(segments)
    max_blocks = min(max_blocks, len(row))
    ids = start[:, :, None] + np.arange(max_blocks, dtype=np.int32)
    starts = jnp.take_along_axis(start[:, None], jnp.minimum(ids, len(row) - 1), axis=-1)
    reads = (ids < len(row)) & (starts == start[..., None]) & (segments != 0)[..., None]
    if causal:
        reads &= ids <= row[:, None]
    too_long = jnp.any((row - start >= max_blocks) & (segments != 0), axis=1)
    blocks, counts = jnp.where(reads, ids, 0)[:, None], reads.astype(jnp.int32)[:, None]
    no_rows = np.zeros((1, 0), np.int32)
    far_reads = (2 * (max_blocks - 1), 0)  # the other blocks of the first and last segment
    return BlockPattern(blocks, counts, no_rows, block_size, causal, far_reads), too_long


def packed_causal_pattern(pattern: BlockPattern, segments: Int[Array, "B M"]) -> BlockPattern:
    """Builds the pattern in which every segment reads what it would read in a row of its own.

    Args:
      pattern: A decoder's pattern of M blocks, the same for every example. Its first m rows are the
        pattern of an example of m blocks.
      segments: The segment id of each block, 0 for none. Each run of one id is a segment.
    """
    row = np.arange(segments.shape[1], dtype=np.int32)
    start = _first_blocks(segments)
    shifted = [jnp.asarray(x)[0][:, row - start] for x in (pattern.blocks, pattern.counts)]
    blocks, counts = (jnp.moveaxis(x, 0, 1) for x in shifted)  # [B, #N, M, K]
    counts = jnp.where((segments != 0)[:, None, :, None], counts, 0)
    blocks = blocks + start[:, None, :, None]
    blocks = jnp.where(counts > 0, blocks, 0)
    no_rows = np.zeros((1, 0), np.int32)
    return BlockPattern(blocks, counts, no_rows, pattern.block_size, True, pattern.far_reads)
