"""Dense block-sparse attention: the oracle that defines correctness, in any precision.

It builds the [B, N, T, S] table of multiplicities, so it is for tests, for short inputs and for
handing out attention probabilities, never for speed.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from flax_bigbird.attention.pattern import BlockPattern


def multiplicities(
    pattern: BlockPattern, mask: Bool[Array, "B T"] | None = None
) -> Int[Array, "#B #N T T"]:
    """How often each query reads each key: 0 where it does not. `[#B, #N, T, S]`, S = T."""
    size, num_blocks = pattern.block_size, pattern.num_blocks
    blocks, counts = jnp.asarray(pattern.blocks), jnp.asarray(pattern.counts)
    table = jnp.where(blocks[..., None] == jnp.arange(num_blocks), counts[..., None], 0)
    table = table.sum(-2)  # [#B, #N, M, M]
    rows = jnp.asarray(pattern.global_rows)
    is_global = (rows[:, None, :] == jnp.arange(num_blocks)[:, None]).any(-1)  # [#B, M]
    table = jnp.where(is_global[:, None, :, None], 1, table)
    table = jnp.repeat(jnp.repeat(table, size, -1), size, -2)
    if pattern.causal:
        position = jnp.arange(num_blocks * size)
        table = jnp.where(position <= position[:, None], table, 0)
    if mask is not None:
        table = jnp.where(mask[:, None, None, :], table, 0)
    return table


def attention_probabilities(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    pattern: BlockPattern,
    *,
    mask: Bool[Array, "B T"] | None = None,
    scale: float,
) -> Float[Array, "B N T T"]:
    """softmax over the multiset: p[t, s] = c[t, s] e^(z[t, s]) / sum_s c e^z, z = scale q k^T.

    Repeated blocks are summed. Rows sum to 1, and to 0 at masked queries and empty rows.
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("btnh,bsnh->bnts", q.astype(dtype), k.astype(dtype)) * scale
    count = multiplicities(pattern, mask).astype(dtype)
    reads = count > 0
    top = jnp.where(reads, scores, -jnp.inf).max(-1, keepdims=True)
    top = jnp.where(jnp.isfinite(top), top, 0)
    weight = jnp.where(reads, count * jnp.exp(jnp.where(reads, scores - top, 0)), 0)
    total = weight.sum(-1, keepdims=True)
    probabilities = weight / jnp.where(total > 0, total, 1)
    if mask is not None:
        probabilities = jnp.where(mask[:, None, :, None], probabilities, 0)
    return probabilities


def block_sparse_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    pattern: BlockPattern,
    *,
    mask: Bool[Array, "B T"] | None = None,
    scale: float,
) -> Float[Array, "B T N H"]:
    """Probabilities times values. T must be M*W. See `attention_probabilities`."""
    if mask is not None:
        # A masked token's contents, NaN and inf included, must reach nothing.
        q, k, v = (jnp.where(mask[:, :, None, None], x, 0) for x in (q, k, v))
    probabilities = attention_probabilities(q, k, pattern, mask=mask, scale=scale)
    out = jnp.einsum("bnts,bsnh->btnh", probabilities, v.astype(probabilities.dtype))
    out = out.astype(q.dtype)
    return out if mask is None else jnp.where(mask[:, :, None, None], out, 0)
