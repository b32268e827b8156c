"""Block-sparse attention on TPUs: Pallas kernels, forward and backward.

The row lists are prefetched as scalars, and the blocks they name are copied into vector memory
while the step before computes: nothing is gathered in HBM. A step of the grid visits one segment of
a list; the segments of one target follow each other, and what they give is summed in scratch
memory (online softmax, Milakov and Gimelshein 2018, arXiv 1805.02867; backward from the
log-sum-exp, Dao et al. 2022, arXiv 2205.14135). Going backward the gradient of the keys walks the
transposed lists.
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
from flax_bigbird.attention.numerics import MASKED_SCORE, zero_masked
from flax_bigbird.attention.patterns.block_pattern import BlockPattern

_SEGMENT = 8  # blocks that a step visits: each is a copy of its own
_LARGEST = 256  # tokens of a block, and channels of a head
_SUBLANES = {"float32": 8, "bfloat16": 16}  # tokens of a block must be a multiple
_SCALARS = 240_000  # 32-bit words of row lists: scalar memory, 1 MiB, and what else it holds


def unavailable() -> str:
    """Why this implementation cannot run here; `""` if it can."""
    if interpret_mode.on():
        return ""
    if jax.default_backend() != "tpu":
        return f"it runs on TPUs; JAX's default backend is {jax.default_backend()!r}"
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
    """Same contract as the reference; T must be M*W.

    Raises:
      NotImplementedError: no TPU, a dtype other than float32 and bfloat16, sizes that do not fit
        a TPU's tiles, or lists that do not fit its scalar memory.
    """
    _check_call(q, pattern)
    return _run(q, k, v, pattern, mask=mask, scale=scale)


def _run(q, k, v, pattern: BlockPattern, *, mask, scale: float) -> Array:
    from flax_bigbird.attention.backends import mosaic_tpu_kernels

    size = pattern.block_size
    rows = segments_of_rows(pattern, min(_SEGMENT, max(pattern.row_width, 1)))
    columns = segments_of_columns(pattern, _SEGMENT)
    if mask is not None:
        q, k, v = (zero_masked(x, mask) for x in (q, k, v))
        rows = without_padding(rows, mask, size)
        columns = without_padding(columns, mask, size)
    lists = [mosaic_tpu_kernels.Lists.of(x) for x in (rows, columns)]
    if max(of_call.words for of_call in lists) > _SCALARS:
        return _halves(q, k, v, pattern, mask=mask, scale=scale)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    batch, heads, length, width = q.shape
    shape = mosaic_tpu_kernels.Shape(
        float(scale), pattern.causal, size, length, width, heads, batch, interpret_mode.on()
    )
    hidden: Array | None = None
    if mask is not None:
        hidden = jnp.where(mask, 0.0, MASKED_SCORE).astype(jnp.float32).reshape(batch, -1, 1, size)
    out: Array = mosaic_tpu_kernels.attend(shape, q, k, v, mask, hidden, *lists)
    out = jnp.swapaxes(out, 1, 2)
    return zero_masked(out, mask)


def _halves(q, k, v, pattern: BlockPattern, *, mask, scale: float) -> Array:
    """One half of the heads after the other, or of the documents: each has lists half as long."""
    documents, heads = pattern.blocks.shape[:2]
    if max(documents, heads) == 1:
        raise NotImplementedError(
            f"the TPU kernel takes row lists of at most {_SCALARS:,} words; those of one document "
            "are longer: use larger blocks, or implementation='xla'"
        )
    by_head = heads > 1
    middle = (heads if by_head else documents) // 2

    def run(part: slice) -> Array:
        blocks, counts, rows, real = pattern.blocks, pattern.counts, pattern.global_rows, mask
        if by_head:
            arrays = [x[:, :, part] for x in (q, k, v)]
            blocks, counts = blocks[:, part], counts[:, part]
        else:
            arrays = [x[part] for x in (q, k, v)]
            blocks, counts = blocks[part], counts[part]
            rows = rows[part] if len(rows) > 1 else rows
            real = None if mask is None else mask[part]
        of_part = BlockPattern(blocks, counts, rows, pattern.block_size, pattern.causal)
        return _run(arrays[0], arrays[1], arrays[2], of_part, mask=real, scale=scale)

    return jnp.concatenate([run(slice(middle)), run(slice(middle, None))], 2 if by_head else 0)


def _check_call(q: Array, pattern: BlockPattern) -> None:
    reason = unavailable()
    if reason:
        raise NotImplementedError(f"the TPU kernel is not available: {reason}")
    if q.dtype.name not in _SUBLANES:
        raise NotImplementedError(
            f"the TPU kernel takes {' and '.join(_SUBLANES)}; got {q.dtype}: cast, or use "
            "implementation='xla'"
        )
    multiple = _SUBLANES[q.dtype.name]
    if pattern.block_size % multiple and not interpret_mode.on():
        raise NotImplementedError(
            f"the TPU kernel takes blocks of a multiple of {multiple} tokens in {q.dtype}; got "
            f"{pattern.block_size}"
        )
    for what, value in (("blocks of", pattern.block_size), ("heads as wide as", q.shape[-1])):
        if value > _LARGEST:
            raise NotImplementedError(
                f"the TPU kernel takes {what} at most {_LARGEST}; got {value}"
            )
