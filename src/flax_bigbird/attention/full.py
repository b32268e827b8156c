"""`full_attention`, which short inputs, full-attention decoders and cross-attention use."""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from flax_bigbird.attention.backends import cpu, cudnn, xla_full
from flax_bigbird.attention.dispatch import run_first, unavailability
from flax_bigbird.attention.manual_axes import vary_together

# In order of preference. A backend declines a call by raising NotImplementedError.
_IMPLEMENTATIONS: dict[str, Callable[..., Array]] = {
    "cudnn": cudnn.full_attention,
    "cpu": cpu.full_attention,
    "xla": xla_full.full_attention,
}
_UNAVAILABLE: dict[str, Callable[[], str]] = {"cudnn": cudnn.unavailable, "cpu": cpu.unavailable}

FULL_IMPLEMENTATIONS = tuple(_IMPLEMENTATIONS)


def available_full_implementations() -> dict[str, str]:
    """Returns the names of the implementations of full attention, with why one cannot run here.

    The reason is `""` for those that can.
    """
    return unavailability(_IMPLEMENTATIONS, _UNAVAILABLE)


def full_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    *,
    mask: Bool[Array | np.ndarray, "B S"] | None = None,
    causal: bool = False,
    scale: float | None = None,
    implementation: str | None = None,
) -> Float[Array, "B T N H"]:
    """Computes softmax(scale q k^T) v over the keys that the mask leaves.

    Args:
      q, k, v: Queries, keys and values, of one floating dtype.
      mask: False at keys that are not read. All queries are computed, masked or not.
      causal: Whether query t reads keys 0..t only, which needs T = S.
      scale: Multiplies the scores; by default 1/sqrt(H).
      implementation: One of `FULL_IMPLEMENTATIONS`, or None for the first that accepts the call.

    Returns:
      The attended values. Queries that read nothing are 0.

    Raises:
      ValueError: If shapes, dtypes or options do not fit each other, or the name is unknown.
      NotImplementedError: If the implementation that was asked for does not support this call.
    """
    _check(q, k, v, mask, causal)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    q, k, v, mask = vary_together(q, k, v, mask)
    return run_first(
        _IMPLEMENTATIONS, implementation, q, k, v, mask=mask, causal=causal, scale=scale
    )


def _check(q, k, v, mask, causal: bool) -> None:
    """Raises `ValueError` for arrays and options that do not fit each other."""
    fits = q.ndim == k.ndim == 4 and k.shape == v.shape
    if not fits or (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
        raise ValueError(
            "q must have shape [B, T, N, H] and k and v [B, S, N, H] (batch, tokens, heads, head "
            f"width); got {q.shape}, {k.shape} and {v.shape}"
        )
    if not (jnp.issubdtype(q.dtype, jnp.floating) and q.dtype == k.dtype == v.dtype):
        raise ValueError(
            f"q, k and v must have one floating dtype; got {q.dtype}, {k.dtype} and {v.dtype}: "
            "cast them with .astype"
        )
    if causal and q.shape[1] != k.shape[1]:
        raise ValueError(
            f"causal attention needs as many queries as keys; got {q.shape[1]} and {k.shape[1]}: "
            "pass the keys of the same tokens, or a mask"
        )
    if mask is not None and (mask.shape != k.shape[:2] or mask.dtype != jnp.bool_):
        raise ValueError(
            f"mask must be boolean with shape {k.shape[:2]}, one entry per key; got {mask.dtype} "
            f"{mask.shape}: convert it with `mask != 0`"
        )
