"""Block-sparse attention on TPUs: Pallas kernels for Mosaic, forward and backward.

The row lists are prefetched as scalars, and the blocks that they name are copied into vector memory
while the step before computes: nothing is gathered in HBM. A step of the grid visits one work item;
the items of one target follow each other, and their results are summed in scratch memory (online
softmax, Milakov and Gimelshein 2018, arXiv 1805.02867; backward from the log-sum-exp, Dao et al.
2022, arXiv 2205.14135). In the backward pass the gradient of the keys walks the transposed lists.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from flax_bigbird.attention.backends import interpret_mode, self_test
from flax_bigbird.attention.backends.work_lists import column_work, row_work, skip_padding
from flax_bigbird.attention.numerics import MASKED_SCORE, zero_masked
from flax_bigbird.attention.patterns.block_pattern import BlockPattern
from flax_bigbird.attention.platform import current_platform

_ITEM_SIZE = 8  # blocks that a step visits; each is copied by itself
_MAX_SIZE = 256  # tokens of a block, and channels of a head
_SUBLANES = {"float32": 8, "bfloat16": 16}  # the tokens of a block must be a multiple
_MAX_WORDS = 240_000  # 32-bit words of row lists in scalar memory, which has 1 MiB


def unavailable() -> str:
    """Returns why this implementation cannot run here; `""` if it can."""
    if interpret_mode.is_enabled():
        return ""
    if current_platform() != "tpu":
        return f"it runs on TPUs; JAX's default backend is {current_platform()!r}"
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
    """Follows the contract of the reference. T must be M*W.

    Raises:
      NotImplementedError: If there is no TPU, if the dtype or the sizes do not fit its tiles, or if
        the lists do not fit its scalar memory.
    """
    _check_call(q, pattern)
    return _run(q, k, v, pattern, mask=mask, scale=scale)


def _run(q, k, v, pattern: BlockPattern, *, mask, scale: float) -> Array:
    """Runs the kernels without the checks."""
    from flax_bigbird.attention.backends import mosaic_tpu_kernels
    from flax_bigbird.attention.backends.mosaic_tpu_program import ScalarWorkList

    size = pattern.block_size
    rows = row_work(pattern, min(_ITEM_SIZE, max(pattern.row_width, 1)))
    columns = column_work(pattern, _ITEM_SIZE)
    if mask is not None:
        q, k, v = (zero_masked(x, mask) for x in (q, k, v))
        rows = skip_padding(rows, mask, size)
        columns = skip_padding(columns, mask, size)
    work = [ScalarWorkList.from_work(x) for x in (rows, columns)]
    if max(x.words for x in work) > _MAX_WORDS:
        return _run_halves(q, k, v, pattern, mask=mask, scale=scale)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    batch, heads, length, width = q.shape
    shape = mosaic_tpu_kernels.KernelShape(
        float(scale), pattern.causal, size, length, width, heads, batch, interpret_mode.is_enabled()
    )
    key_bias: Array | None = None
    if mask is not None:
        key_bias = jnp.where(mask, 0.0, MASKED_SCORE).astype(jnp.float32)
        key_bias = key_bias.reshape(batch, -1, 1, size)
    out: Array = mosaic_tpu_kernels.attend(shape, q, k, v, mask, key_bias, *work)
    return zero_masked(jnp.swapaxes(out, 1, 2), mask)


def _run_halves(q, k, v, pattern: BlockPattern, *, mask, scale: float) -> Array:
    """Runs the heads, or the examples, in two halves, each of which has shorter lists."""
    examples, heads = pattern.blocks.shape[:2]
    if max(examples, heads) == 1:
        raise NotImplementedError(
            f"the TPU kernel takes row lists of at most {_MAX_WORDS:,} words; those of one example "
            "are longer: use larger blocks, or implementation='xla'"
        )
    by_head = heads > 1
    middle = (heads if by_head else examples) // 2

    def run(part: slice) -> Array:
        blocks, counts, rows, half_mask = pattern.blocks, pattern.counts, pattern.global_rows, mask
        if by_head:
            arrays = [x[:, :, part] for x in (q, k, v)]
            blocks, counts = blocks[:, part], counts[:, part]
        else:
            arrays = [x[part] for x in (q, k, v)]
            blocks, counts = blocks[part], counts[part]
            rows = rows[part] if len(rows) > 1 else rows
            half_mask = None if mask is None else mask[part]
        half = BlockPattern(blocks, counts, rows, pattern.block_size, pattern.causal)
        return _run(arrays[0], arrays[1], arrays[2], half, mask=half_mask, scale=scale)

    return jnp.concatenate([run(slice(middle)), run(slice(middle, None))], 2 if by_head else 0)


def _check_call(q: Array, pattern: BlockPattern) -> None:
    """Raises `NotImplementedError` for a call that the kernel does not support."""
    reason = unavailable()
    if reason:
        raise NotImplementedError(f"the TPU kernel is not available: {reason}")
    if q.dtype.name not in _SUBLANES:
        raise NotImplementedError(
            f"the TPU kernel takes {' and '.join(_SUBLANES)}; got {q.dtype}: cast, or use "
            "implementation='xla'"
        )
    multiple = _SUBLANES[q.dtype.name]
    if pattern.block_size % multiple and not interpret_mode.is_enabled():
        raise NotImplementedError(
            f"the TPU kernel takes blocks of a multiple of {multiple} tokens in {q.dtype}; got "
            f"{pattern.block_size}"
        )
    for what, value in (("blocks of", pattern.block_size), ("heads as wide as", q.shape[-1])):
        if value > _MAX_SIZE:
            raise NotImplementedError(
                f"the TPU kernel takes {what} at most {_MAX_SIZE}; got {value}"
            )
