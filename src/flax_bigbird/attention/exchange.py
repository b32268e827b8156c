"""Brings the key blocks that a device reads from the other devices of its sequence axis.

Functions of this module run inside `jax.shard_map`. Arrays are `[X, L, W, ...]`: the L blocks of a
device, of X examples. Lists of blocks are `[X, ...]`, or `[1, ...]` if all examples share them.

`exchange_planned` follows an `ExchangePlan`, which needs a static pattern. `exchange_requested`
asks for the blocks of a traced pattern: every device sends the ids that it needs to their owners,
which answer with the blocks, some at a time, until nobody asks for more. Both send only blocks that
are read.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from flax_bigbird.attention.manual_axes import vary_over, vary_together

MAX_BLOCKS_PER_ROUND = 8
"""The largest number of blocks that a device sends to each other in a round of requests."""


class Blocks(NamedTuple):
    """Keys and values in blocks, with the mask of their tokens."""

    k: Float[Array, "X L W N H"]
    v: Float[Array, "X L W N H"]
    mask: Bool[Array, "X L W"]


def take_blocks(x: Array, ids: Array) -> Array:
    """Takes blocks `[#X, ...]` of `[X, L, ...]`; returns `[X, ..., ...]`."""
    if ids.shape[0] == 1:
        return jnp.take(x, ids[0], axis=1)
    return jax.vmap(lambda x, ids: jnp.take(x, ids, axis=0))(x, ids)


def exchange_planned(
    own: Blocks,
    send: Int[Array, "#X n E"],
    shared: Int[np.ndarray, " G"],
    num_before: int,
    num_after: int,
    axis: str,
) -> Blocks:
    """Returns the buffer of an `ExchangePlan`: the blocks of other devices, then the own ones.

    Args:
      own: The blocks of this device.
      send: The part of `ExchangePlan.send` that belongs to this device.
      shared, num_before, num_after: As in `ExchangePlan`.
      axis: The axis of the mesh over which tokens are split.
    """
    devices, length = lax.axis_size(axis), own.k.shape[1]
    own = own._replace(mask=own.mask.astype(jnp.uint8))
    parts: list[Blocks] = []
    if len(shared):
        local = jnp.asarray(shared) - lax.axis_index(axis) * length
        is_own = (local >= 0) & (local < length)

        def share(x: Array) -> Array:
            chosen = jnp.take(x, jnp.clip(local, 0, length - 1), axis=1)
            is_kept = is_own.reshape(1, -1, *(1,) * (x.ndim - 2))
            return lax.psum(jnp.where(is_kept, chosen, jnp.zeros((), x.dtype)), axis)

        parts.append(_map(share, own))
    for size, step in ((num_before, 1), (num_after, -1)):
        if not size:
            continue
        edge = slice(length - size, None) if step > 0 else slice(0, size)
        pairs = [(d, d + step) for d in range(devices) if 0 <= d + step < devices]
        parts.append(_map(lambda x: lax.ppermute(x[:, edge], axis, pairs), own))  # noqa: B023
    if send.shape[-1]:
        parts.append(_map(lambda x: _all_to_all(take_blocks(x, send), axis), own))
    parts.append(own)
    buffer = Blocks(*(jnp.concatenate(vary_together(*xs), 1) for xs in zip(*parts, strict=True)))
    return buffer._replace(mask=buffer.mask.astype(bool))


def _map(function: Any, blocks: Blocks) -> Blocks:
    return Blocks(*map(function, blocks))


def _all_to_all(x: Array, axis: str) -> Array:
    """Sends `[X, n, E, ...]` to the n devices; returns what they sent as `[X, n*E, ...]`."""
    x = lax.all_to_all(x, axis, 1, 1, tiled=True)
    return x.reshape(x.shape[0], -1, *x.shape[3:])


class Requests(NamedTuple):
    """The blocks that a device asks for.

    Attributes:
      ids: `[#X, n, L]`, the blocks among those of each owner, the first `counts` of them.
      counts: `[#X, n]`, how many blocks of each owner.
      offsets: `[#X, n]`, where the blocks of each owner start in the buffer.
      rounds: The number of rounds in which all devices get what they ask for.
      too_many: `[#X]`, whether more blocks are needed than the buffer has room for.
    """

    ids: Int[Array, "#X n L"]
    counts: Int[Array, "#X n"]
    offsets: Int[Array, "#X n"]
    rounds: Int[Array, ""]
    too_many: Bool[Array, "#X"]


class _RoundSizes(NamedTuple):
    """The static sizes of the rounds of requests."""

    axis: str
    capacity: int
    per_round: int


def plan_requests(
    blocks: Int[Array, "#X L K"],
    counts: Int[Array, "#X L K"],
    capacity: int,
    axis: str,
    all_axes: tuple[str, ...],
) -> tuple[Requests, Int[Array, "#X L K"], int]:
    """Decides what a device asks for, given what its rows read.

    Args:
      blocks: Block ids of the whole pattern.
      counts: How often each counts; 0 in the lists of global rows.
      capacity: The largest number of distinct blocks of other devices that the rows may read.
      axis: The axis of the mesh over which tokens are split.
      all_axes: All manual axes, whose devices run the same number of rounds.

    Returns:
      The requests; the ids of the pattern in the buffer, which has `capacity` blocks and then the
      device's own; and the number of blocks per round.
    """
    devices, length = lax.axis_size(axis), blocks.shape[1]
    total, first = devices * length, lax.axis_index(axis) * length
    used = counts > 0
    wanted = used & ((blocks < first) | (blocks >= first + length))
    flat = jnp.where(wanted, blocks, total).reshape(blocks.shape[0], -1)
    need = jax.vmap(lambda ids: jnp.zeros(total, bool).at[ids].set(True, mode="drop"))(flat)
    slot = jnp.cumsum(need, -1, dtype=jnp.int32) - 1
    by_owner = need.reshape(-1, devices, length)
    num_wanted = by_owner.sum(-1, dtype=jnp.int32)
    offsets = jnp.cumsum(num_wanted, -1, dtype=jnp.int32) - num_wanted
    ids = jnp.argsort(~by_owner, axis=-1, stable=True).astype(jnp.int32)
    per_round = max(1, min(MAX_BLOCKS_PER_ROUND, capacity // (2 * devices), length))
    own_rounds = (num_wanted.max() + per_round - 1) // per_round
    rounds = lax.pmax(vary_over(all_axes, own_rounds), all_axes)
    own = capacity + blocks - first
    fetched = jnp.take_along_axis(slot, blocks.reshape(flat.shape), -1).reshape(blocks.shape)
    local = jnp.where(wanted, jnp.clip(fetched, 0, max(capacity - 1, 0)), own)
    local = jnp.where(used, local, 0).astype(jnp.int32)
    too_many = num_wanted.sum(-1) > capacity
    return Requests(ids, num_wanted, offsets, rounds, too_many), local, per_round


def exchange_requested(
    own: Blocks, requests: Requests, capacity: int, per_round: int, axis: str
) -> Blocks:
    """Returns a buffer of `capacity` requested blocks, and then the own ones.

    Args:
      own: The blocks of this device.
      requests, capacity, per_round: From `plan_requests`.
      axis: The axis of the mesh over which tokens are split.
    """
    if not capacity:
        return own
    sizes = _RoundSizes(axis, capacity, per_round)
    own, varying = vary_together(own, requests._replace(rounds=jnp.zeros((), jnp.int32)))
    requests = varying._replace(rounds=requests.rounds)
    buffers: Any = _fetch(sizes, own.k, own.v, own.mask, requests)
    return Blocks(*buffers)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fetch(sizes: _RoundSizes, k, v, mask, requests: Requests):
    """Runs the rounds; returns the buffer `[X, capacity + L, W, ...]` of each array."""
    own = (k, v, mask)
    # Blocks are written into the buffer itself, which would otherwise be there twice.
    padding = [(0, 0), (sizes.capacity, 0)]
    start = tuple(jnp.pad(x, [*padding, *[(0, 0)] * (x.ndim - 2)]) for x in own)

    end = start[0].shape[1]

    def round_(i: Array, buffers: tuple[Array, ...]) -> tuple[Array, ...]:
        asked, slots = _round_lists(sizes, requests, i)
        out = []
        for x, buffer in zip(own, buffers, strict=True):
            got = _all_to_all(take_blocks(x, asked), sizes.axis)
            out.append(_put(buffer, jnp.where(slots < sizes.capacity, slots, end), got))
        return tuple(out)

    return lax.fori_loop(0, requests.rounds, round_, start)


def _fetch_forward(sizes: _RoundSizes, k, v, mask, requests: Requests):
    return _fetch(sizes, k, v, mask, requests), requests


def _fetch_backward(sizes: _RoundSizes, requests: Requests, d_buffers):
    """Sends the gradients of the blocks back, in the same rounds."""
    devices = lax.axis_size(sizes.axis)

    def round_(i: Array, totals: tuple[Array, ...]) -> tuple[Array, ...]:
        asked, slots = _round_lists(sizes, requests, i)
        flat = asked.reshape(asked.shape[0], -1)
        out = []
        for total, d_buffer in zip(totals, d_buffers[:2], strict=True):
            known = (slots < sizes.capacity).reshape(*slots.shape, *(1,) * (total.ndim - 2))
            got = take_blocks(d_buffer, jnp.minimum(slots, sizes.capacity - 1))
            got = jnp.where(known, got, jnp.zeros((), got.dtype))
            got = got.reshape(got.shape[0], devices, sizes.per_round, *got.shape[2:])
            out.append(_add(total, flat, _all_to_all(got, sizes.axis)))
        return tuple(out)

    start = tuple(x[:, sizes.capacity :] for x in d_buffers[:2])
    d_k, d_v = lax.fori_loop(0, requests.rounds, round_, start)
    return d_k, d_v, None, None


_fetch.defvjp(_fetch_forward, _fetch_backward)


def _round_lists(sizes: _RoundSizes, requests: Requests, i: Array) -> tuple[Array, Array]:
    """Returns which blocks the others ask of this device, `[#X, n, C]`, and the slots `[#X, n*C]`
    of the buffer for those that it asked for itself, which are `capacity` for unused entries."""
    rank = i * sizes.per_round + jnp.arange(sizes.per_round, dtype=jnp.int32)
    ids = jnp.take(requests.ids, jnp.minimum(rank, requests.ids.shape[-1] - 1), axis=-1)
    asked = lax.all_to_all(ids, sizes.axis, 1, 1, tiled=True)
    slots = requests.offsets[..., None] + rank
    slots = jnp.where(rank < requests.counts[..., None], slots, sizes.capacity)
    return asked, slots.reshape(slots.shape[0], -1)


def _put(buffer: Array, slots: Array, x: Array) -> Array:
    """Writes blocks into slots `[#X, E]`, and drops those past the last slot."""
    if slots.shape[0] == 1:
        return buffer.at[:, slots[0]].set(x, mode="drop")
    put = jax.vmap(lambda buffer, slots, x: buffer.at[slots].set(x, mode="drop"))
    return put(buffer, slots, x)


def _add(total: Array, ids: Array, x: Array) -> Array:
    """Adds blocks to those of ids `[#X, E]`."""
    if ids.shape[0] == 1:
        return total.at[:, ids[0]].add(x)
    return jax.vmap(lambda total, ids, x: total.at[ids].add(x))(total, ids, x)
