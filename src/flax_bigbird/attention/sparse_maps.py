"""Computes maps of the attention of one text in linear time, from the blocks that each row reads.

The functions of `flax_bigbird.attention.inspection` score every key for every query that they look
at. Here, a row of query blocks scores the blocks that it lists; only global rows score all keys.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from flax_bigbird.attention.eager import compile_eager
from flax_bigbird.attention.numerics import masked_softmax
from flax_bigbird.attention.patterns.block_pattern import BlockPattern

# The weights `[N, W, K, W]` of a row, and the ids `[N, K]` of the blocks that they belong to.
RowWeights = tuple[Float[Array, "N W K W"], Int[Array, "N K"]]


def attention_to_key(
    q: Float[Array, "1 T N H"],
    k: Float[Array, "1 T N H"],
    pattern: BlockPattern,
    key: Int[Array, ""],
    mask: Bool[Array, "1 T"],
    scale: float,
) -> Float[Array, "N T"]:
    """Returns the probabilities with which every query attends to one key.

    Args:
      q, k: Queries and keys of one text; T may end inside the last block.
      pattern: The pattern.
      key: The position of the key.
      mask: False at padding.
      scale: Multiplies the scores.

    Returns:
      Probabilities, repeated blocks summed; 0 at masked queries.
    """
    return compile_eager(_attention_to_key, (float(scale),), q, k, pattern, jnp.asarray(key), mask)


def _attention_to_key(scale: float, q, k, pattern: BlockPattern, key, mask) -> Array:
    size = pattern.block_size
    block, offset = key // size, key % size

    def select(weights: Array, ids: Array, real: Array) -> Array:
        of_key = lax.dynamic_index_in_dim(weights, offset, axis=-1, keepdims=False)  # [N, W, K]
        chosen = jnp.where((ids == block)[:, None], of_key, 0).sum(-1)
        return jnp.where(real, chosen, 0)

    rows = _map_rows(q, k, pattern, mask, scale, select)  # [M, N, W]
    return jnp.moveaxis(rows, 0, 1).reshape(q.shape[2], -1)[:, : q.shape[1]]


def block_map(
    q: Float[Array, "1 T N H"],
    k: Float[Array, "1 T N H"],
    pattern: BlockPattern,
    mask: Bool[Array, "1 T"],
    scale: float,
) -> Float[Array, "N M M"]:
    """Returns how much each block of queries attends to each block of keys.

    Args:
      q, k, pattern, mask, scale: As in `attention_to_key`.

    Returns:
      The mean over the real queries of a block. Rows sum to 1, and to 0 where a block has none.
    """
    return compile_eager(_block_map, (float(scale),), q, k, pattern, mask)


def _block_map(scale: float, q, k, pattern: BlockPattern, mask) -> Array:
    num_heads, num_blocks = q.shape[2], pattern.num_blocks

    def add_up(weights: Array, ids: Array, real: Array) -> Array:
        by_block = jnp.where(real[:, None], weights.sum(-1), 0).sum(1)  # [N, K]
        count = jnp.maximum(real.sum(), 1).astype(by_block.dtype)
        empty = jnp.zeros((num_heads, num_blocks), by_block.dtype)
        return empty.at[jnp.arange(num_heads)[:, None], ids].add(by_block / count)

    return jnp.moveaxis(_map_rows(q, k, pattern, mask, scale, add_up), 0, 1)


def _map_rows(
    q: Array,
    k: Array,
    pattern: BlockPattern,
    mask: Array,
    scale: float,
    reduce: Callable[[Array, Array, Array], Array],
) -> Array:
    """Returns the reduced weights of every row of query blocks, stacked.

    Args:
      q, k, pattern, mask, scale: As in `attention_to_key`.
      reduce: A function of the weights `[N, W, K, W]` of a row, the ids `[N, K]` of the blocks, and
        the queries `[W]` of the row that are no padding.
    """
    size, num_blocks, num_heads = pattern.block_size, pattern.num_blocks, q.shape[2]
    padding = num_blocks * size - q.shape[1]
    dtype = jnp.promote_types(q.dtype, jnp.float32)

    def in_blocks(x: Array) -> Array:  # [N, M, W, H]
        x = jnp.pad(x[0].astype(dtype), ((0, padding), (0, 0), (0, 0)))
        return jnp.moveaxis(x.reshape(num_blocks, size, num_heads, -1), 2, 0)

    queries, keys = in_blocks(q), in_blocks(k)
    real = jnp.pad(mask[0], (0, padding)).reshape(num_blocks, size)
    blocks, counts = (
        jnp.broadcast_to(jnp.asarray(x)[0], (num_heads, *x.shape[2:]))
        for x in (pattern.blocks, pattern.counts)
    )
    head = jnp.arange(num_heads)[:, None]
    every = jnp.broadcast_to(jnp.arange(num_blocks), (num_heads, num_blocks))

    def weigh(row: Array, ids: Array, count: Array) -> Array:
        scores = jnp.einsum("nwh,nkvh->nwkv", queries[:, row], keys[head, ids]) * scale
        read = jnp.where(real[ids], count[..., None], 0)[:, None]  # [N, 1, K, W]
        weights = masked_softmax(scores, jnp.broadcast_to(read, scores.shape), axis=(-2, -1))
        return reduce(weights, ids, real[row])

    def of_row(row: Array) -> Array:
        is_global = (jnp.asarray(pattern.global_rows)[0] == row).any()
        return lax.cond(
            is_global,
            lambda: weigh(row, every, jnp.ones_like(every)),
            lambda: weigh(row, blocks[:, row], counts[:, row]),
        )

    return lax.map(of_row, jnp.arange(num_blocks))
