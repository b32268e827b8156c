"""The parts of a pattern that depend on the length of each example of a batch."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from flax_bigbird.attention.patterns.block_pattern import BlockPattern, add_far_reads


def count_example_blocks(mask: Bool[Array, "B T"], block_size: int) -> Int[Array, " B"]:
    """Returns how many blocks each example fills.

    An example ends with its last real token, so that holes and padding on the left are inside it.
    An example without any real token has 1 block.

    Args:
      mask: False at padding.
      block_size: W, in tokens.
    """
    length = mask.shape[1] - jnp.argmax(mask[:, ::-1], axis=1)
    length = jnp.where(mask.any(1), length, 1)
    return -(-length // block_size).astype(jnp.int32)


def read_short_examples_in_full(
    pattern: BlockPattern, num_blocks: Int[Array, " B"], max_full_blocks: int
) -> BlockPattern:
    """Lets short examples attend in full, as they would in a batch of their own.

    Args:
      pattern: The pattern of each example, from `bigbird_pattern`.
      num_blocks: The number of blocks of each example, traced.
      max_full_blocks: Examples of at most this many blocks attend once to each of their blocks.

    Returns:
      A traced pattern of at most max(K, max_full_blocks) entries per row.
    """
    rows = pattern.num_blocks
    width = max(pattern.row_width, min(max_full_blocks, rows))
    more = [(0, 0)] * 3 + [(0, width - pattern.row_width)]
    every = np.arange(width, dtype=np.int32)
    row, num_own = np.arange(rows)[:, None], num_blocks[:, None, None]
    own = ((every < num_own) & (row < num_own))[:, None]  # [B, 1, M, K]
    in_full = (num_blocks <= max_full_blocks)[:, None, None, None]
    blocks = jnp.where(in_full, every, jnp.pad(jnp.asarray(pattern.blocks), more))
    counts = jnp.pad(jnp.asarray(pattern.counts), more)
    counts = jnp.where(in_full, own.astype(counts.dtype), counts)
    blocks = jnp.where(counts > 0, blocks, 0)
    far_reads = add_far_reads(pattern.far_reads, max_full_blocks)
    return dataclasses.replace(pattern, blocks=blocks, counts=counts, far_reads=far_reads)
