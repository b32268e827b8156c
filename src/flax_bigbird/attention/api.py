"""`block_sparse_attention`, which checks the call, picks an implementation and runs it."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from flax_bigbird._messages import pluralize
from flax_bigbird.attention.backends import cpu, mosaic_tpu, reference, triton, xla
from flax_bigbird.attention.dispatch import run_first, unavailability
from flax_bigbird.attention.manual_axes import vary_together
from flax_bigbird.attention.numerics import Dimension
from flax_bigbird.attention.patterns.block_pattern import MAX_BLOCK_SIZE, BlockPattern


def _pad_last_block(function: Callable[..., Array]) -> Callable[..., Array]:
    """Wraps a backend that needs T = M*W: pads the last block and crops the output."""

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
    "triton": triton.block_sparse_attention,
    "mosaic_tpu": _pad_last_block(mosaic_tpu.block_sparse_attention),
    "cpu": cpu.block_sparse_attention,
    "xla": _pad_last_block(xla.block_sparse_attention),
    "reference": _pad_last_block(reference.block_sparse_attention),
}
# Why an implementation cannot run on this machine at all; those without an entry always can.
_UNAVAILABLE: dict[str, Callable[[], str]] = {
    "triton": triton.unavailable,
    "mosaic_tpu": mosaic_tpu.unavailable,
    "cpu": cpu.unavailable,
}


def _with_all_rows(function: Callable[..., Array]) -> Callable[..., Array]:
    """Wraps a backend that needs a row for each block: the rows before the last ones are empty."""

    @functools.wraps(function)
    def run(q, k, v, pattern: BlockPattern, *, mask, scale: float) -> Array:
        tokens = k.shape[1] - q.shape[1]
        rows = tokens // pattern.block_size
        blocks, counts = (
            jnp.pad(x, ((0, 0), (0, 0), (rows, 0), (0, 0)))
            for x in (pattern.blocks, pattern.counts)
        )
        pattern = dataclasses.replace(pattern, blocks=blocks, counts=counts)
        q = jnp.pad(q, ((0, 0), (tokens, 0), (0, 0), (0, 0)))
        return function(q, k, v, pattern, mask=mask, scale=scale)[:, tokens:]

    return run


# The same for queries that are the last of the tokens; see `attend_last_rows`.
_LAST_ROWS: dict[str, Callable[..., Array]] = {
    "triton": _with_all_rows(triton.block_sparse_attention),
    "mosaic_tpu": _with_all_rows(mosaic_tpu.block_sparse_attention),
    "cpu": cpu.attend_last_rows(_with_all_rows(cpu.block_sparse_attention)),
    "xla": xla.block_sparse_attention,
    "reference": _with_all_rows(reference.block_sparse_attention),
}

BLOCK_SPARSE_IMPLEMENTATIONS = tuple(_IMPLEMENTATIONS)


def available_implementations() -> dict[str, str]:
    """Returns the names of the implementations, with the reason why one cannot run here.

    The reason is `""` for those that can.
    """
    return unavailability(_IMPLEMENTATIONS, _UNAVAILABLE)


def block_sparse_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    pattern: BlockPattern,
    *,
    mask: Bool[Array | np.ndarray, "B T"] | None = None,
    scale: float | None = None,
    implementation: str | None = None,
) -> Float[Array, "B T N H"]:
    """Computes attention in which each block of queries reads the key blocks of a pattern.

        out[t] = sum_s c[t, s] e^z[t, s] v[s] / sum_s c[t, s] e^z[t, s],    z = scale q k^T

    where c counts how often the pattern lists the key's block (a multiset: Zaheer et al. 2020,
    arXiv 2007.14062, appendix D).

    Args:
      q, k, v: Queries, keys and values, of one floating dtype. T need not be a multiple of W: it
        must fill the pattern's M blocks except for a part of the last one.
      pattern: Which blocks each row reads; see `BlockPattern`.
      mask: False at padding, which is never read as a key and whose own output is 0.
      scale: Multiplies the scores; by default 1/sqrt(H).
      implementation: One of `BLOCK_SPARSE_IMPLEMENTATIONS`, or None for the first that accepts the
        call.

    Returns:
      The attended values. Rows that read nothing are 0.

    Raises:
      ValueError: If shapes, dtypes or the pattern do not fit each other, or the name is unknown.
      NotImplementedError: If the implementation that was asked for does not support this call.
    """
    check_block_sparse_call(q, k, v, pattern, mask)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    q, k, v, pattern, mask = vary_together(q, k, v, pattern, mask)
    return run_first(_IMPLEMENTATIONS, implementation, q, k, v, pattern, mask=mask, scale=scale)


def attend_last_rows(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    pattern: BlockPattern,
    *,
    mask: Bool[Array, "B S"],
    scale: float,
    implementation: str | None = None,
) -> Float[Array, "B T N H"]:
    """Computes attention of T queries that are the last of S tokens, with the keys of all of them.

    Args:
      q: The queries.
      k, v: Keys and values of whole blocks.
      pattern: The T/W last rows of a pattern of S/W blocks, without global rows.
      mask: False at padding, of the S tokens.
      scale: Multiplies the scores.
      implementation: As in `block_sparse_attention`.
    """
    q, k, v, pattern, mask = vary_together(q, k, v, pattern, mask)
    return run_first(_LAST_ROWS, implementation, q, k, v, pattern, mask=mask, scale=scale)


def check_block_sparse_call(q, k, v, pattern: BlockPattern, mask) -> None:
    """Raises `ValueError` for arrays and a pattern that do not fit each other."""
    if q.ndim != 4 or not q.shape == k.shape == v.shape:
        raise ValueError(
            "q, k and v must have one shape [B, T, N, H] (batch, tokens, heads, head width); "
            f"got {q.shape}, {k.shape} and {v.shape}"
        )
    if not (jnp.issubdtype(q.dtype, jnp.floating) and q.dtype == k.dtype == v.dtype):
        raise ValueError(
            f"q, k and v must have one floating dtype; got {q.dtype}, {k.dtype} and {v.dtype}: "
            "cast them with .astype"
        )
    _check_pattern(q.shape, pattern)
    if mask is not None and (mask.shape != q.shape[:2] or mask.dtype != jnp.bool_):
        raise ValueError(
            f"mask must be boolean with shape {q.shape[:2]}; got {mask.dtype} {mask.shape}: "
            "convert it with `mask != 0`"
        )


def _check_pattern(shape: tuple[Dimension, ...], pattern: BlockPattern) -> None:
    """Raises `ValueError` for a pattern that does not fit queries `[B, T, N, H]`."""
    if pattern.blocks.ndim != 4:
        raise ValueError(
            "pattern.blocks must have shape [B or 1, N or 1, M, K] (examples, heads, rows, "
            f"entries); got {pattern.blocks.shape}"
        )
    batch, length, heads, _ = shape
    size, rows = pattern.block_size, pattern.num_blocks
    if size > MAX_BLOCK_SIZE:
        raise ValueError(
            f"pattern.block_size must be at most {MAX_BLOCK_SIZE:,}; got {size:,}: build a pattern "
            "of smaller blocks"
        )
    if size < 1 or -(-length // size) != rows:
        raise ValueError(
            f"the pattern has {pluralize(rows, 'row')} of {pluralize(size, 'token')}, for "
            f"{(rows - 1) * size + 1} to {pluralize(rows * size, 'token')}; q has {length}: build "
            f"the pattern for {pluralize(-(-length // max(size, 1)), 'block')}"
        )
    if pattern.blocks.shape != pattern.counts.shape:
        raise ValueError(
            "pattern.blocks and pattern.counts must have one shape; "
            f"got {pattern.blocks.shape} and {pattern.counts.shape}"
        )
    for axis, got, want in zip(("B", "N"), pattern.blocks.shape, (batch, heads), strict=False):
        if got not in (1, want):
            raise ValueError(
                f"the pattern's axis {axis} must be 1 or {want}, as in q; got {got}: build the "
                "pattern for these arrays, or with an axis of size 1 to share it"
            )
    if pattern.global_rows.ndim != 2 or pattern.global_rows.shape[0] not in (1, batch):
        raise ValueError(
            f"pattern.global_rows must have shape [1 or {batch}, G]; "
            f"got {pattern.global_rows.shape}"
        )
    for name, ids in (("block ids", pattern.blocks), ("global rows", pattern.global_rows)):
        if isinstance(ids, np.ndarray) and ids.size:  # the values of a traced pattern are unknown
            low, high = ids.min(), ids.max()
            if low < 0 or high >= rows:
                raise ValueError(
                    f"{name} must lie in 0..{rows - 1} (the pattern has {pluralize(rows, 'row')}); "
                    f"got {low} to {high}"
                )
