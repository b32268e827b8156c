"""Computes attention probabilities: of all queries, of selected queries, or averaged by block."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from flax_bigbird.attention.eager import compile_eager
from flax_bigbird.attention.numerics import masked_softmax
from flax_bigbird.attention.patterns.block_pattern import BlockPattern, multiplicities


def token_multiplicities(
    pattern: BlockPattern, mask: Bool[Array | np.ndarray, "B T"] | None = None
) -> Int[Array, "#B #N T T"]:
    """Returns how often each query reads each key, 0 where it does not.

    Args:
      pattern: The pattern; T must be M*W.
      mask: False at keys that are not read.
    """
    size = pattern.block_size
    table = multiplicities(pattern)
    table = jnp.repeat(jnp.repeat(table, size, -1), size, -2)
    if pattern.causal:
        position = jnp.arange(pattern.num_blocks * size)
        table = jnp.where(position <= position[:, None], table, 0)
    if mask is not None:
        table = jnp.where(mask[:, None, None, :], table, 0)
    return table


def attention_probabilities(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    pattern: BlockPattern,
    *,
    mask: Bool[Array | np.ndarray, "B T"] | None = None,
    scale: float,
) -> Float[Array, "B N T T"]:
    """Returns the softmax over the multiset of keys that each query reads.

        p[t, s] = c[t, s] e^z[t, s] / sum_s c[t, s] e^z[t, s],    z = scale q k^T

    Args:
      q, k: Queries and keys; T must be M*W.
      pattern: The pattern, which says how often (c) a query reads a key.
      mask: False at padding.
      scale: Multiplies the scores.

    Returns:
      Probabilities in float32 or more, repeated blocks summed. Rows sum to 1, and to 0 at masked
      queries and at queries that read nothing.
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("btnh,bsnh->bnts", q.astype(dtype), k.astype(dtype)) * scale
    probabilities = masked_softmax(scores, token_multiplicities(pattern, mask))
    if mask is not None:
        probabilities = jnp.where(mask[:, None, :, None], probabilities, 0)
    return probabilities


def token_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    pattern: BlockPattern,
    tokens: Int[Array, " Q"],
    *,
    mask: Bool[Array | np.ndarray, "B T"] | None = None,
    scale: float,
) -> Float[Array, "B N Q T"]:
    """Returns the attention probabilities of some queries over all keys.

    Args:
      q, k: Queries and keys; T may end inside the last block.
      pattern: The pattern.
      tokens: The positions of the queries.
      mask: False at padding.
      scale: Multiplies the scores.

    Returns:
      Probabilities, repeated blocks summed. Rows sum to 1, and to 0 at masked queries.
    """
    length, size = q.shape[1], pattern.block_size
    dtype = q.dtype if q.dtype.itemsize > 4 else jnp.float32
    table = multiplicities(pattern, tokens // size)
    count = jnp.repeat(table, size, axis=-1)[..., :length]
    if pattern.causal:
        count = jnp.where(jnp.arange(length) <= tokens[:, None], count, 0)
    if mask is not None:
        count = jnp.where(mask[:, None, None, :], count, 0)
    scores = jnp.einsum("bqnh,bsnh->bnqs", q[:, tokens], k, preferred_element_type=dtype) * scale
    weights = masked_softmax(scores, count)
    return weights if mask is None else jnp.where(mask[:, None, tokens, None], weights, 0)


def block_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    pattern: BlockPattern,
    *,
    mask: Bool[Array | np.ndarray, "B T"] | None = None,
    scale: float,
) -> Float[Array, "B N M M"]:
    """Returns how much each block of queries attends to each block of keys.

    The loop visits one block of queries at a time, so that the peak memory is one `[B, N, W, T]`
    array and the result.

    Args:
      q, k, pattern, mask, scale: As in `token_attention`.

    Returns:
      The mean over the real queries of a block. Rows sum to 1, and to 0 where a block has none.
    """
    return compile_eager(_block_attention, (float(scale),), q, k, pattern, mask)


def _block_attention(scale: float, q, k, pattern: BlockPattern, mask) -> Array:
    length, size, num_blocks = q.shape[1], pattern.block_size, pattern.num_blocks
    real = jnp.ones(q.shape[:2], bool) if mask is None else mask
    padding = num_blocks * size - length

    def attention_of(block: Array) -> Array:
        tokens = block * size + jnp.arange(size)
        exists = tokens < length
        tokens = jnp.minimum(tokens, length - 1)
        weights = token_attention(q, k, pattern, tokens, mask=mask, scale=scale)
        weights = jnp.pad(weights, ((0, 0),) * 3 + ((0, padding),))
        by_block = weights.reshape(*weights.shape[:3], num_blocks, size).sum(-1)
        counted = (real[:, tokens] & exists)[:, None, :, None]
        num_counted = jnp.maximum(counted.sum(2), 1).astype(by_block.dtype)
        return jnp.where(counted, by_block, 0).sum(2) / num_counted

    return jnp.moveaxis(lax.map(attention_of, jnp.arange(num_blocks)), 0, 2)
