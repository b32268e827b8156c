"""`full_attention`: every query reads every key, for short texts, decoders and cross-attention.

The native kernel keeps its tiles of scores in cache; in plain JAX large calls are cut into chunks
of queries whose scores are computed again going backward, so that neither keeps a `[T, S]` array.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from flax_bigbird.attention import cpu, cudnn
from flax_bigbird.attention.choice import reasons, run_first

_SCORES_AT_ONCE = 2**24  # of a chunk, all documents and heads together


def full_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    *,
    mask: Bool[Array, "B S"] | None = None,
    causal: bool = False,
    scale: float | None = None,
    implementation: str | None = None,
) -> Float[Array, "B T N H"]:
    """softmax(scale q k^T) v over the keys that the mask leaves.

    Args:
      q, k, v: queries, keys, values, one floating dtype.
      mask: False at keys that are not read. Queries are all computed, masked or not.
      causal: query t reads keys 0..t; needs T = S.
      scale: multiplies the scores; default 1/sqrt(H).
      implementation: "cudnn", "cpu", "xla", or None for the first that takes the call.

    Returns:
      The attended values. Queries that read nothing are 0.

    Raises:
      ValueError: shapes, dtypes or options that do not fit each other, or an unknown name.
      NotImplementedError: the implementation that was asked for cannot do this call.
    """
    _check(q, k, v, mask, causal)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    return run_first(
        _IMPLEMENTATIONS, implementation, q, k, v, mask=mask, causal=causal, scale=scale
    )


def _plain(q, k, v, *, mask, causal: bool, scale: float) -> Array:
    """In plain JAX, dense for a chunk of queries."""
    batch, length, heads, _ = q.shape
    if mask is not None:
        # A masked key's contents, NaN and inf included, must reach nothing.
        k, v = (jnp.where(mask[:, :, None, None], x, 0) for x in (k, v))

    def attend(q: Array, positions: Array) -> Array:
        dtype = q.dtype if q.dtype.itemsize > 4 else jnp.float32
        scores = jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=dtype) * scale
        reads = jnp.ones((1, 1, 1, k.shape[1]), bool)
        if mask is not None:
            reads = mask[:, None, None, :]
        if causal:
            reads = reads & (jnp.arange(k.shape[1]) <= positions[:, None])
        scores = jnp.where(reads, scores, jnp.finfo(dtype).min)
        weights = jnp.where(reads, jax.nn.softmax(scores, axis=-1), 0)
        return jnp.einsum("bnts,bsnh->btnh", weights.astype(v.dtype), v)

    chunk = max(1, _SCORES_AT_ONCE // max(1, batch * heads * k.shape[1]))
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


# In order of preference.
_IMPLEMENTATIONS: dict[str, Callable[..., Array]] = {
    "cudnn": cudnn.full_attention,
    "cpu": cpu.full_attention,
    "xla": _plain,
}
_UNAVAILABLE: dict[str, Callable[[], str]] = {"cudnn": cudnn.unavailable, "cpu": cpu.unavailable}


def available_full_implementations() -> dict[str, str]:
    """As `available_implementations`, of full attention."""
    return reasons(_IMPLEMENTATIONS, _UNAVAILABLE)


def _check(q, k, v, mask, causal: bool) -> None:
    if (
        q.ndim != 4
        or k.shape != v.shape
        or k.ndim != 4
        or np.delete(q.shape, 1).tolist() != (np.delete(k.shape, 1).tolist())
    ):
        raise ValueError(
            "q must have shape [B, T, N, H] and k and v [B, S, N, H] (batch, tokens, heads, head "
            f"width); got {q.shape}, {k.shape} and {v.shape}"
        )
    if not (jnp.issubdtype(q.dtype, jnp.floating) and q.dtype == k.dtype == v.dtype):
        raise ValueError(
            f"q, k and v must share one floating dtype; got {q.dtype}, {k.dtype} and {v.dtype}: "
            "cast them with .astype"
        )
    if causal and q.shape[1] != k.shape[1]:
        raise ValueError(
            f"causal attention needs as many queries as keys; got {q.shape[1]} and {k.shape[1]}: "
            "pass the keys of the same tokens, or a mask"
        )
    if mask is not None and (mask.shape != k.shape[:2] or mask.dtype != jnp.bool_):
        raise ValueError(
            f"mask must be boolean with shape {k.shape[:2]}, one entry a key; got {mask.dtype} "
            f"{mask.shape}: make it with `mask != 0`"
        )
