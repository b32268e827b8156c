"""Block-sparse attention of examples whose tokens are split over devices.

Device d of n holds L blocks of queries, keys and values. It gets the key blocks of other devices
that its rows read (`exchange`), and then runs an ordinary backend on its own rows:

    M = 8, n = 2, no random blocks       device 0's buffer      device 1's buffer
          k 0 1 2 3 4 5 6 7                k 4 7 0 1 2 3           k 0 3 4 5 6 7
        q 0 x x x x x x x x   <- global      .                       .
          1 x x x         x                  1   x x x x             4 x x x x   x
          2 x x x x       x                  2   x x x x x           5 x   x x x x
          3 x   x x x     x                  3 x x x   x x           6 x     x x x
        --------------------                                         7 (global)
          4 x     x x x   x
          5 x       x x x x
          6 x         x x x
          7 x x x x x x x x   <- global

Global rows read the keys of all devices, by a softmax that is combined from one part per device
(`distributed_rows`). What a device sends is proportional to the blocks that are read, never all
keys; what the backward pass needs is kept per device, and the exchange is repeated there.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from flax_bigbird.attention.api import attend_last_rows
from flax_bigbird.attention.distributed_rows import attend_global_rows, put_rows
from flax_bigbird.attention.exchange import (
    Blocks,
    exchange_planned,
    exchange_requested,
    plan_requests,
)
from flax_bigbird.attention.exchange_plan import ExchangePlan, plan_exchange
from flax_bigbird.attention.manual_axes import vary_together
from flax_bigbird.attention.mesh_axes import pad_axis
from flax_bigbird.attention.numerics import zero_masked
from flax_bigbird.attention.patterns.block_pattern import BlockPattern
from flax_bigbird.attention.residuals import RESIDUALS


class SequenceConfig(NamedTuple):
    """The static parameters of the computation on a device.

    Attributes:
      scale: Multiplies the scores.
      implementation: The backend, or None for the first that accepts the call.
      block_size: W, in tokens.
      causal: Whether a query reads no key after itself.
      per_head: Whether each head has lists of its own.
      axis: The axis of the mesh over which tokens are split.
      all_axes: All manual axes.
      plan: The part of an `ExchangePlan` that all devices share; None for a traced pattern.
      num_remote: The number of blocks of other devices in a device's buffer.
    """

    scale: float
    implementation: str | None
    block_size: int
    causal: bool
    per_head: bool
    axis: str
    all_axes: tuple[str, ...]
    plan: tuple[tuple[int, ...], int, int] | None
    num_remote: int


class Lists(NamedTuple):
    """What a device needs to know of a pattern, an operand of `jax.shard_map`.

    Attributes:
      blocks, counts: The lists of its L rows. For a static pattern, the ids are those of its
        buffer.
      global_rows: The ids of the rows that read everything.
      send: `[#B, #N, 1, n, E]`, from the plan of a static pattern; else None.
    """

    blocks: Any
    counts: Any
    global_rows: Any
    send: Any


def prepare_lists(pattern: BlockPattern, num_devices: int) -> tuple[Lists, ExchangePlan | None]:
    """Returns the lists of a pattern for all devices, and the plan if the pattern is static.

    Args:
      pattern: The pattern; its rows are padded to a multiple of `num_devices`.
      num_devices: n.
    """
    rows = pattern.num_blocks
    is_static = all(isinstance(x, np.ndarray) for x in jax.tree.leaves(pattern))
    xp: Any = np if is_static else jnp
    row = np.arange(rows)[:, None]
    is_global = (pattern.global_rows[:, None, :] == row).any(-1)[:, None, :, None]
    reads = (pattern.counts > 0) & ~is_global
    if pattern.causal:
        # The blocks of other devices come first in the buffer, and count as earlier than a row.
        reads = reads & (pattern.blocks <= row)
    counts = xp.where(reads, pattern.counts, 0).astype(np.int32)
    blocks = xp.where(reads, pattern.blocks, 0).astype(np.int32)
    blocks, counts = (pad_axis(x, 2, num_devices) for x in (blocks, counts))
    if not is_static:
        return Lists(blocks, counts, pattern.global_rows, None), None
    lead = blocks.shape[:2]
    flat = [x.reshape(lead[0] * lead[1], *x.shape[2:]) for x in (blocks, counts)]
    plan = plan_exchange(flat[0], flat[1], num_devices)
    blocks, counts = (x.reshape(*lead, *x.shape[1:]) for x in (plan.blocks, plan.counts))
    send = np.moveaxis(plan.send.reshape(num_devices, *lead, *plan.send.shape[2:]), 0, 2)
    return Lists(blocks, counts, pattern.global_rows, send), plan


def buffer_capacity(pattern: BlockPattern, num_devices: int) -> int:
    """Returns the largest number of blocks that a device asks for, for a traced pattern."""
    rows = -(-pattern.num_blocks // num_devices)
    capacity = min(rows * (num_devices - 1), rows * pattern.row_width)
    if pattern.far_reads is not None:
        per_run, per_row = pattern.far_reads
        capacity = min(capacity, per_run + per_row * rows)
    return capacity


def attend_on_device(
    config: SequenceConfig,
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    mask: Bool[Array, "B T"],
    lists: Lists,
) -> Float[Array, "B T N H"]:
    """Computes the rows of one device, inside `jax.shard_map`.

    The backward pass repeats the exchange and keeps what a backend saves, as well as its arguments.

    Args:
      config: The static parameters.
      q, k, v: The queries, keys and values of this device, whole blocks.
      mask: False at padding.
      lists: The lists of this device.
    """

    def attend(q, k, v, mask, lists):
        return _attend(config, q, k, v, mask, lists)

    return _remat(attend)(*vary_together(q, k, v, mask, lists))


def _remat(function: Callable[..., Any]) -> Callable[..., Any]:
    """Lets the backward pass repeat everything but the backend's own computation."""
    policy = jax.checkpoint_policies.save_only_these_names(RESIDUALS)
    return jax.checkpoint(function, policy=policy)


def _attend(config: SequenceConfig, q, k, v, mask, lists: Lists) -> Array:
    batch, length, heads, _ = q.shape
    q, k, v = (zero_masked(x, mask) for x in (q, k, v))
    if config.per_head:
        # Each head is an example of its own, because the masks of its buffer are its own, too.
        q, k, v = (jnp.moveaxis(x, 2, 1).reshape(batch * heads, length, 1, -1) for x in (q, k, v))
        row_mask = jnp.repeat(mask, heads, axis=0)
    else:
        row_mask = mask
    lists = _fold_heads(config, lists, batch, heads)
    size = config.block_size
    keys, values = (x.reshape(x.shape[0], -1, size, *x.shape[2:]) for x in (k, v))
    own = Blocks(keys, values, row_mask.reshape(row_mask.shape[0], -1, size))
    out = _attend_listed(config, q, own, lists)
    if lists.global_rows.shape[-1]:
        in_blocks = out.reshape(own.k.shape)
        rows, at = attend_global_rows(
            q.reshape(own.k.shape),
            own,
            lists.global_rows,
            scale=config.scale,
            causal=config.causal,
            axis=config.axis,
        )
        out = put_rows(in_blocks, at, rows).reshape(out.shape)
    if config.per_head:
        out = jnp.moveaxis(out.reshape(batch, heads, length, -1), 1, 2)
    return zero_masked(out, mask)


def _attend_listed(config: SequenceConfig, q: Array, own: Blocks, lists: Lists) -> Array:
    """Computes the rows that are not global, of some examples at a time.

    The blocks of other devices of all examples together might need several times the memory of the
    device's own. Those of a group of examples need at most as much. If they are many, there are at
    least two groups: without a loop, XLA merges the exchange of the backward pass with that of the
    forward pass on CPUs, and keeps the blocks of other devices in between.
    """
    examples, length = own.mask.shape[:2]
    lists = lists._replace(global_rows=None)
    groups = 1
    if config.per_head:
        wanted = max(-(-config.num_remote // length), min(2, 2 * config.num_remote // length), 1)
        groups = next(n for n in range(min(wanted, examples), examples + 1) if examples % n == 0)
    if groups == 1:
        return _attend_group(config, q, own, lists)

    def split(x: Array) -> Array:
        return x.reshape(groups, examples // groups, *x.shape[1:])

    out = lax.map(
        lambda xs: _remat(functools.partial(_attend_group, config))(*xs),
        jax.tree.map(split, (q, own, lists)),
    )
    return out.reshape(q.shape)


def _attend_group(config: SequenceConfig, q: Array, own: Blocks, lists: Lists) -> Array:
    """Exchanges blocks and computes the rows that are not global."""
    buffer, blocks, too_many = _exchange(config, own, lists)
    no_rows = np.zeros((1, 0), np.int32)
    size = config.block_size
    pattern = BlockPattern(blocks[:, None], lists.counts[:, None], no_rows, size, config.causal)
    keys, values = (x.reshape(x.shape[0], -1, *x.shape[3:]) for x in (buffer.k, buffer.v))
    out = attend_last_rows(
        q,
        keys,
        values,
        pattern,
        mask=buffer.mask.reshape(keys.shape[:2]),
        scale=config.scale,
        implementation=config.implementation,
    )
    if too_many is not None:  # a traced value cannot raise an error
        out = jnp.where(too_many[:, None, None, None], jnp.nan, out)
    return out


def _exchange(
    config: SequenceConfig, own: Blocks, lists: Lists
) -> tuple[Blocks, Array, Array | None]:
    """Returns the buffer of keys and values, the lists in its indices, and if it is too small."""
    if config.plan is not None:
        shared, before, after = config.plan
        shared = np.asarray(shared, np.int32)
        buffer = exchange_planned(own, lists.send, shared, before, after, config.axis)
        return buffer, lists.blocks, None
    requests, blocks, per_round = plan_requests(
        lists.blocks, lists.counts, config.num_remote, config.axis, config.all_axes
    )
    buffer = exchange_requested(own, requests, config.num_remote, per_round, config.axis)
    return buffer, blocks, requests.too_many


def _fold_heads(config: SequenceConfig, lists: Lists, batch: int, heads: int) -> Lists:
    """Joins the axes of examples and heads of the lists, `[#B, #N, ...]` to `[#X, ...]`."""
    rows = lists.global_rows
    send = None if lists.send is None else lists.send[:, :, 0]
    arrays = (lists.blocks, lists.counts, send)
    if not config.per_head:
        blocks, counts, send = jax.tree.map(lambda x: x[:, 0], arrays)
        return Lists(blocks, counts, rows, send)

    def fold(x: Array) -> Array:
        rest = x.shape[2:]
        return jnp.broadcast_to(x, (batch, heads, *rest)).reshape(batch * heads, *rest)

    blocks, counts, send = jax.tree.map(fold, arrays)
    if rows.shape[0] > 1:
        rows = jnp.repeat(rows, heads, axis=0)
    return Lists(blocks, counts, rows, send)
