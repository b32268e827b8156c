"""Full attention on NVIDIA GPUs by cuDNN's fused kernel, through `jax.nn`.

Some builds of cuDNN have no plan for some GPUs or shapes, which only a call reveals. A trial call
is therefore compared with plain JAX once, and the implementation declines if it fails.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from flax_bigbird.attention.backends import self_test
from flax_bigbird.attention.numerics import zero_masked
from flax_bigbird.attention.platform import current_platform

_DTYPES = ("bfloat16", "float16")
_MAX_MASK_SIZE = 2**28  # entries; cuDNN reads a mask as a bias for each query and key


def unavailable() -> str:
    """Returns why this implementation cannot run here; `""` if it can."""
    if current_platform() != "gpu":
        return f"it runs on NVIDIA GPUs; JAX's default backend is {current_platform()!r}"
    return _failure()


def full_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    *,
    mask: Bool[Array | np.ndarray, "B S"] | None = None,
    causal: bool = False,
    scale: float,
) -> Float[Array, "B T N H"]:
    """Computes softmax(scale q k^T) v over the keys that the mask leaves.

    Raises:
      NotImplementedError: If there is no such GPU, or cuDNN does not support the dtype, the width
        of the heads or the size of the mask.
    """
    reason = unavailable()
    if reason:
        raise NotImplementedError(f"cuDNN's attention is not available: {reason}")
    check_call(q, k, mask)
    return _run(q, k, v, mask=mask, causal=causal, scale=scale)


def check_call(q: Array, k: Array, mask: Array | np.ndarray | None) -> None:
    """Raises `NotImplementedError` for a call that cuDNN's kernel does not support."""
    if q.dtype.name not in _DTYPES:
        raise NotImplementedError(
            f"cuDNN's attention takes {' and '.join(_DTYPES)}; got {q.dtype}: cast, or use "
            "implementation='xla'"
        )
    if q.shape[-1] % 8 or q.shape[-1] > 128:
        raise NotImplementedError(
            "cuDNN's attention takes heads of a multiple of 8 channels up to 128; got "
            f"{q.shape[-1]}"
        )
    if mask is not None and q.shape[0] * q.shape[1] * k.shape[1] > _MAX_MASK_SIZE:
        raise NotImplementedError(
            f"cuDNN's attention takes masks of at most {_MAX_MASK_SIZE:,} entries, examples times "
            f"queries times keys; got {q.shape[0]} x {q.shape[1]} x {k.shape[1]}"
        )


def _run(q, k, v, *, mask, causal: bool, scale: float) -> Array:
    """Runs cuDNN's kernel without the checks."""
    full_mask = None
    if mask is not None:
        k, v = (zero_masked(x, mask) for x in (k, v))
        shape = (q.shape[0], 1, q.shape[1], k.shape[1])
        full_mask = jnp.broadcast_to(mask[:, None, None, :], shape)
    out = jax.nn.dot_product_attention(
        q, k, v, mask=full_mask, scale=scale, is_causal=causal, implementation="cudnn"
    )
    if mask is None:
        return out
    reads = (jnp.cumsum(mask, -1) > 0 if causal else mask.any(-1, keepdims=True))[..., None, None]
    return jnp.where(reads, out, jnp.zeros((), out.dtype))


@functools.cache
def _failure() -> str:
    """Returns why the trial call failed, or `""`. The call runs once per process."""

    def expected(q, k, v, mask):
        return jax.nn.dot_product_attention(
            q, k, v, mask=mask[:, None, None, :], implementation="xla"
        )

    def attend(q, k, v, mask):
        return _run(q, k, v, mask=mask, causal=False, scale=q.shape[-1] ** -0.5)

    return self_test.failure(attend, expected, 128)
