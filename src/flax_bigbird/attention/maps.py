"""Attention probabilities of a long document, a strip at a time: never a `[T, S]` array."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from flax_bigbird.attention.pattern import BlockPattern


def attention_rows(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    pattern: BlockPattern,
    rows: Int[Array, " Q"],
    *,
    mask: Bool[Array, "B T"] | None = None,
    scale: float,
) -> Float[Array, "B N Q T"]:
    """What the queries `rows` read of each key; repeated blocks summed.

    Rows sum to 1, and to 0 at masked queries. T may end inside the last block.
    """
    length, size, num_blocks = q.shape[1], pattern.block_size, pattern.num_blocks
    dtype = q.dtype if q.dtype.itemsize > 4 else jnp.float32
    own = rows // size
    blocks, counts = (jnp.asarray(x)[:, :, own] for x in (pattern.blocks, pattern.counts))
    listed = blocks[..., None] == jnp.arange(num_blocks)
    table = jnp.where(listed, counts[..., None], 0).sum(-2)  # [#B, #N, Q, M]
    global_rows = jnp.asarray(pattern.global_rows)
    is_global = (global_rows[:, :, None] == own).any(1)  # [#B, Q]
    table = jnp.where(is_global[:, None, :, None], 1, table)
    count = jnp.repeat(table, size, axis=-1)[..., :length].astype(dtype)
    if pattern.causal:
        count = jnp.where(jnp.arange(length) <= rows[:, None], count, 0)
    if mask is not None:
        k = jnp.where(mask[:, :, None, None], k, 0)
        count = jnp.where(mask[:, None, None, :], count, 0)
    scores = jnp.einsum("bqnh,bsnh->bnqs", q[:, rows], k, preferred_element_type=dtype) * scale
    top = jnp.where(count > 0, scores, -jnp.inf).max(-1, keepdims=True)
    scores = jnp.where(count > 0, scores - jnp.where(jnp.isfinite(top), top, 0), 0)
    weights = count * jnp.exp(scores)
    total = weights.sum(-1, keepdims=True)
    weights = weights / jnp.where(total > 0, total, 1)
    return weights if mask is None else jnp.where(mask[:, None, rows, None], weights, 0)


def block_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    pattern: BlockPattern,
    *,
    mask: Bool[Array, "B T"] | None = None,
    scale: float,
) -> Float[Array, "B N M M"]:
    """What each block of queries reads of each block of keys: the mean over its real queries.

    Rows sum to 1, and to 0 where a block has no real query. One block of queries at a time is
    compared with all keys: memory is that of `[B, N, W, T]` and of the result.
    """
    length, size, num_blocks = q.shape[1], pattern.block_size, pattern.num_blocks
    real = jnp.ones(q.shape[:2], bool) if mask is None else mask
    padding = num_blocks * size - length

    def strip(block: Array) -> Array:
        rows = block * size + jnp.arange(size)
        there = rows < length
        rows = jnp.minimum(rows, length - 1)
        weights = attention_rows(q, k, pattern, rows, mask=mask, scale=scale)
        weights = jnp.pad(weights, ((0, 0),) * 3 + ((0, padding),))
        by_block = weights.reshape(*weights.shape[:3], num_blocks, size).sum(-1)
        counted = (real[:, rows] & there)[:, None, :, None]
        number = jnp.maximum(counted.sum(2), 1)
        return jnp.where(counted, by_block, 0).sum(2) / number

    return jnp.moveaxis(lax.map(strip, jnp.arange(num_blocks)), 0, 2)
