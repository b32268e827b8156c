"""`block_sparse_attention`: checks the call, picks an implementation, runs it."""

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from flax_bigbird.attention import cpu, gpu, reference, tpu, xla
from flax_bigbird.attention.choice import reasons, run_first
from flax_bigbird.attention.pattern import BlockPattern


def _whole_blocks(function: Callable[..., Array]) -> Callable[..., Array]:
    """For an implementation that needs T = M*W: pads the last block, and crops the output."""

    @functools.wraps(function)
    def run(q, k, v, pattern: BlockPattern, *, mask, scale: float) -> Array:
        length = q.shape[1]
        padding = pattern.num_blocks * pattern.block_size - length
        if not padding:
            return function(q, k, v, pattern, mask=mask, scale=scale)
        if mask is None:
            mask = jnp.ones(q.shape[:2], bool)
        mask = jnp.pad(mask, ((0, 0), (0, padding)))
        q, k, v = (jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))) for x in (q, k, v))
        return function(q, k, v, pattern, mask=mask, scale=scale)[:, :length]

    return run


# In order of preference. A backend declines a call by raising NotImplementedError.
_IMPLEMENTATIONS: dict[str, Callable[..., Array]] = {
    "gpu": gpu.block_sparse_attention,
    "tpu": _whole_blocks(tpu.block_sparse_attention),
    "cpu": cpu.block_sparse_attention,
    "xla": _whole_blocks(xla.block_sparse_attention),
    "reference": _whole_blocks(reference.block_sparse_attention),
}
# Why an implementation cannot run on this machine at all; those without an entry always can.
_UNAVAILABLE: dict[str, Callable[[], str]] = {
    "gpu": gpu.unavailable,
    "tpu": tpu.unavailable,
    "cpu": cpu.unavailable,
}


def available_implementations() -> dict[str, str]:
    """Each implementation's name and what it is: `""` means it runs here, else why it does not."""
    return reasons(_IMPLEMENTATIONS, _UNAVAILABLE)


def block_sparse_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    pattern: BlockPattern,
    *,
    mask: Bool[Array, "B T"] | None = None,
    scale: float | None = None,
    implementation: str | None = None,
) -> Float[Array, "B T N H"]:
    """Attention in which each block of queries reads the key blocks that `pattern` lists.

    out[t] = sum_s c[t, s] e^(z[t, s]) v[s] / sum_s c[t, s] e^(z[t, s]),  z = scale q k^T

    where c counts how often the pattern lists the key's block (a multiset: paper, appendix D).

    Args:
      q, k, v: queries, keys, values, one floating dtype. T need not be a multiple of W: it must
        fill the pattern's M blocks but for part of the last.
      pattern: which blocks each row reads; see `BlockPattern`.
      mask: False at padding: never read as a key, and its own output is 0.
      scale: multiplies the scores; default 1/sqrt(H).
      implementation: one of `available_implementations()`; None picks the fastest that takes
        the call.

    Returns:
      The attended values. Rows that read nothing are 0.

    Raises:
      ValueError: shapes, dtypes or the pattern do not fit each other, or an unknown name.
      NotImplementedError: the implementation that was asked for cannot do this call.
    """
    _check(q, k, v, pattern, mask)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    return run_first(_IMPLEMENTATIONS, implementation, q, k, v, pattern, mask=mask, scale=scale)


def _check(q, k, v, pattern: BlockPattern, mask) -> None:
    if q.ndim != 4 or not q.shape == k.shape == v.shape:
        raise ValueError(
            "q, k and v must have one shape [B, T, N, H] (batch, tokens, heads, head width); "
            f"got {q.shape}, {k.shape} and {v.shape}"
        )
    if not (jnp.issubdtype(q.dtype, jnp.floating) and q.dtype == k.dtype == v.dtype):
        raise ValueError(
            f"q, k and v must share one floating dtype; got {q.dtype}, {k.dtype} and {v.dtype}: "
            "cast them with .astype"
        )
    if pattern.blocks.ndim != 4:
        raise ValueError(
            "pattern.blocks must have shape [B or 1, N or 1, M, K] (documents, heads, rows, "
            f"entries); got {pattern.blocks.shape}"
        )
    batch, length, heads, _ = q.shape
    size, rows = pattern.block_size, pattern.num_blocks
    if size < 1 or -(-length // size) != rows:
        raise ValueError(
            f"the pattern has {rows} rows of {size} tokens, for {(rows - 1) * size + 1} to "
            f"{rows * size} tokens; q has {length}: build the pattern for "
            f"{-(-length // max(size, 1))} blocks"
        )
    if pattern.blocks.shape != pattern.counts.shape:
        raise ValueError(
            "pattern.blocks and pattern.counts must have one shape; "
            f"got {pattern.blocks.shape} and {pattern.counts.shape}"
        )
    for axis, got, want in zip(("B", "N"), pattern.blocks.shape, (batch, heads), strict=False):
        if got not in (1, want):
            raise ValueError(
                f"the pattern's axis {axis} must be 1 or {want}, as q's; got {got}: build the "
                "pattern for these arrays, or with an axis of size 1 to share it"
            )
    if pattern.global_rows.ndim != 2 or pattern.global_rows.shape[0] not in (1, batch):
        raise ValueError(
            f"pattern.global_rows must have shape [1 or {batch}, G]; "
            f"got {pattern.global_rows.shape}"
        )
    for name, ids in (("block ids", pattern.blocks), ("global rows", pattern.global_rows)):
        if isinstance(ids, np.ndarray) and ids.size:  # a traced pattern cannot be read
            low, high = ids.min(), ids.max()
            if low < 0 or high >= rows:
                raise ValueError(
                    f"{name} must lie in 0..{rows - 1} (the pattern has {rows} rows); "
                    f"got {low} to {high}"
                )
    if mask is not None and (mask.shape != (batch, length) or mask.dtype != jnp.bool_):
        raise ValueError(
            f"mask must be boolean with shape {(batch, length)}; got {mask.dtype} {mask.shape}: "
            "make it with `mask != 0`"
        )
