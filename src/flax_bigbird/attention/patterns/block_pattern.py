"""`BlockPattern`: which key blocks each row of query blocks reads, and how often."""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from flax_bigbird._messages import pluralize

IntArray = Int[Array, "..."] | Int[np.ndarray, "..."]
if TYPE_CHECKING:
    Leaf = IntArray
else:
    Leaf = Any  # tree transformations such as `jax.vmap` build patterns of other leaves


MAX_BLOCKS = 2**20  # rows of a pattern
MAX_BLOCK_SIZE = 2**20  # tokens
MAX_TOKENS = 2**31 - 1  # of all blocks together: positions are 32-bit integers


def check_pattern_sizes(num_blocks: Any, block_size: Any) -> None:
    """Raises `ValueError` for a number of blocks, or of tokens per block, that cannot be.

    Args:
      num_blocks: M.
      block_size: W, in tokens.
    """
    for name, value, least, most in (
        ("num_blocks", num_blocks, 0, MAX_BLOCKS),
        ("block_size", block_size, 1, MAX_BLOCK_SIZE),
    ):
        is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not is_integer or not least <= value <= most:
            raise ValueError(
                f"{name} must be an integer in {least}..{most:,}; got {value!r}: build a "
                "pattern of fewer or smaller blocks"
            )
    if int(num_blocks) * int(block_size) > MAX_TOKENS:
        raise ValueError(
            f"the blocks of a pattern must have at most {MAX_TOKENS:,} tokens together; got "
            f"{num_blocks:,} blocks of {block_size:,}: build a pattern of fewer or smaller blocks"
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlockPattern:
    """Lists of key blocks with multiplicities, one list for each row of query blocks.

    A sequence of T tokens is cut into M = ceil(T / W) blocks. Row i lists the key blocks that the W
    queries of block i read; a block that is listed c times weighs c times in the softmax. A block
    may stand in several entries of a row: its counts are added up.

    The class is a pytree. NumPy arrays make a static pattern, which is folded into the compiled
    program; JAX arrays make a traced one.

    Attributes:
      blocks: `[#B, #N, M, K]` block ids. An axis of size 1 is shared by all examples or heads.
      counts: `[#B, #N, M, K]`, how often each entry counts; 0 marks an unused entry.
      global_rows: `[#B, G]`, the rows that read every key block once, whatever their list says.
      block_size: W, in tokens.
      causal: Whether a query reads no key after itself (inside a block, too).
      far_reads: `(c, r)`, if m consecutive rows that are not global are known to read at most
        c + r*m distinct blocks besides their own, or None. It bounds the memory of a traced
        pattern where tokens are split over devices.
    """

    blocks: Leaf
    counts: Leaf
    global_rows: Leaf
    block_size: int = dataclasses.field(metadata={"static": True})
    causal: bool = dataclasses.field(default=False, metadata={"static": True})
    far_reads: tuple[int, int] | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def num_blocks(self) -> int:
        """M, the number of rows."""
        return self.blocks.shape[2]

    @property
    def row_width(self) -> int:
        """K, the maximum number of entries of a row."""
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
        """Builds a static pattern from Python lists.

        Args:
          rows: The block ids of each row, or such a list for each head. Repeated ids are merged
            into counts.
          block_size: W, in tokens.
          global_rows: The rows that read every block.
          causal: As in the class.

        Raises:
          ValueError: If a block id lies outside `0..M-1`, or if `block_size` is too large.
        """
        heads = rows if rows and rows[0] and isinstance(rows[0][0], list) else [rows]
        num_blocks = len(heads[0])
        check_pattern_sizes(num_blocks, block_size)
        width = max((len(row) for head in heads for row in head), default=1)  # type: ignore[arg-type]
        ids = np.full((1, len(heads), num_blocks, max(width, 1)), -1, np.int32)
        for n, head in enumerate(heads):
            for i, row in enumerate(head):
                ids[0, n, i, : len(row)] = row  # type: ignore[arg-type, call-overload]
        if ids.max(initial=-1) >= num_blocks or ids.min(initial=0) < -1:
            raise ValueError(
                f"block ids must lie in 0..{num_blocks - 1} (the pattern has "
                f"{pluralize(num_blocks, 'row')}); got ids from {ids.min()} to {ids.max()}"
            )
        blocks, counts = merge_repeats(ids, ids >= 0)
        return cls(blocks, counts, np.asarray([global_rows], np.int32), block_size, causal)


def add_far_reads(far_reads: tuple[int, int] | None, num_blocks: int) -> tuple[int, int] | None:
    """Returns the `far_reads` of a pattern in which each row may read some more blocks."""
    return None if far_reads is None else (far_reads[0] + num_blocks, far_reads[1])


def merge_repeats(ids: IntArray, valid: Any) -> tuple[IntArray, IntArray]:
    """Sorts the ids of each row and merges repeated ones into counts.

    Args:
      ids: `[..., K]` block ids, NumPy or traced.
      valid: `[..., K]` booleans; entries that are False are dropped.

    Returns:
      `(blocks, counts)`, both `[..., K]`, with the unused entries (0, 0) last. Static rows are
      trimmed to the longest one.
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


def multiplicities(
    pattern: BlockPattern, rows: Int[Array, " Q"] | Int[np.ndarray, " Q"] | None = None
) -> Int[Array, "#B #N Q M"]:
    """Returns how often each row of a pattern reads each key block, global rows included.

    Args:
      pattern: The pattern.
      rows: The rows to return; by default all M.
    """
    rows = np.arange(pattern.num_blocks) if rows is None else rows
    blocks, counts = (jnp.asarray(x)[:, :, rows] for x in (pattern.blocks, pattern.counts))
    listed = blocks[..., None] == jnp.arange(pattern.num_blocks)
    table = jnp.where(listed, counts[..., None], 0).sum(-2)
    global_rows = jnp.asarray(pattern.global_rows)
    is_global = (global_rows[:, None, :] == jnp.asarray(rows)[:, None]).any(-1)  # [#B, Q]
    return jnp.where(is_global[:, None, :, None], 1, table)
