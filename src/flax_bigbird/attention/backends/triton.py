"""Block-sparse attention on NVIDIA GPUs: fused kernels, forward and backward.

One program computes one block of the output, and reads the blocks its list names where they lie:
nothing is gathered, and scores stay in registers (online softmax, Milakov and Gimelshein 2018,
arXiv 1805.02867; backward from the log-sum-exp, Dao et al. 2022, arXiv 2205.14135). Long lists are
cut: a first launch computes their later segments as partial results, one program each, and a
second the first segment of every list, to which it adds the partial ones. So a row that reads
everything takes no longer than the rest, and sums have one order: results are deterministic.
Going backward the gradient of the keys walks the transposed lists, without atomic additions.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from flax_bigbird.attention.backends import interpret_mode, self_test
from flax_bigbird.attention.backends.work_lists import (
    segments_of_columns,
    segments_of_rows,
    without_padding,
)
from flax_bigbird.attention.numerics import zero_masked
from flax_bigbird.attention.patterns.block_pattern import BlockPattern

_SEGMENT = 16  # blocks of a segment; more than BigBird's lists have
_LARGEST = 128  # tokens of a block, and channels of a head
_OLDEST = 8.0  # compute capability
_DTYPES = ("bfloat16", "float16", "float32")


def unavailable() -> str:
    """Why this implementation cannot run here; `""` if it can."""
    if interpret_mode.on():
        return ""
    platform = jax.default_backend()
    if platform != "gpu":
        return f"it runs on NVIDIA GPUs; JAX's default backend is {platform!r}"
    capability = getattr(jax.devices()[0], "compute_capability", None)
    try:
        generation = float(capability)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return f"it runs on NVIDIA GPUs; this one is {jax.devices()[0].device_kind}"
    if generation < _OLDEST:
        return f"it needs compute capability {_OLDEST} or newer; this GPU has {capability}"
    return _fault()


@functools.cache
def _fault() -> str:
    return self_test.sparse_fault(_run)


def block_sparse_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    pattern: BlockPattern,
    *,
    mask: Bool[Array, "B T"] | None = None,
    scale: float,
) -> Float[Array, "B T N H"]:
    """Same contract as the reference; the last row may be part full.

    Raises:
      NotImplementedError: no such GPU, a dtype other than float32, bfloat16 and float16, or sizes
        past what a program can hold.
    """
    _check_call(q, pattern)
    return _run(q, k, v, pattern, mask=mask, scale=scale)


def _run(q, k, v, pattern: BlockPattern, *, mask, scale: float) -> Array:
    from flax_bigbird.attention.backends import triton_kernels

    batch, length, heads, width = q.shape
    size = pattern.block_size
    rows = segments_of_rows(pattern, max(_SEGMENT, pattern.row_width))
    columns = segments_of_columns(pattern, _SEGMENT)
    real = None
    if mask is not None:
        q, k, v = (zero_masked(x, mask) for x in (q, k, v))
        rows = without_padding(rows, mask, size)
        columns = without_padding(columns, mask, size)
        real = mask.astype(jnp.int8)
    shape = triton_kernels.Shape(
        float(scale),
        pattern.causal,
        size,
        length,
        width,
        heads,
        batch,
        q.dtype.itemsize,
        interpret_mode.on(),
    )
    rows, columns = (jax.tree.map(jnp.asarray, x) for x in (rows, columns))
    return triton_kernels.attend(shape, q, k, v, real, rows, columns)


def _check_call(q: Array, pattern: BlockPattern) -> None:
    reason = unavailable()
    if reason:
        raise NotImplementedError(f"the GPU kernel is not available: {reason}")
    if q.dtype not in _DTYPES:
        raise NotImplementedError(
            f"the GPU kernel takes {', '.join(_DTYPES)}; got {q.dtype}: cast, or use "
            "implementation='xla'"
        )
    for what, value in (("blocks of", pattern.block_size), ("heads as wide as", q.shape[-1])):
        if value > _LARGEST:
            raise NotImplementedError(
                f"the GPU kernel takes {what} at most {_LARGEST}; got {value}"
            )
    if q.size >= 2**31:
        raise NotImplementedError(
            f"the GPU kernel addresses arrays of at most 2^31 - 1 entries; got {q.size:,}: use "
            "smaller batches"
        )
    if q.shape[0] * q.shape[2] > 65535:
        raise NotImplementedError(
            "the GPU kernel takes at most 65,535 documents times heads; got "
            f"{q.shape[0]} x {q.shape[2]}: use smaller batches"
        )
