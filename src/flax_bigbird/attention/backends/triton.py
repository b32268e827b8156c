"""Block-sparse attention on NVIDIA GPUs: fused Pallas kernels for Triton, forward and backward.

One program computes one block of the output. It reads the blocks on its list in place: nothing is
gathered, and scores stay in registers (online softmax, Milakov and Gimelshein 2018, arXiv
1805.02867; backward from the log-sum-exp, Dao et al. 2022, arXiv 2205.14135). Long lists are cut
into work items: a first launch computes the later items as partial results, one program each, and a
second launch computes the first item of every list and adds the partial results. A row that reads
everything therefore takes no longer than the rest, and sums have one order: results are
deterministic. In the backward pass the gradient of the keys walks the transposed lists, without
atomic additions.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from flax_bigbird.attention.backends import interpret_mode, self_test
from flax_bigbird.attention.backends.work_lists import column_work, row_work, skip_padding
from flax_bigbird.attention.numerics import zero_masked
from flax_bigbird.attention.patterns.block_pattern import BlockPattern
from flax_bigbird.attention.platform import current_platform

_ITEM_SIZE = 16  # sources per work item; more than BigBird's ordinary lists have
_MAX_SIZE = 128  # tokens of a block, and channels of a head
_MIN_COMPUTE_CAPABILITY = 8.0
_DTYPES = ("bfloat16", "float16", "float32")


def unavailable() -> str:
    """Returns why this implementation cannot run here; `""` if it can."""
    if interpret_mode.is_enabled():
        return ""
    platform = current_platform()
    if platform != "gpu":
        return f"it runs on NVIDIA GPUs; JAX's default backend is {platform!r}"
    capability = getattr(jax.devices()[0], "compute_capability", None)
    try:
        version = float(capability)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return f"it runs on NVIDIA GPUs; this one is {jax.devices()[0].device_kind}"
    if version < _MIN_COMPUTE_CAPABILITY:
        return (
            f"it needs compute capability {_MIN_COMPUTE_CAPABILITY} or newer; this GPU has "
            f"{capability}"
        )
    return _failure()


@functools.cache
def _failure() -> str:
    """Returns why the trial call failed, or `""`. The call runs once per process."""
    return self_test.block_sparse_failure(_run)


def block_sparse_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    pattern: BlockPattern,
    *,
    mask: Bool[Array | np.ndarray, "B T"] | None = None,
    scale: float,
) -> Float[Array, "B T N H"]:
    """Follows the contract of the reference, except that T need not be a multiple of W.

    Raises:
      NotImplementedError: If there is no such GPU, or it does not support the dtype or the sizes.
    """
    _check_call(q, pattern)
    return _run(q, k, v, pattern, mask=mask, scale=scale)


def _run(q, k, v, pattern: BlockPattern, *, mask, scale: float) -> Array:
    """Runs the kernels without the checks."""
    from flax_bigbird.attention.backends import triton_kernels

    batch, length, heads, width = q.shape
    size = pattern.block_size
    rows = row_work(pattern, max(_ITEM_SIZE, pattern.row_width))
    columns = column_work(pattern, _ITEM_SIZE)
    kernel_mask = None
    if mask is not None:
        q, k, v = (zero_masked(x, mask) for x in (q, k, v))
        rows = skip_padding(rows, mask, size)
        columns = skip_padding(columns, mask, size)
        kernel_mask = mask.astype(jnp.int8)
    shape = triton_kernels.KernelShape(
        float(scale),
        pattern.causal,
        size,
        length,
        width,
        heads,
        batch,
        q.dtype.itemsize,
        interpret_mode.is_enabled(),
    )
    rows, columns = (jax.tree.map(jnp.asarray, x) for x in (rows, columns))
    return triton_kernels.attend(shape, q, k, v, kernel_mask, rows, columns)


def _check_call(q: Array, pattern: BlockPattern) -> None:
    """Raises `NotImplementedError` for a call that the kernel does not support."""
    reason = unavailable()
    if reason:
        raise NotImplementedError(f"the Triton kernel is not available: {reason}")
    if q.dtype not in _DTYPES:
        raise NotImplementedError(
            f"the Triton kernel takes {', '.join(_DTYPES)}; got {q.dtype}: cast, or use "
            "implementation='xla'"
        )
    for what, value in (("blocks of", pattern.block_size), ("heads as wide as", q.shape[-1])):
        if value > _MAX_SIZE:
            raise NotImplementedError(
                f"the Triton kernel takes {what} at most {_MAX_SIZE}; got {value}"
            )
    if q.size >= 2**31:
        raise NotImplementedError(
            f"the Triton kernel addresses arrays of at most 2^31 - 1 entries; got {q.size:,}: use "
            "smaller batches"
        )
    if q.shape[0] * q.shape[2] > 65535:
        raise NotImplementedError(
            "the Triton kernel takes at most 65,535 examples times heads; got "
            f"{q.shape[0]} x {q.shape[2]}: use smaller batches"
        )
