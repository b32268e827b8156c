"""Dense block-sparse attention in plain JAX: the definition that the other backends must match.

It builds `[B, N, T, T]` arrays, so it is meant for tests and short inputs, never for speed.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from flax_bigbird.attention.inspection import attention_probabilities
from flax_bigbird.attention.numerics import zero_masked
from flax_bigbird.attention.patterns.block_pattern import BlockPattern


def block_sparse_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    pattern: BlockPattern,
    *,
    mask: Bool[Array | np.ndarray, "B T"] | None = None,
    scale: float,
) -> Float[Array, "B T N H"]:
    """Computes `attention_probabilities` times the values. T must be M*W."""
    q, k, v = (zero_masked(x, mask) for x in (q, k, v))
    probabilities = attention_probabilities(q, k, pattern, mask=mask, scale=scale)
    out = jnp.einsum("bnts,bsnh->btnh", probabilities, v.astype(probabilities.dtype))
    return zero_masked(out.astype(q.dtype), mask)
