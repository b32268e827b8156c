"""Global rows whose keys are split over devices: a softmax that is combined from partial ones.

Each device computes the scores of the global rows with its own keys. The maximum, the sum of the
weights and the weighted values are then combined over the devices, so that what is sent does not
depend on the number of keys (Milakov and Gimelshein 2018, arXiv 1805.02867).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from flax_bigbird.attention.exchange import Blocks, take_blocks
from flax_bigbird.attention.manual_axes import vary_together
from flax_bigbird.attention.numerics import MASKED_SCORE, softmax_parts

_BLOCKS_PER_CHUNK = 64  # bounds the scores that are held: 64 blocks of 64 keys for each query


class _Partial(NamedTuple):
    """A softmax over some of the keys: the maximum, the sum of the weights, the weighted values."""

    row_max: Float[Array, "X N Q"]
    total: Float[Array, "X N Q"]
    values: Float[Array, "X N Q H"]


def attend_global_rows(
    q: Float[Array, "X L W N H"],
    own: Blocks,
    rows: Int[Array, "#X G"],
    *,
    scale: float,
    causal: bool,
    axis: str,
) -> tuple[Float[Array, "X G W N H"], Int[Array, "#X G"]]:
    """Computes the global rows over the keys of all devices.

    Args:
      q: The queries of this device.
      own: The keys, values and mask of this device.
      rows: The ids of the global rows. An example may name a row twice.
      scale: Multiplies the scores.
      causal: Whether a query reads no key after itself.
      axis: The axis of the mesh over which tokens are split.

    Returns:
      The attended values, the same on all devices; and the index of each row among those of this
      device, L for a row of another device and for one that was named before.
    """
    length, size = q.shape[1:3]
    first = lax.axis_index(axis) * length
    local = rows - first
    is_own = (local >= 0) & (local < length)
    repeated = jnp.tril(rows[:, :, None] == rows[:, None, :], -1).any(-1)
    chosen = take_blocks(q, jnp.clip(local, 0, length - 1))
    is_kept = is_own[..., None, None, None]
    queries = lax.psum(jnp.where(is_kept, chosen, jnp.zeros((), q.dtype)), axis)
    positions = (rows[:, :, None] * size + jnp.arange(size)).reshape(rows.shape[0], -1)
    flat = queries.reshape(queries.shape[0], -1, *queries.shape[3:])
    part = _attend_own_keys(flat, own, positions if causal else None, first, scale)
    row_max = lax.pmax(lax.stop_gradient(part.row_max), axis)
    factor = jnp.exp(part.row_max - row_max)
    total = lax.psum(part.total * factor, axis)
    values = lax.psum(part.values * factor[..., None], axis)
    out = values / jnp.where(total > 0, total, 1)[..., None]
    out = jnp.moveaxis(out, 1, 2).reshape(queries.shape).astype(q.dtype)
    return out, jnp.where(is_own & ~repeated, local, length)


def put_rows(
    out: Float[Array, "X L W N H"], at: Int[Array, "#X G"], rows: Float[Array, "X G W N H"]
) -> Float[Array, "X L W N H"]:
    """Writes rows over those of a device, and drops rows whose index is L."""
    out, rows, at = vary_together(out, rows, at)
    if at.shape[0] == 1:
        return out.at[:, at[0]].set(rows, mode="drop")
    return jax.vmap(lambda out, at, rows: out.at[at].set(rows, mode="drop"))(out, at, rows)


def _attend_own_keys(q: Array, own: Blocks, positions, first: Array, scale: float) -> _Partial:
    """Computes the softmax of queries `[X, Q, N, H]` over the keys of this device, in chunks."""
    examples, length, size = own.mask.shape
    chunk = min(_BLOCKS_PER_CHUNK, length)
    num_chunks = length // chunk

    def attend(k: Array, v: Array, mask: Array, block: Array) -> _Partial:
        k, v = (x.reshape(examples, -1, *x.shape[3:]) for x in (k, v))
        reads = mask.reshape(examples, 1, 1, -1)
        if positions is not None:
            keys = block * size + jnp.arange(k.shape[1])
            reads = reads & (keys <= positions[:, None, :, None])
        return _attend(q, k, v, reads, scale)

    def chunked(x: Array) -> Array:
        x = x[:, : num_chunks * chunk]
        return jnp.moveaxis(x.reshape(examples, num_chunks, chunk, *x.shape[2:]), 1, 0)

    starts = first + chunk * jnp.arange(num_chunks)
    chunks = (*map(chunked, own), starts)
    parts = lax.map(lambda xs: jax.checkpoint(attend)(*xs), chunks)
    if num_chunks * chunk < length:
        k, v, mask = (x[:, num_chunks * chunk :] for x in own)
        last = attend(k, v, mask, first + num_chunks * chunk)
        parts = _Partial(*(jnp.concatenate([x, y[None]]) for x, y in zip(parts, last, strict=True)))
    row_max = lax.stop_gradient(parts.row_max).max(0)
    factor = jnp.exp(parts.row_max - row_max)
    values = (parts.values * factor[..., None]).sum(0)
    return _Partial(row_max, (parts.total * factor).sum(0), values)


def _attend(q: Array, k: Array, v: Array, reads: Array, scale: float) -> _Partial:
    """Computes the softmax of queries `[X, Q, N, H]` over keys `[X, S, N, H]`."""
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("xqnh,xsnh->xnqs", q, k, preferred_element_type=dtype) * scale
    scores = jnp.where(reads, scores, MASKED_SCORE)
    weights, total, row_max = softmax_parts(scores)
    values = jnp.einsum("xnqs,xsnh->xnqh", weights.astype(v.dtype), v, preferred_element_type=dtype)
    return _Partial(row_max, total, values)
