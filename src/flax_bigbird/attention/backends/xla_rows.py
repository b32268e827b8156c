"""Helpers of the plain JAX backend, which visits rows in chunks and gathers the keys of each.

Arrays are `[B, N, M, W, H]`, so that blocks are contiguous. A chunk holds C rows.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from flax_bigbird.attention.numerics import MASKED_SCORE
from flax_bigbird.attention.patterns.block_pattern import BlockPattern


class LoopConfig(NamedTuple):
    """The static parameters that the loops are compiled for."""

    scale: float
    causal: bool
    block_size: int
    chunk: int  # the largest number of rows per step
    first_row: int  # the key block that belongs to row 0


def _row_indices(config: LoopConfig, pattern: BlockPattern) -> np.ndarray:
    """Returns the rows that each step visits, `[steps, C]`, without rows known to be global.

    The last step is filled up with M, which is not a row.
    """
    rows = np.arange(pattern.num_blocks)
    if isinstance(pattern.global_rows, np.ndarray) and pattern.global_rows.shape[0] == 1:
        rows = np.setdiff1d(rows, pattern.global_rows)
    steps = max(1, -(-len(rows) // config.chunk))
    chunk = max(1, -(-len(rows) // steps))
    filler = np.full(steps * chunk - len(rows), pattern.num_blocks)
    return np.concatenate([rows, filler]).astype(np.int32).reshape(steps, chunk)


def split_rows(config: LoopConfig, pattern: BlockPattern) -> tuple[Array, Array, Array]:
    """Cuts the pattern into the steps of the loop.

    Returns:
      `(rows, blocks, counts)`, `[steps, C]` and twice `[steps, #B, #N, C, K]`. Fillers repeat the
      last row. The counts of fillers and of global rows are 0.
    """
    indices = _row_indices(config, pattern)
    rows = np.minimum(indices, pattern.num_blocks - 1)

    def split(x):
        x = x[:, :, rows.ravel()].reshape(*x.shape[:2], *rows.shape, x.shape[-1])
        return jnp.moveaxis(jnp.asarray(x), 2, 0)

    counts = pattern.counts
    if not isinstance(pattern.global_rows, np.ndarray) or pattern.global_rows.shape[0] > 1:
        row_ids = jnp.arange(pattern.num_blocks)[:, None]
        is_global = (jnp.asarray(pattern.global_rows)[:, None, :] == row_ids).any(-1)
        counts = jnp.where(is_global[:, None, :, None], 0, counts)
    is_row = indices < pattern.num_blocks
    counts = jnp.where(is_row[:, None, None, :, None], split(counts), 0)
    return jnp.asarray(rows), split(pattern.blocks), counts


def join_rows(config: LoopConfig, pattern: BlockPattern, x: Array) -> Array:
    """Converts `[steps, B, N, C, ...]` to `[B, N, M, ...]`; rows of no step are arbitrary."""
    x = jnp.moveaxis(x, 0, 2)
    x = x.reshape(*x.shape[:2], -1, *x.shape[4:])
    indices = _row_indices(config, pattern).ravel()
    position = np.zeros(pattern.num_blocks + 1, np.int32)
    position[indices] = np.arange(len(indices))
    return jnp.take(x, position[:-1], axis=2)


def take_rows(x: Array, rows: Array) -> Array:
    """Takes C rows of `[B, N, M, ...]`, as `[B, N, C, ...]`."""
    return jnp.take(x, rows, axis=2)


def gather(x: Array, blocks: Array) -> Array:
    """Gathers the keys `[B, N, M, W, H]` of blocks `[#B, #N, C, K]`, as `[B, N, C, K*W, H]`."""
    flat = blocks.reshape(*blocks.shape[:2], -1)

    def take(x, ids):
        return jnp.take(x, ids, axis=0)

    out = _map_examples_and_heads(take, flat.shape, (0,))(x, _squeeze(flat))
    return out.reshape(*x.shape[:2], *blocks.shape[2:3], -1, x.shape[-1])


def scatter_add(total: Array, blocks: Array, x: Array) -> Array:
    """Adds `[B, N, C, K*W, H]` to the listed blocks of `[B, N, M, W, H]`."""
    flat = blocks.reshape(*blocks.shape[:2], -1)
    x = x.reshape(*total.shape[:2], flat.shape[-1], *total.shape[3:])

    def add(total, x, ids):
        return total.at[ids].add(x)

    return _map_examples_and_heads(add, flat.shape, (0, 0))(total, x, _squeeze(flat))


def _map_examples_and_heads(function, shape, axes):
    """Maps `function(*arrays, ids)` over B and N; ids with an axis of size 1 are shared over it."""
    for size in (shape[1], shape[0]):
        function = jax.vmap(function, in_axes=(*axes, None if size == 1 else 0))
    return function


def _squeeze(flat: Array) -> Array:
    """Drops the leading axes of size 1, which `_map_examples_and_heads` shares."""
    return flat.reshape([n for n in flat.shape[:2] if n != 1] + [flat.shape[-1]])


def row_scores(config: LoopConfig, q_rows: Array, keys: Array) -> Array:
    """Returns the scaled scores of rows with their gathered keys, `[B, N, C, W, K*W]`."""
    dtype = jnp.promote_types(q_rows.dtype, jnp.float32)
    scores = jnp.einsum("bncwh,bncsh->bncws", q_rows, keys, preferred_element_type=dtype)
    return scores * config.scale


def row_bias(
    config: LoopConfig, rows: Array, blocks: Array, counts: Array, key_mask: Any, dtype: Any
) -> Array:
    """Returns what is added to the scores, `[#B, #N, C, 1 or W, K*W]`.

    It is log c for a key that is read c times, and `MASKED_SCORE` for one that is not read.
    """
    log_count = jnp.where(counts > 0, jnp.log(jnp.maximum(counts, 1).astype(dtype)), MASKED_SCORE)
    bias = log_count[..., None]  # [#B, #N, C, K, 1]
    size = config.block_size
    if key_mask is not None:
        ids = jnp.broadcast_to(blocks, (key_mask.shape[0], *blocks.shape[1:]))
        unmasked = jax.vmap(lambda mask, ids: mask[ids])(key_mask, ids)
        bias = jnp.where(unmasked, bias, MASKED_SCORE)
    bias = jnp.broadcast_to(bias, (*bias.shape[:-1], size))
    bias = bias.reshape(*bias.shape[:3], 1, -1)
    if config.causal:
        within = jnp.arange(size)
        keys = (blocks[..., None] * size + within).reshape(*blocks.shape[:3], 1, -1)
        queries = ((rows + config.first_row)[:, None] * size + within)[..., None]
        bias = jnp.where(keys <= queries, bias, MASKED_SCORE)
    return bias


def global_scores(config: LoopConfig, q, k, pattern: BlockPattern, key_mask) -> Array:
    """Returns the scores of the global rows with every key, `[B, N, G, W, S]`."""
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    q_rows = take_global_rows(q, pattern.global_rows)
    scores = jnp.einsum("bngwh,bnmsh->bngwms", q_rows, k, preferred_element_type=dtype)
    scores = scores.reshape(*scores.shape[:4], -1) * config.scale
    if key_mask is not None:
        unmasked = key_mask.reshape(key_mask.shape[0], 1, 1, 1, -1)
        scores = jnp.where(unmasked, scores, MASKED_SCORE)
    if config.causal:
        within = jnp.arange(config.block_size)
        queries = jnp.asarray(pattern.global_rows)[..., None] * config.block_size + within
        keys = jnp.arange(scores.shape[-1])
        scores = jnp.where(keys <= queries[:, None, :, :, None], scores, MASKED_SCORE)
    return scores


def take_global_rows(x: Array, rows: Any) -> Array:
    """Takes the global rows `[#B, G]` of `[B, N, M, ...]`, as `[B, N, G, ...]`."""
    if rows.shape[0] == 1:
        return x[:, :, rows[0]]
    return jax.vmap(lambda x, rows: x[:, rows])(x, jnp.asarray(rows))


def put_global_rows(x: Array, rows: Any, value: Array) -> Array:
    """Writes `[B, N, G, ...]` over the global rows `[#B, G]` of `[B, N, M, ...]`."""
    if rows.shape[0] == 1:
        return x.at[:, :, rows[0]].set(value)
    return jax.vmap(lambda x, rows, value: x.at[:, rows].set(value))(x, jnp.asarray(rows), value)


def is_first_occurrence(config: LoopConfig, rows: Any) -> Array:
    """Returns False at the queries of repeated global rows, `[#B, 1, 1, G*W, 1]`.

    The first and the last block of a short example may be the same row, whose gradient must be
    added to the keys once.
    """
    repeated = jnp.tril(rows[:, :, None] == rows[:, None, :], -1).any(-1)
    return jnp.repeat(~repeated, config.block_size, -1)[:, None, None, :, None]


def log_sum_exp(total: Array, row_max: Array) -> Array:
    """Returns the log-sum-exp of a row, or 0 for a row that reads nothing (its weights are 0)."""
    return jnp.where(total > 0, row_max + jnp.log(jnp.where(total > 0, total, 1)), 0)
