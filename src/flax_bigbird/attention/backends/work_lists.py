"""Work lists, which cut a pattern into work items of equal size for the accelerator kernels.

A target (a row of queries; in the backward pass also a block of keys) is combined with a list of
sources. The lists differ in length: a global row reads every block, and every row reads the global
blocks. They are cut into work items of C sources each, so that no program of a kernel runs long
after the rest. Each target has at least one item, and its items are adjacent:

    target      0        1    2    3        (0 and 3 read all eight blocks, C = 4)
    item        0    1   2    3    4    5
    sources     0-3  4-7 013  124  0-3  4-7
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from flax_bigbird.attention.patterns.block_pattern import BlockPattern, IntArray


class WorkList(NamedTuple):
    """I work items of C sources, for M targets; NumPy arrays if the pattern is static.

    Attributes:
      first_item: `[#B, #N, M + 1]`, the first item of each target, and the number of items.
      target: `[#B, #N, I]`; unused items past the last one repeat the last target.
      sources: `[#B, #N, I, C]` block ids.
      counts: `[#B, #N, I, C]`, how often the source counts; 0 marks one that is not read.
      num_used: `[#B, #N, I]`, how many of the C sources the kernel visits; it skips the rest.
    """

    first_item: IntArray
    target: IntArray
    sources: IntArray
    counts: IntArray
    num_used: IntArray

    @property
    def extra_items(self) -> IntArray:
        """`[#B, #N, I - M]`: the items that are not the first of their target.

        Those of target j have the indices `range(first_item[j] - j, first_item[j + 1] - j - 1)`
        here. Entries past the last extra item name unused items.
        """
        xp = _namespace(self.first_item)
        targets = self.first_item.shape[-1] - 1
        index = np.arange(self.target.shape[-1] - targets, dtype=np.int32)
        before = self.first_item[..., 1:] - np.arange(1, targets + 1, dtype=np.int32)
        target = (before[..., None, :] <= index[:, None]).sum(-1)
        item = index + target + 1
        return xp.minimum(item, self.target.shape[-1] - 1).astype(np.int32)


def row_work(pattern: BlockPattern, size: int) -> WorkList:
    """Returns the work of the forward pass: each row of queries with the key blocks it reads.

    Args:
      pattern: The pattern.
      size: C, the sources per item.
    """
    xp = _namespace(pattern)
    rows, entries = pattern.num_blocks, pattern.row_width
    is_global = _is_global(pattern)[:, None]  # [#B, 1, M]
    items_per_list, items_per_global_row = -(-entries // size), -(-rows // size)
    num_items = xp.where(is_global, items_per_global_row, items_per_list).astype(np.int32)
    max_items = rows * items_per_list
    max_items += pattern.global_rows.shape[1] * max(0, items_per_global_row - items_per_list)
    first_item, target, part = _split(num_items, max_items)
    entry = part[..., None] * size + np.arange(size, dtype=np.int32)
    room = [(0, 0)] * 3 + [(0, items_per_list * size - entries)]
    blocks, counts = (xp.pad(x, room) for x in (pattern.blocks, pattern.counts))
    at = xp.minimum(entry, items_per_list * size - 1)
    blocks, counts = (_take(_take(x, target), at, axis=3) for x in (blocks, counts))
    in_global_row = _take(is_global, target)[..., None]
    sources = xp.where(in_global_row, xp.minimum(entry, rows - 1), blocks)
    counts = xp.where(in_global_row, (entry < rows).astype(np.int32), counts)
    exists = (np.arange(max_items) < first_item[..., -1:])[..., None]
    return _finish(first_item, target, sources, xp.where(exists, counts, 0))


def column_work(pattern: BlockPattern, size: int) -> WorkList:
    """Returns the transposed work: each block of keys with the rows of queries that read it.

    Args:
      pattern: The pattern.
      size: C, the sources per item.
    """
    xp = _namespace(pattern)
    rows = pattern.num_blocks
    column, row, counts = _pairs(pattern)
    column = xp.where(counts > 0, column, rows)  # unused pairs go to the end
    order = xp.argsort(column, axis=-1, stable=True)
    row, counts = (xp.take_along_axis(x, order, -1) for x in (row, counts))
    lengths = _count_ids(column, rows)
    num_items = xp.maximum(1, -(-lengths // size)).astype(np.int32)
    max_items = rows + column.shape[-1] // size
    if isinstance(num_items, np.ndarray):
        max_items = int(num_items.sum(-1).max())
    first_item, target, part = _split(num_items, max_items)
    first = xp.cumsum(lengths, -1) - lengths
    within = part[..., None] * size + np.arange(size, dtype=np.int32)
    exists = (np.arange(max_items) < first_item[..., -1:])[..., None]
    read = exists & (within < _take(lengths, target)[..., None])
    at = xp.minimum(_take(first, target)[..., None] + within, row.shape[-1] - 1)
    flat = at.reshape(*at.shape[:2], -1)
    sources, counts = (_take(x, flat).reshape(at.shape) for x in (row, counts))
    return _finish(first_item, target, xp.where(read, sources, 0), xp.where(read, counts, 0))


def skip_padding(
    work: WorkList, mask: Bool[Array | np.ndarray, "B T"], block_size: int
) -> WorkList:
    """Returns a copy whose `num_used` excludes padding targets and trailing padding sources."""
    padding = -mask.shape[1] % block_size
    live = jnp.pad(mask, ((0, 0), (0, padding))).reshape(len(mask), 1, -1, block_size).any(-1)
    sources = jnp.asarray(work.sources)
    read = _take(live, sources.reshape(*sources.shape[:2], -1))
    read = read.reshape(*read.shape[:2], *sources.shape[2:])
    read = read & (work.counts > 0)
    num_used = jnp.where(_take(live, jnp.asarray(work.target)), _end_of_true(read), 0)
    return work._replace(num_used=num_used.astype(jnp.int32))


def _pairs(pattern: BlockPattern) -> list[Any]:
    """Returns the pairs of a row and a key block, `(column, row, counts)`, `[#B, #N, P]` each.

    The pairs of global rows come first, so that the other rows are in order and padding is last.
    """
    xp = _namespace(pattern)
    rows, entries = pattern.num_blocks, pattern.row_width
    lead = np.broadcast_shapes((pattern.global_rows.shape[0], 1), np.shape(pattern.blocks)[:2])
    counts = xp.where(_is_global(pattern)[:, None, :, None], 0, pattern.counts)
    row = np.broadcast_to(np.arange(rows, dtype=np.int32)[:, None], (rows, entries))
    ids = pattern.global_rows
    repeated = xp.tril(ids[:, :, None] == ids[:, None, :], -1).any(-1)
    every_pair = (len(ids), 1, ids.shape[1], rows)
    pairs = [
        (
            xp.broadcast_to(np.arange(rows, dtype=np.int32), every_pair),
            xp.broadcast_to(ids[:, None, :, None], every_pair),
            xp.broadcast_to(xp.where(repeated, 0, 1)[:, None, :, None], every_pair),
        ),
        (pattern.blocks, xp.broadcast_to(row, np.shape(counts)), counts),
    ]
    return [
        xp.concatenate(
            [xp.broadcast_to(x.reshape(*x.shape[:2], -1), (*lead, x[0, 0].size)) for x in parts],
            -1,
        ).astype(np.int32)
        for parts in zip(*pairs, strict=True)
    ]


def _finish(first_item: Any, target: Any, sources: Any, counts: Any) -> WorkList:
    """Broadcasts the arrays to common leading axes, and counts the sources that are used."""
    xp = _namespace(counts)
    lead = np.broadcast_shapes(target.shape[:2], sources.shape[:2])
    arrays = (first_item, target, sources, counts, _end_of_true(counts > 0))
    return WorkList(*(xp.broadcast_to(x, (*lead, *x.shape[2:])).astype(np.int32) for x in arrays))


def _split(num_items: Any, max_items: int) -> tuple[Any, Any, Any]:
    """Assigns items to targets, given how many items each target has.

    Returns:
      `(first_item, target, part)`: the first item of each target; the target of each item; and
      the index of each item among those of its target.
    """
    xp = _namespace(num_items)
    end = xp.cumsum(num_items, -1).astype(np.int32)
    first_item = xp.concatenate([xp.zeros_like(end[..., :1]), end], -1)
    item = np.arange(max_items, dtype=np.int32)
    target = (end[..., None, :] <= item[:, None]).sum(-1)
    target = xp.minimum(target, num_items.shape[-1] - 1).astype(np.int32)
    return first_item, target, item - _take(first_item, target)


def _is_global(pattern: BlockPattern) -> Any:
    """Returns which rows are global, `[#B, M]` booleans."""
    rows = np.arange(pattern.num_blocks, dtype=np.int32)
    return (pattern.global_rows[:, None, :] == rows[:, None]).any(-1)


def _end_of_true(x: Any) -> Any:
    """Returns one past the index of the last True entry of the last axis."""
    end = np.arange(1, x.shape[-1] + 1, dtype=np.int32)
    return _namespace(x).where(x, end, 0).max(-1)


def _count_ids(ids: Any, num_ids: int) -> Any:
    """Returns how often each id below `num_ids` occurs in `[..., E]`, as `[..., num_ids]`."""
    shape = (*ids.shape[:-1], num_ids + 1)
    lead = np.indices(ids.shape)[:-1]
    if isinstance(ids, np.ndarray):
        out = np.zeros(shape, np.int32)
        np.add.at(out, (*lead, ids), 1)
    else:
        out = jnp.zeros(shape, jnp.int32).at[(*lead, ids)].add(1)
    return out[..., :num_ids]


def _take(x: Any, at: Any, axis: int = 2) -> Any:
    """Applies `take_along_axis`; batch and head axes broadcast, and axes after `at`'s are kept."""
    xp = np if isinstance(x, np.ndarray) and isinstance(at, np.ndarray) else jnp
    lead = np.broadcast_shapes(x.shape[:2], at.shape[:2])
    x = xp.broadcast_to(x, (*lead, *x.shape[2:]))
    at = xp.broadcast_to(at, (*lead, *at.shape[2:]))
    if at.ndim < x.ndim:
        at = at.reshape(at.shape + (1,) * (x.ndim - at.ndim))
    return xp.take_along_axis(x, at, axis)


def _namespace(x: Any) -> Any:
    """Returns `numpy` if all arrays are static, else `jax.numpy`."""
    return np if all(isinstance(array, np.ndarray) for array in jax.tree.leaves(x)) else jnp
