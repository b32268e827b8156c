"""Blocks that a user marks as global, as Longformer's `global_attention_mask` does."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from flax_bigbird.attention.patterns.block_pattern import BlockPattern, add_far_reads


def user_global_blocks(
    user_global: Bool[Array, "B T"], block_size: int, max_user_global_blocks: int
) -> tuple[Int[Array, "B G"], Bool[Array, " B"]]:
    """Returns the blocks that hold a marked token.

    Args:
      user_global: True at the tokens whose blocks become global.
      block_size: W, in tokens.
      max_user_global_blocks: G, the maximum number of such blocks per example.

    Returns:
      The block ids, -1 for none; and whether each example has more than G such blocks.
    """
    padded = jnp.pad(user_global, ((0, 0), (0, -user_global.shape[1] % block_size)))
    marked = padded.reshape(len(user_global), -1, block_size).any(-1)
    num_blocks = marked.shape[1]
    ids = jnp.sort(jnp.where(marked, np.arange(num_blocks), num_blocks), axis=-1)
    ids = ids[:, : min(max_user_global_blocks, num_blocks)]
    ids = jnp.where(ids < num_blocks, ids, -1).astype(jnp.int32)
    return ids, marked.sum(-1) > max_user_global_blocks


def add_global_blocks(pattern: BlockPattern, global_blocks: Int[Array, "B G"]) -> BlockPattern:
    """Returns an encoder's pattern with more global blocks.

    Every row reads them, and their own rows read everything. A row that already lists such a block
    reads it as often as before; any other row reads it once.

    Args:
      pattern: The pattern of an encoder, with at least one global row.
      global_blocks: The block ids of each example, -1 for none.
    """
    blocks, counts = jnp.asarray(pattern.blocks), jnp.asarray(pattern.counts)
    batch = len(global_blocks)
    ids = global_blocks[:, None, None, :]
    listed = ((blocks[..., None] == ids[..., None, :]) & (counts > 0)[..., None]).any(-2)
    reads = (ids >= 0) & ~listed  # [B, #N, M, G]
    shape = (batch, *blocks.shape[1:])
    new_ids = jnp.broadcast_to(jnp.maximum(ids, 0), reads.shape)
    blocks = jnp.concatenate([jnp.broadcast_to(blocks, shape), new_ids], -1)
    counts = jnp.concatenate([jnp.broadcast_to(counts, shape), reads.astype(counts.dtype)], -1)
    rows = jnp.asarray(pattern.global_rows)
    rows = jnp.broadcast_to(rows, (batch, rows.shape[1]))
    # An unused entry names a row that is global anyway.
    rows = jnp.concatenate([rows, jnp.where(global_blocks >= 0, global_blocks, rows[:, :1])], -1)
    far_reads = add_far_reads(pattern.far_reads, global_blocks.shape[1])
    return BlockPattern(blocks, counts, rows, pattern.block_size, pattern.causal, far_reads)
