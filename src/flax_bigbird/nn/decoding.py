"""A decoder's attention: documents padded on the left, the key-value cache, prefill and steps.

Tokens lie in slots, those of a call or of its cache. A document's blocks are counted from its own
first token, so that a document padded on the left reads exactly what it reads alone:

    position = slot - left,    left = masked slots before the document's first real one

      slot       0 1 2 3 4 5 6 7        W = 2: row 2 of document b starts at slot 4 + left = 6
      document a 0 1 2 3 4 5 6 7
      document b . . 0 1 2 3 4 5

Row i of a causal pattern depends on i alone, so a chunk, a step and one shot read the same keys.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from flax_bigbird.attention import BlockPattern, block_sparse_attention


def leading_padding(mask: Bool[Array, "B S"] | None) -> Int[Array, "#B"]:
    """Masked slots before each document's first real one; 0 where all are masked."""
    if mask is None:
        return jnp.zeros(1, jnp.int32)
    return jnp.argmax(mask, axis=1).astype(jnp.int32)


@jax.custom_vjp
def shift(x: Array, by: Int[Array, " B"]) -> Array:
    """Moves each document `by` slots to the left, around the end. `x` is `[B, T, ...]`."""
    slots = (jnp.arange(x.shape[1]) + by[:, None]) % x.shape[1]
    return x[jnp.arange(x.shape[0])[:, None], slots]


# The gradient of a gather would be a scatter, which CPUs do one row at a time.
shift.defvjp(lambda x, by: (shift(x, by), by), lambda by, gradient: (shift(gradient, -by), None))


def attend_sparse(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    pattern: BlockPattern,
    mask: Bool[Array, "B T"] | None,
) -> Float[Array, "B T N H"]:
    """Causal block-sparse attention of whole documents, in linear time; 0 at masked queries."""
    if mask is None:
        return block_sparse_attention(q, k, v, pattern)
    left = leading_padding(mask)
    q, k, v, mask = (shift(x, left) for x in (q, k, v, mask))
    return shift(block_sparse_attention(q, k, v, pattern, mask=mask), -left)


def causal_weights(
    queries: Int[Array, " T"],
    size: int,
    mask: Bool[Array, "B S"] | None,
    pattern: BlockPattern | None,
) -> Float[Array, "#B #N T S"]:
    """How often each query reads each of `size` keys: dense, for chunks and for showing attention.

    Args:
      queries: the slots of the queries.
      mask: over the keys.
      pattern: None in full mode.
    """
    slots = jnp.arange(size)
    weight = (slots <= queries[:, None])[None, None].astype(jnp.float32)
    if pattern is not None:
        left = leading_padding(mask)[:, None]
        last = pattern.num_blocks - 1
        rows = jnp.clip((queries - left) // pattern.block_size, 0, last)
        blocks = jnp.clip((slots - left) // pattern.block_size, 0, last)
        table = _block_table(pattern)[:, rows[:, :, None], blocks[:, None, :]]
        weight = weight * jnp.moveaxis(jnp.asarray(table), 0, 1)
    if mask is not None:
        weight = jnp.where(mask[:, None, None, :], weight, 0)
    return weight


def _block_table(pattern: BlockPattern) -> Array:
    """How often each row reads each block, `[#N, M, M]`."""
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
    """One new token of each document against the blocks its row lists; 0 where it reads nothing.

    Time does not depend on the cache's length: only the listed blocks are touched.

    Args:
      slot: of the new token, whose key and value are in the cache already.
    """
    size = keys.shape[1]
    width = min(pattern.block_size, size)
    left = jnp.broadcast_to(leading_padding(mask), q.shape[:1])[:, None, None]
    rows = jnp.clip((slot - left[:, 0, 0]) // pattern.block_size, 0, pattern.num_blocks - 1)
    blocks, counts = (
        jnp.moveaxis(jnp.asarray(x[0])[:, rows], 0, 1) for x in (pattern.blocks, pattern.counts)
    )  # [B, #N, K]
    # A slice that would run past the end starts earlier, and what it then holds too much of is
    # told by its position.
    starts = jnp.clip(blocks * pattern.block_size + left, 0, size - width)
    slots = starts[..., None] + jnp.arange(width)  # [B, #N, K, W]
    own = (slots - left[..., None]) // pattern.block_size == blocks[..., None]
    reads = own & (slots <= slot) & (counts > 0)[..., None]
    if mask is not None:
        reads = reads & jax.vmap(lambda row, at: row[at])(mask, slots)
    bias = jnp.log(jnp.maximum(counts, 1).astype(jnp.float32))[..., None]
    gather = _shared_blocks if blocks.shape[1] == 1 else _blocks_by_head
    k, v = gather(keys, starts, width), gather(values, starts, width)  # [B, N, K, W, H]
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bnh,bnkwh->bnkw", q[:, 0], k, preferred_element_type=dtype)
    scores = scores / math.sqrt(q.shape[-1]) + bias
    scores = jnp.where(reads, scores, jnp.finfo(dtype).min)
    top = scores.max((-2, -1), keepdims=True)
    weights = jnp.where(reads, jnp.exp(scores - top), 0)
    total = weights.sum((-2, -1), keepdims=True)
    weights = (weights / jnp.where(total > 0, total, 1)).astype(q.dtype)
    return jnp.einsum("bnkw,bnkwh->bnh", weights, v)[:, None]


def _shared_blocks(x: Array, starts: Int[Array, "B 1 K"], width: int) -> Array:
    """Blocks that all heads read, `[B, N, K, W, H]`."""

    def block(document: Array, start: Array) -> Array:
        return lax.dynamic_slice_in_dim(document, start, width)

    blocks = jax.vmap(jax.vmap(block, (None, 0)))(x, starts[:, 0])  # [B, K, W, N, H]
    return jnp.moveaxis(blocks, 3, 1)


def _blocks_by_head(x: Array, starts: Int[Array, "B N K"], width: int) -> Array:
    """Each head's own blocks, `[B, N, K, W, H]`."""

    def block(document: Array, head: Array, start: Array) -> Array:
        piece = lax.dynamic_slice(document, (start, head, 0), (width, 1, document.shape[-1]))
        return piece[:, 0]

    by_head = jax.vmap(jax.vmap(block, (None, None, 0)), (None, 0, 0))
    heads = jnp.arange(x.shape[2])
    return jax.vmap(by_head, (0, None, 0))(x, heads, starts)


def append(module: Any, k: Array, v: Array) -> tuple[Array, Array, Array] | None:
    """Writes new keys and values into the module's cache: `(all keys, all values, first slot)`.

    None when the cache has just been made, of the input's length, and holds nothing.
    """
    if not module.has_variable("cache", "cached_key"):
        module.put_variable("cache", "cached_key", jnp.zeros_like(k))
        module.put_variable("cache", "cached_value", jnp.zeros_like(v))
        module.put_variable("cache", "cache_index", jnp.zeros((), jnp.int32))
        return None
    start = module.get_variable("cache", "cache_index")
    written = []
    for name, new in (("cached_key", k), ("cached_value", v)):
        old = module.get_variable("cache", name)
        written.append(lax.dynamic_update_slice(old, new.astype(old.dtype), (0, start, 0, 0)))
        module.put_variable("cache", name, written[-1])
    module.put_variable("cache", "cache_index", start + k.shape[1])
    return written[0], written[1], start
