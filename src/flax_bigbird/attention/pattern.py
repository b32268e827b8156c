"""Which key blocks each row of query blocks reads: the multiset at the heart of BigBird.

A sequence of T tokens is cut into M = T/W blocks. Row i of the pattern lists the key blocks that
the W queries of block i read; a block listed c times weighs c times in the softmax.

    BigBird's encoder, M = 8, no random blocks        its causal decoder
      k 0 1 2 3 4 5 6 7                                 k 0 1 2 3 4 5 6 7
    q 0 x x x x x x x x   <- global row               q 0 \\
      1 x x x         x                                 1 x \\
      2 x x x x       x                                 2 x x \\
      3 x   x x x     x                                 3 x   x \\
      4 x     x x x   x                                 4 x     x \\
      5 x       x x x x                                 5 x       x \\
      6 x         x x x                                 6 x         x \\
      7 x x x x x x x x   <- global row                 7 x           x \\

Source: Zaheer et al. 2020, arXiv 2007.14062, section 2 and appendix D.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

IntArray = Int[Array, "..."] | Int[np.ndarray, "..."]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlockPattern:
    """Row lists of key blocks, with multiplicities; a pytree whose arrays may be traced.

    Attributes:
      blocks: `[#B, #N, M, K]` block ids. Axes of size 1 are shared by all documents or all heads.
      counts: the same shape: how often each entry counts; 0 marks an unused entry.
      global_rows: `[#B, G]` rows that read every key block once, whatever their list says.
      block_size: W, tokens per block.
      causal: whether a query reads no key after itself (also inside a block).

    NumPy arrays make a static pattern (folded into the compiled program), jax arrays a traced one.
    A block may stand in several entries of a row: its counts add up.
    """

    blocks: IntArray
    counts: IntArray
    global_rows: IntArray
    block_size: int = dataclasses.field(metadata={"static": True})
    causal: bool = dataclasses.field(default=False, metadata={"static": True})

    @property
    def num_blocks(self) -> int:
        """M, the number of rows."""
        return self.blocks.shape[2]

    @property
    def row_width(self) -> int:
        """K, the number of entries a row has room for."""
        return self.blocks.shape[3]

    @classmethod
    def from_lists(
        cls,
        rows: list[list[int]] | list[list[list[int]]],
        block_size: int,
        *,
        global_rows: tuple[int, ...] = (),
        causal: bool = False,
    ) -> "BlockPattern":
        """Builds a static pattern from Python lists, one per row (or one list of rows per head).

        Repeated ids are merged into counts. Raises `ValueError` for an id outside `0..M-1`.
        """
        heads = rows if rows and rows[0] and isinstance(rows[0][0], list) else [rows]
        num_blocks = len(heads[0])
        width = max((len(row) for head in heads for row in head), default=1)  # type: ignore[arg-type]
        ids = np.full((1, len(heads), num_blocks, max(width, 1)), -1, np.int32)
        for n, head in enumerate(heads):
            for i, row in enumerate(head):
                ids[0, n, i, : len(row)] = row  # type: ignore[arg-type, call-overload]
        if ids.max(initial=-1) >= num_blocks or ids.min(initial=0) < -1:
            raise ValueError(
                f"block ids must lie in 0..{num_blocks - 1} (the pattern has {num_blocks} rows); "
                f"got ids from {ids.min()} to {ids.max()}"
            )
        blocks, counts = merge_repeats(ids, ids >= 0)
        return cls(blocks, counts, np.asarray([global_rows], np.int32), block_size, causal)


def merge_repeats(ids: IntArray, valid: Any) -> tuple[IntArray, IntArray]:
    """Sorts each row's ids and merges repeats: `(blocks, counts)`, unused entries (0, 0) last.

    Args:
      ids: `[..., K]` block ids.
      valid: `[..., K]` booleans; entries that are False are dropped.

    Works on NumPy and on traced arrays. Static rows are trimmed to the longest one.
    """
    static = isinstance(ids, np.ndarray)
    xp: Any = np if static else jnp
    unused = xp.iinfo(xp.int32).max
    ids = xp.sort(xp.where(valid, ids, unused), axis=-1)
    counts = (ids[..., :, None] == ids[..., None, :]).sum(-1)
    first = xp.concatenate(
        [xp.ones_like(ids[..., :1], bool), ids[..., 1:] != ids[..., :-1]], axis=-1
    )
    keep = first & (ids != unused)
    order = xp.argsort(xp.where(keep, ids, unused), axis=-1)
    blocks = xp.take_along_axis(xp.where(keep, ids, 0), order, axis=-1).astype(xp.int32)
    counts = xp.take_along_axis(xp.where(keep, counts, 0), order, axis=-1).astype(xp.int32)
    if static:
        width = max(1, int((counts > 0).sum(-1).max(initial=1)))
        blocks, counts = blocks[..., :width], counts[..., :width]
    return blocks, counts


def bigbird_pattern(
    num_blocks: int,
    block_size: int,
    *,
    random: IntArray | None = None,
    extra_first: int = 0,
    causal: bool = False,
) -> BlockPattern:
    """BigBird's pattern: global, window and random blocks (paper, section 2).

    Args:
      num_blocks: M.
      block_size: W.
      random: `[N, M, R]` random block ids per head and row, -1 for none; static or traced.
        Repeats, and overlaps with the window and the globals, count as often as they are listed.
      extra_first: how many more times block 0 counts in every row but the global ones: what both
        Hugging Face ports put in the place of random blocks in evaluation (transformers 23055).
      causal: the decoder's pattern: blocks 0, i-1, i; no row and no trailing block is global.

    Returns:
      A pattern of at most 5 + R entries a row.
    """
    row = np.arange(num_blocks)
    last = num_blocks - 1
    if causal:
        fixed = np.stack([row * 0, row - 1, row], -1)
        valid = np.stack([row >= 0, row >= 2, row >= 1], -1)
        global_rows = np.zeros((1, 0), np.int32)
        extra_rows = row >= 1
    else:
        fixed = np.stack([row * 0, row - 1, row, row + 1, row * 0 + last], -1)
        valid = (fixed > 0) & (fixed < last)
        valid[:, 0], valid[:, 4] = True, last > 0
        global_rows = np.unique([0, last]).astype(np.int32)[None]
        extra_rows = (row > 0) & (row < last)
    if extra_first:
        fixed = np.concatenate([fixed, np.zeros((num_blocks, extra_first), int)], -1)
        valid = np.concatenate([valid, np.repeat(extra_rows[:, None], extra_first, -1)], -1)
    ids: Any = fixed[None].astype(np.int32)
    ok: Any = valid[None]
    if random is not None and random.shape[-1]:
        xp: Any = np if isinstance(random, np.ndarray) else jnp
        heads = random.shape[0]
        ids = xp.concatenate([xp.broadcast_to(ids, (heads, *ids.shape[1:])), random], -1)
        ok = xp.concatenate([xp.broadcast_to(ok, (heads, *ok.shape[1:])), random >= 0], -1)
    if not causal:  # global rows read everything, so their lists stay empty
        middle = np.ones((num_blocks, 1), bool)
        middle[[0, last]] = False
        ok = ok & middle
    blocks, counts = merge_repeats(ids, ok)
    return BlockPattern(blocks[None], counts[None], global_rows, block_size, causal)


def bigbird_pattern_by_document(
    num_blocks: Int[Array, " B"],
    most: int,
    block_size: int,
    *,
    full_up_to: int = 0,
    random: Int[Array, "#B N M R"] | None = None,
    extra_first: int = 0,
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
      extra_first: as for `bigbird_pattern`.

    Returns:
      A traced pattern of at most max(5 + R, full_up_to) entries a row. The blocks past a document's
      last are to be masked as keys.
    """
    row = np.arange(most)
    last = num_blocks[:, None] - 1
    window = [jnp.broadcast_to(row + offset, (len(num_blocks), most)) for offset in (-1, 0, 1)]
    first = jnp.zeros_like(window[0])
    fixed = jnp.stack([first, *window, jnp.broadcast_to(last, first.shape)], -1)
    valid = (fixed > 0) & (fixed < last[..., None])
    valid = valid.at[..., 0].set(True).at[..., 4].set(jnp.broadcast_to(last > 0, first.shape))
    if extra_first:
        again = (*first.shape, extra_first)
        fixed = jnp.concatenate([fixed, jnp.zeros(again, fixed.dtype)], -1)
        valid = jnp.concatenate([valid, jnp.ones(again, bool)], -1)
    ids, ok = fixed[:, None], valid[:, None]
    if random is not None and random.shape[-1]:
        lead = (len(num_blocks), random.shape[1], most)
        picks = jnp.broadcast_to(random, (*lead, random.shape[-1]))
        ids = jnp.concatenate([jnp.broadcast_to(ids, (*lead, ids.shape[-1])), picks], -1)
        ok = jnp.concatenate([jnp.broadcast_to(ok, (*lead, ok.shape[-1])), picks >= 0], -1)
    middle = (row > 0) & (row < last)
    blocks, counts = merge_repeats(ids, ok & middle[:, None, :, None])
    width = max(blocks.shape[-1], min(full_up_to, most))
    wider = [(0, 0)] * 3 + [(0, width - blocks.shape[-1])]
    every = np.arange(width, dtype=np.int32)
    in_full = (num_blocks <= full_up_to)[:, None, None, None]
    own = (every <= last)[:, None, None, :] & (row <= last)[:, None, :, None]
    blocks = jnp.where(in_full, every, jnp.pad(blocks, wider))
    counts = jnp.where(in_full, own.astype(counts.dtype), jnp.pad(counts, wider))
    blocks = jnp.where(counts > 0, blocks, 0)
    global_rows = jnp.stack([jnp.zeros_like(num_blocks), num_blocks - 1], -1)
    return BlockPattern(blocks, counts, global_rows.astype(jnp.int32), block_size)
