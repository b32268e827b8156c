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


@dataclasses.dataclass(frozen=True)
class Layout:
    """How many blocks are global and how wide the window is; the default is BigBird's.

    Attributes:
      reach: window blocks on either side of a row's own.
      leading, trailing: global blocks at the beginning and at the end: every row reads them, and
        their rows read everything. A decoder has no trailing ones, and no row that reads all.
    """

    reach: int = 1
    leading: int = 1
    trailing: int = 1

    @property
    def width(self) -> int:
        """The distinct blocks a row reads besides the random ones."""
        return self.leading + self.trailing + 2 * self.reach + 1

    def is_middle(self, row: Any, num_blocks: Any) -> Any:
        """Whether rows are neither global nor past the last block. Works on traced arrays."""
        return (row >= self.leading) & (row < num_blocks - self.trailing)

    def global_rows(self, num_blocks: int) -> Int[np.ndarray, " G"]:
        """The rows that read everything."""
        row = np.arange(num_blocks)
        return row[~self.is_middle(row, num_blocks)].astype(np.int32)

    def fixed_blocks(self, num_blocks: Any, rows: int, *, causal: bool = False) -> tuple[Any, Any]:
        """Global and window blocks of rows 0..rows-1: ids and whether they count, `[..., rows, K]`.

        No block is listed twice. `num_blocks` may be traced, of shape `[..., 1, 1]`.
        """
        row = np.arange(rows)[:, None]
        leading, trailing = np.arange(self.leading), np.arange(self.trailing)
        after = 0 if causal else self.reach
        window = row + np.arange(-self.reach, after + 1)
        if causal:
            first = np.broadcast_to(leading, (rows, self.leading))
            ids = np.concatenate([first, window], -1)
            return ids, np.concatenate([first <= row, window >= self.leading], -1)
        xp: Any = jnp if isinstance(num_blocks, jax.Array) else np
        shape = (*np.shape(num_blocks)[:-2], rows)
        last = xp.broadcast_to(num_blocks - 1 - trailing, (*shape, self.trailing))
        first = xp.broadcast_to(leading, (*shape, self.leading))
        window = xp.broadcast_to(window, (*shape, window.shape[-1]))
        inside = (window >= self.leading) & (window < num_blocks - self.trailing)
        ids = xp.concatenate([first, window, last], -1)
        valid = xp.concatenate([first < num_blocks, inside, last >= self.leading], -1)
        return ids, valid


BIGBIRD = Layout()


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
    layout: Layout = BIGBIRD,
) -> BlockPattern:
    """BigBird's pattern: global, window and random blocks (paper, section 2).

    Args:
      num_blocks: M.
      block_size: W.
      random: `[N, M, R]` random block ids per head and row, -1 for none; static or traced.
        Repeats, and overlaps with the window and the globals, count as often as they are listed.
      extra_first: how many more times block 0 counts in every row but the global ones: what both
        Hugging Face ports put in the place of random blocks in evaluation (transformers 23055).
      causal: the decoder's pattern: leading blocks, then the row's window up to itself; no row and
        no trailing block is global.
      layout: how many global and window blocks; default BigBird's.

    Returns:
      A pattern of at most `layout.width` + R entries a row.
    """
    row = np.arange(num_blocks)
    fixed, valid = layout.fixed_blocks(num_blocks, num_blocks, causal=causal)
    if causal:
        global_rows = np.zeros((1, 0), np.int32)
        extra_rows = row >= 1
    else:
        global_rows = layout.global_rows(num_blocks)[None]
        extra_rows = layout.is_middle(row, num_blocks)
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
        ok = ok & layout.is_middle(row, num_blocks)[:, None]
    blocks, counts = merge_repeats(ids, ok)
    return BlockPattern(blocks[None], counts[None], global_rows, block_size, causal)
