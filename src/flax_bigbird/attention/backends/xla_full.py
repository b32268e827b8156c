"""Full attention in plain JAX, for every device, without a `[T, S]` array for a long input.

Large calls are cut into chunks of queries, whose scores are computed a second time in the backward
pass.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from flax_bigbird.attention.eager import compile_eager
from flax_bigbird.attention.numerics import masked_softmax, zero_masked

_MAX_CHUNK_SCORES = 2**24  # scores of a chunk of queries, in all examples and heads together


def full_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    *,
    mask: Bool[Array | np.ndarray, "B S"] | None = None,
    causal: bool = False,
    scale: float,
) -> Float[Array, "B T N H"]:
    """Computes softmax(scale q k^T) v over the keys that the mask leaves."""
    static = (causal, float(scale), _MAX_CHUNK_SCORES)
    return compile_eager(_full_attention, static, q, k, v, mask)


def _full_attention(causal: bool, scale: float, max_chunk_scores: int, q, k, v, mask) -> Array:
    """Computes the attention, with at most so many scores per chunk unless one query has more."""
    batch, length, heads, _ = q.shape
    k, v = (zero_masked(x, mask) for x in (k, v))

    def attend(q: Array, positions: Array) -> Array:
        dtype = q.dtype if q.dtype.itemsize > 4 else jnp.float32
        scores = jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=dtype) * scale
        reads = jnp.ones((1, 1, 1, k.shape[1]), bool)
        if mask is not None:
            reads = mask[:, None, None, :]
        if causal:
            reads = reads & (jnp.arange(k.shape[1]) <= positions[:, None])
        weights = masked_softmax(scores, reads)
        return jnp.einsum("bnts,bsnh->btnh", weights.astype(v.dtype), v)

    examples = batch if isinstance(batch, int) else 1  # a symbolic batch of `jax.export`
    chunk = max(1, max_chunk_scores // max(1, examples * heads * k.shape[1]))
    positions = jnp.arange(length)
    if chunk >= length:
        return attend(q, positions)
    padding = -length % chunk
    q = jnp.pad(q, ((0, 0), (0, padding), (0, 0), (0, 0)))
    steps = (
        jnp.moveaxis(q.reshape(batch, -1, chunk, *q.shape[2:]), 1, 0),
        jnp.pad(positions, (0, padding)).reshape(-1, chunk),
    )
    out = lax.map(lambda step: jax.checkpoint(attend)(*step), steps)
    return jnp.moveaxis(out, 0, 1).reshape(q.shape)[:, :length]
