"""Patterns that differ between the documents of a batch: by their lengths, by chosen blocks."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from flax_bigbird.attention.pattern import BIGBIRD, BlockPattern, Layout, merge_repeats


def bigbird_pattern_by_document(
    num_blocks: Int[Array, " B"],
    most: int,
    block_size: int,
    *,
    full_up_to: int = 0,
    random: Int[Array, "#B N M R"] | None = None,
    extra_first: int = 0,
    layout: Layout = BIGBIRD,
) -> BlockPattern:
    """An encoder's pattern in which each document is as long as it is, whatever it is padded to.

        M = 5; document of 3 blocks      of 5 blocks
          k 0 1 2 3 4                      k 0 1 2 3 4
        q 0 x x x    <- global row       q 0 x x x x x   <- global row
          1 x x x                          1 x x x   x
          2 x x x    <- global row         2 x x x x x
          3            (padding)           3 x   x x x
          4                                4 x x x x x   <- global row

    Args:
      num_blocks: each document's blocks, traced, in 1..most.
      most: M, of the longest there may be.
      full_up_to: documents of at most so many blocks read every block of theirs, once.
      random: as for `bigbird_pattern`, by document or shared; what lies in rows past a document's
        own is left out.
      extra_first, layout: as for `bigbird_pattern`.

    Returns:
      A traced pattern of at most max(`layout.width` + R, full_up_to) entries a row. The blocks past
      a document's last are to be masked as keys.
    """
    row, of_each = np.arange(most), num_blocks[:, None, None]
    fixed, valid = layout.fixed_blocks(of_each, most)
    if extra_first:
        again = (*fixed.shape[:-1], extra_first)
        fixed = jnp.concatenate([fixed, jnp.zeros(again, fixed.dtype)], -1)
        valid = jnp.concatenate([valid, jnp.ones(again, bool)], -1)
    ids, ok = fixed[:, None], valid[:, None]
    if random is not None and random.shape[-1]:
        lead = (len(num_blocks), random.shape[1], most)
        picks = jnp.broadcast_to(random, (*lead, random.shape[-1]))
        ids = jnp.concatenate([jnp.broadcast_to(ids, (*lead, ids.shape[-1])), picks], -1)
        ok = jnp.concatenate([jnp.broadcast_to(ok, (*lead, ok.shape[-1])), picks >= 0], -1)
    middle = layout.is_middle(row, num_blocks[:, None])
    blocks, counts = merge_repeats(ids, ok & middle[:, None, :, None])
    width = max(blocks.shape[-1], min(full_up_to, most))
    wider = [(0, 0)] * 3 + [(0, width - blocks.shape[-1])]
    every = np.arange(width, dtype=np.int32)
    in_full = (num_blocks <= full_up_to)[:, None, None, None]
    own = (every < of_each)[:, None] & (row[:, None] < of_each)[:, None]
    blocks = jnp.where(in_full, every, jnp.pad(blocks, wider))
    counts = jnp.where(in_full, own.astype(counts.dtype), jnp.pad(counts, wider))
    blocks = jnp.where(counts > 0, blocks, 0)
    leading = np.broadcast_to(np.arange(layout.leading), (len(num_blocks), layout.leading))
    ends = jnp.concatenate([leading, num_blocks[:, None] - 1 - np.arange(layout.trailing)], -1)
    # A document shorter than its globals names one twice, which is as good as once.
    global_rows = jnp.clip(ends, 0, num_blocks[:, None] - 1).astype(jnp.int32)
    return BlockPattern(blocks, counts, global_rows, block_size)


def chosen_blocks(
    chosen: Bool[Array, "B T"], block_size: int, limit: int
) -> tuple[Int[Array, "B G"], Bool[Array, " B"]]:
    """The blocks that hold a chosen token, -1 for none, and whether there are more than `limit`."""
    padded = jnp.pad(chosen, ((0, 0), (0, -chosen.shape[1] % block_size)))
    by_block = padded.reshape(len(chosen), -1, block_size).any(-1)
    num_blocks = by_block.shape[1]
    place = jnp.sort(jnp.where(by_block, np.arange(num_blocks), num_blocks), axis=-1)
    place = place[:, : min(limit, num_blocks)]
    ids = jnp.where(place < num_blocks, place, -1).astype(jnp.int32)
    return ids, by_block.sum(-1) > limit


def with_global_blocks(pattern: BlockPattern, chosen: Int[Array, "B G"]) -> BlockPattern:
    """The pattern with more global blocks: every row reads them, and their rows read everything.

    A row that lists a chosen block already reads it as before; one that does not reads it once.

    Args:
      pattern: of an encoder, with a global row at least.
      chosen: block ids of each document, -1 for none.
    """
    blocks, counts = jnp.asarray(pattern.blocks), jnp.asarray(pattern.counts)
    batch = len(chosen)
    ids = chosen[:, None, None, :]
    listed = ((blocks[..., None] == ids[..., None, :]) & (counts > 0)[..., None]).any(-2)
    reads = (ids >= 0) & ~listed  # [B, #N, M, G]
    shape = (batch, *blocks.shape[1:])
    new_ids = jnp.broadcast_to(jnp.maximum(ids, 0), reads.shape)
    blocks = jnp.concatenate([jnp.broadcast_to(blocks, shape), new_ids], -1)
    counts = jnp.concatenate([jnp.broadcast_to(counts, shape), reads.astype(counts.dtype)], -1)
    rows = jnp.asarray(pattern.global_rows)
    rows = jnp.broadcast_to(rows, (batch, rows.shape[1]))
    # An unused place names a row that is global anyway.
    rows = jnp.concatenate([rows, jnp.where(chosen >= 0, chosen, rows[:, :1])], -1)
    return BlockPattern(blocks, counts, rows, pattern.block_size, pattern.causal)
