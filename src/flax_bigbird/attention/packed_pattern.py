"""Patterns of rows that hold several documents, each of which reads itself alone.

three documents of 2, 1 and 2 blocks in a row of 6
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

from flax_bigbird.attention.pattern import BlockPattern


def segments_of_blocks(
    segment_ids: Int[Array, "B T"], block_size: int
) -> tuple[Int[Array, "B M"], Bool[Array, " B"]]:
    """Each block's document, 0 for none, and in which rows a block holds two documents."""
    padded = jnp.pad(segment_ids, ((0, 0), (0, -segment_ids.shape[1] % block_size)))
    blocks = padded.reshape(len(segment_ids), -1, block_size)
    segments = blocks.max(-1)
    mixed = (blocks != 0) & (blocks != segments[..., None])
    return segments.astype(jnp.int32), mixed.any((1, 2))


def _first_blocks(segments: Int[Array, "B M"]) -> Int[Array, "B M"]:
    """The block in which each block's document begins."""
    row = np.arange(segments.shape[1], dtype=np.int32)
    begins = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
    return jax.lax.cummax(jnp.where(begins, row, 0), axis=1)


def packed_in_full(
    segments: Int[Array, "B M"], most: int, block_size: int, *, causal: bool = False
) -> tuple[BlockPattern, Bool[Array, " B"]]:
    """Every block reads all blocks of its document (with `causal`, up to itself).

    Args:
      segments: each block's document, 0 for none; a run of one number is a document.
      most: blocks a document may have.

    Returns:
      A traced pattern without global rows, of `most` entries a row, and which rows hold a longer
      document: their results are not defined.
    """
    row = np.arange(segments.shape[1], dtype=np.int32)
    start = _first_blocks(segments)
    most = min(most, len(row))
    ids = start[:, :, None] + np.arange(most, dtype=np.int32)
    starts = jnp.take_along_axis(start[:, None], jnp.minimum(ids, len(row) - 1), axis=-1)
    reads = (ids < len(row)) & (starts == start[..., None]) & (segments != 0)[..., None]
    if causal:
        reads &= ids <= row[:, None]
    too_long = jnp.any((row - start >= most) & (segments != 0), axis=1)
    blocks, counts = jnp.where(reads, ids, 0)[:, None], reads.astype(jnp.int32)[:, None]
    none = np.zeros((1, 0), np.int32)
    return BlockPattern(blocks, counts, none, block_size, causal), too_long


def packed_as_alone(alone: BlockPattern, segments: Int[Array, "B M"]) -> BlockPattern:
    """Every document reads as `alone` has it, a decoder's pattern of M blocks.

    Args:
      alone: causal, shared by the documents of a batch, without global rows: its first m rows are
        the pattern of a document of m blocks.
      segments: each block's document, 0 for none; a run of one number is a document.
    """
    row = np.arange(segments.shape[1], dtype=np.int32)
    start = _first_blocks(segments)
    taken = [jnp.asarray(x)[0][:, row - start] for x in (alone.blocks, alone.counts)]
    blocks, counts = (jnp.moveaxis(x, 0, 1) for x in taken)  # [B, #N, M, K]
    counts = jnp.where((segments != 0)[:, None, :, None], counts, 0)
    blocks = blocks + start[:, None, :, None]
    blocks = jnp.where(counts > 0, blocks, 0)
    return BlockPattern(blocks, counts, np.zeros((1, 0), np.int32), alone.block_size, True)
