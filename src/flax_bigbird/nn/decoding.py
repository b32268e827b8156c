"""Attention of a decoder: left-padded examples, the key-value cache, prefill and single steps.

Tokens are stored in slots, which are those of the input or of the cache. The blocks of an example
are counted from its own first token, so that a left-padded example reads what it reads alone:

    position = slot - left,    left = the number of masked slots before the first real token

      slot       0 1 2 3 4 5 6 7        W = 2: row 2 of example b starts at slot 4 + left = 6
      example a  0 1 2 3 4 5 6 7
      example b  . . 0 1 2 3 4 5

Row i of a causal pattern depends on i alone. Hence a chunk of tokens, a single step and a call with
the whole text read the same keys.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

from flax_bigbird.attention import (
    BlockPattern,
    masked_softmax,
    num_token_shards,
    vary_together,
)


def leading_padding(mask: Bool[Array, "B S"] | None) -> Int[Array, "#B"]:
    """Returns the number of masked slots before the first real one, or 0 if all are masked."""
    if mask is None:
        return jnp.zeros(1, jnp.int32)
    return jnp.argmax(mask, axis=1).astype(jnp.int32)


def shift(x: Shaped[Array, "B T ..."], offsets: Int[Array, "#B"]) -> Shaped[Array, "B T ..."]:
    """Rotates each example to the left by its offset, in slots."""
    return _shift(*vary_together(x, offsets))


@jax.custom_vjp
def _shift(x: Shaped[Array, "B T ..."], offsets: Int[Array, "#B"]) -> Shaped[Array, "B T ..."]:
    slots = (jnp.arange(x.shape[1]) + offsets[:, None]) % x.shape[1]
    return x[jnp.arange(x.shape[0])[:, None], slots]


# The gradient of a gather would be a scatter, which CPUs compute one row at a time.
_shift.defvjp(
    lambda x, offsets: (_shift(x, offsets), offsets),
    lambda offsets, gradient: (_shift(gradient, -offsets), None),
)


def attend_left_aligned(
    attention: Callable[..., Array],
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    pattern: BlockPattern,
    mask: Bool[Array, "B T"] | None,
) -> Float[Array, "B T N H"]:
    """Computes causal block-sparse attention of whole examples, in linear time.

    Args:
      attention: A function `(q, k, v, pattern, mask) -> out` of examples without left padding.
      q: The queries.
      k: The keys.
      v: The values.
      pattern: The causal pattern.
      mask: True at real tokens.

    Returns:
      The attended values, which are 0 at masked queries. Where a mesh splits tokens, examples are
      not moved, and the values of those with padding on the left are NaN.
    """
    if mask is None:
        return attention(q, k, v, pattern, None)
    left = leading_padding(mask)
    if num_token_shards() > 1:
        out = attention(q, k, v, pattern, mask)
        return jnp.where((left > 0)[:, None, None, None], jnp.nan, out)
    q, k, v, mask = (shift(x, left) for x in (q, k, v, mask))
    return shift(attention(q, k, v, pattern, mask), -left)


def causal_weights(
    queries: Int[Array, " T"],
    size: int,
    mask: Bool[Array, "B S"] | None,
    pattern: BlockPattern | None,
) -> Float[Array, "#B #N T S"]:
    """Returns how often each query reads each key, as a dense array.

    Chunks of tokens use it, and calls that return attention probabilities.

    Args:
      queries: The slots of the queries.
      size: The number of keys.
      mask: True at the keys that may be read.
      pattern: The causal pattern, or None for full attention.
    """
    slots = jnp.arange(size)
    weight = (slots <= queries[:, None])[None, None].astype(jnp.float32)
    if pattern is not None:
        left = leading_padding(mask)[:, None]
        last = pattern.num_blocks - 1
        rows = jnp.clip((queries - left) // pattern.block_size, 0, last)
        blocks = jnp.clip((slots - left) // pattern.block_size, 0, last)
        table = _block_table(pattern)[:, rows[:, :, None], blocks[:, None, :]]
        weight = weight * jnp.moveaxis(table, 0, 1).astype(jnp.float32)
    if mask is not None:
        weight = jnp.where(mask[:, None, None, :], weight, 0)
    return weight


def _block_table(pattern: BlockPattern) -> Int[Array, "#N M M"]:
    """Returns how often each row reads each block."""
    blocks, counts = jnp.asarray(pattern.blocks[0]), jnp.asarray(pattern.counts[0])
    listed = blocks[..., None] == jnp.arange(pattern.num_blocks)
    return jnp.where(listed, counts[..., None], 0).sum(-2)


def attend_step(
    q: Float[Array, "B 1 N H"],
    keys: Float[Array, "B S N H"],
    values: Float[Array, "B S N H"],
    pattern: BlockPattern,
    slot: Int[Array, ""],
    mask: Bool[Array, "B S"] | None,
) -> Float[Array, "B 1 N H"]:
    """Attends from one new token of each example to the blocks that its row lists.

    The time does not depend on the length of the cache: only the listed blocks are read.

    Args:
      q: The query of the new token.
      keys: The keys in the cache, that of the new token included.
      values: The values in the cache, that of the new token included.
      pattern: The causal pattern.
      slot: The slot of the new token.
      mask: True at the keys that may be read.

    Returns:
      The attended values, which are 0 where a query reads nothing.
    """
    starts, slots, reads, counts = _listed_blocks(pattern, q.shape[0], keys.shape[1], slot, mask)
    width = slots.shape[-1]
    gather = _gather_shared_blocks if starts.shape[1] == 1 else _gather_blocks_per_head
    k, v = gather(keys, starts, width), gather(values, starts, width)  # [B, N, K, W, H]
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bnh,bnkwh->bnkw", q[:, 0], k, preferred_element_type=dtype)
    times_read = jnp.where(reads, counts[..., None], 0)
    weights = masked_softmax(scores / math.sqrt(q.shape[-1]), times_read, axis=(-2, -1))
    return jnp.einsum("bnkw,bnkwh->bnh", weights.astype(q.dtype), v)[:, None]


class _ListedBlocks(NamedTuple):
    """The blocks that the row of a new token lists; P is N, or 1 if all heads share a pattern.

    Attributes:
      starts: The first slot of each block.
      slots: The slots of its tokens.
      reads: Whether each of them is read.
      counts: How often the row lists the block.
    """

    starts: Int[Array, "B P K"]
    slots: Int[Array, "B P K W"]
    reads: Bool[Array, "B P K W"]
    counts: Int[Array, "B P K"]


def _listed_blocks(
    pattern: BlockPattern,
    batch: int,
    size: int,
    slot: Int[Array, ""],
    mask: Bool[Array, "B S"] | None,
) -> _ListedBlocks:
    """Returns the blocks that the new token in `slot` reads, in a cache of `size` slots."""
    width = min(pattern.block_size, size)
    left = jnp.broadcast_to(leading_padding(mask), (batch,))[:, None, None]
    rows = jnp.clip((slot - left[:, 0, 0]) // pattern.block_size, 0, pattern.num_blocks - 1)
    blocks, counts = (
        jnp.moveaxis(jnp.asarray(x[0])[:, rows], 0, 1) for x in (pattern.blocks, pattern.counts)
    )
    # A slice that would exceed the cache starts earlier. The positions of its slots show which of
    # them do not belong to the block.
    starts = jnp.clip(blocks * pattern.block_size + left, 0, size - width)
    slots = starts[..., None] + jnp.arange(width)
    in_block = (slots - left[..., None]) // pattern.block_size == blocks[..., None]
    reads = in_block & (slots <= slot) & (counts > 0)[..., None]
    if mask is not None:
        reads = reads & jax.vmap(lambda row, at: row[at])(mask, slots)
    return _ListedBlocks(starts, slots, reads, counts)


def _gather_shared_blocks(
    x: Float[Array, "B S N H"], starts: Int[Array, "B 1 K"], width: int
) -> Float[Array, "B N K W H"]:
    """Gathers the blocks that all heads read."""

    def block(example: Array, start: Array) -> Array:
        return lax.dynamic_slice_in_dim(example, start, width)

    blocks = jax.vmap(jax.vmap(block, (None, 0)))(x, starts[:, 0])  # [B, K, W, N, H]
    return jnp.moveaxis(blocks, 3, 1)


def _gather_blocks_per_head(
    x: Float[Array, "B S N H"], starts: Int[Array, "B N K"], width: int
) -> Float[Array, "B N K W H"]:
    """Gathers the blocks of each head."""

    def block(example: Array, head: Array, start: Array) -> Array:
        at = (start, head, jnp.zeros_like(start))
        tokens = lax.dynamic_slice(example, at, (width, 1, example.shape[-1]))
        return tokens[:, 0]

    over_heads = jax.vmap(jax.vmap(block, (None, None, 0)), (None, 0, 0))
    heads = jnp.arange(x.shape[2], dtype=starts.dtype)
    return jax.vmap(over_heads, (0, None, 0))(x, heads, starts)


def append(
    module: nn.Module, k: Float[Array, "B T N H"], v: Float[Array, "B T N H"]
) -> tuple[Float[Array, "B S N H"], Float[Array, "B S N H"], Int[Array, ""]] | None:
    """Appends new keys and values to the cache of the module.

    Returns:
      All keys, all values and the first slot of the new ones. None if the module had no cache: an
      empty one, of the length of the input, has then been created.
    """
    if not module.has_variable("cache", "cached_key"):
        module.put_variable("cache", "cached_key", jnp.zeros_like(k))
        module.put_variable("cache", "cached_value", jnp.zeros_like(v))
        module.put_variable("cache", "cache_index", jnp.zeros((), jnp.int32))
        return None
    start = module.get_variable("cache", "cache_index")
    updated = []
    for name, new in (("cached_key", k), ("cached_value", v)):
        old = module.get_variable("cache", name)
        updated.append(lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), start, axis=1))
        module.put_variable("cache", name, updated[-1])
    module.put_variable("cache", "cache_index", start + k.shape[1])
    return updated[0], updated[1], start
