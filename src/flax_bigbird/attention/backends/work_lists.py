"""A pattern's work in segments of equal size: what the accelerator kernels walk through.

A target (a row of queries; going backward, a block of keys) has a list of sources that it is
combined with. Lists differ in length: a global row reads every block, and the two global blocks
are read by every row. They are cut into segments of C sources, so that no program of a kernel runs
long after the rest. A target has one segment at least, and its segments stand side by side:

    target      0        1    2    3        (0 and 3 read all eight blocks, C = 4)
    segment     0    1   2    3    4    5
    sources     0-3  4-7 013  124  0-3  4-7
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from flax_bigbird.attention.patterns.block_pattern import BlockPattern, IntArray


class Segments(NamedTuple):
    """S segments of C sources, of M targets; NumPy arrays if the pattern is static.

    Attributes:
      start: `[#B, #N, M + 1]` each target's first segment, and how many segments there are.
      target: `[#B, #N, S]`; of the segments past the last, the last target.
      sources: `[#B, #N, S, C]` block ids.
      counts: the same shape: how often the source counts; 0 marks one that is not read.
      used: `[#B, #N, S]` how many of the C are to be visited; what comes after is unread.
    """

    start: IntArray
    target: IntArray
    sources: IntArray
    counts: IntArray
    used: IntArray

    @property
    def extra(self) -> IntArray:
        """`[#B, #N, S - M]`: the segments that are not their target's first.

        The extra segments of target j are those at `start[j] - j` up to `start[j + 1] - j - 1`.
        """
        xp = _namespace(self.start)
        targets = self.start.shape[-1] - 1
        place = np.arange(self.target.shape[-1] - targets, dtype=np.int32)
        before = self.start[..., 1:] - np.arange(1, targets + 1, dtype=np.int32)
        # Places past the last extra segment name the last segment there is room for.
        of_target = (before[..., None, :] <= place[:, None]).sum(-1)
        segment = place + of_target + 1
        return xp.minimum(segment, self.target.shape[-1] - 1).astype(np.int32)


def segments_of_rows(pattern: BlockPattern, size: int) -> Segments:
    """Each row of queries with the key blocks that it reads."""
    xp = _namespace(pattern)
    rows, entries = pattern.num_blocks, pattern.row_width
    is_global = _is_global(pattern)[:, None]  # [#B, 1, M]
    parts_of_list, parts_of_all = -(-entries // size), -(-rows // size)
    parts = xp.where(is_global, parts_of_all, parts_of_list).astype(np.int32)
    most = rows * parts_of_list
    most += pattern.global_rows.shape[1] * max(0, parts_of_all - parts_of_list)
    start, target, part = _split(parts, most)
    place = part[..., None] * size + np.arange(size, dtype=np.int32)
    room = [(0, 0)] * 3 + [(0, parts_of_list * size - entries)]
    blocks, counts = (xp.pad(x, room) for x in (pattern.blocks, pattern.counts))
    at = xp.minimum(place, parts_of_list * size - 1)
    blocks, counts = (_take(_take(x, target), at, axis=3) for x in (blocks, counts))
    in_all = _take(is_global, target)[..., None]
    sources = xp.where(in_all, xp.minimum(place, rows - 1), blocks)
    counts = xp.where(in_all, (place < rows).astype(np.int32), counts)
    exists = (np.arange(most) < start[..., -1:])[..., None]
    return _finish(start, target, sources, xp.where(exists, counts, 0))


def segments_of_columns(pattern: BlockPattern, size: int) -> Segments:
    """Each block of keys with the rows of queries that read it: the transposed lists."""
    xp = _namespace(pattern)
    rows, entries = pattern.num_blocks, pattern.row_width
    lead = np.broadcast_shapes((pattern.global_rows.shape[0], 1), np.shape(pattern.blocks)[:2])
    is_global = _is_global(pattern)[:, None, :, None]
    counts = xp.where(is_global, 0, pattern.counts)
    row = np.broadcast_to(np.arange(rows, dtype=np.int32)[:, None], (rows, entries))
    # Global rows come first, so that the rest are in order and padding is at the end.
    ids = pattern.global_rows
    again = xp.tril(ids[:, :, None] == ids[:, None, :], -1).any(-1)
    everything = (len(ids), 1, ids.shape[1], rows)
    pairs = [
        (
            xp.broadcast_to(np.arange(rows, dtype=np.int32), everything),
            xp.broadcast_to(ids[:, None, :, None], everything),
            xp.broadcast_to(xp.where(again, 0, 1)[:, None, :, None], everything),
        ),
        (pattern.blocks, xp.broadcast_to(row, np.shape(counts)), counts),
    ]
    column, row, counts = (
        xp.concatenate(
            [xp.broadcast_to(x.reshape(*x.shape[:2], -1), (*lead, x[0, 0].size)) for x in parts],
            -1,
        ).astype(np.int32)
        for parts in zip(*pairs, strict=True)
    )
    column = xp.where(counts > 0, column, rows)  # to the end
    order = xp.argsort(column, axis=-1, stable=True)
    row, counts = (xp.take_along_axis(x, order, -1) for x in (row, counts))
    lengths = _occurrences(column, rows)
    parts = xp.maximum(1, -(-lengths // size)).astype(np.int32)
    most = rows + column.shape[-1] // size
    if isinstance(parts, np.ndarray):
        most = int(parts.sum(-1).max())
    start, target, part = _split(parts, most)
    first = xp.cumsum(lengths, -1) - lengths
    within = part[..., None] * size + np.arange(size, dtype=np.int32)
    exists = (np.arange(most) < start[..., -1:])[..., None]
    read = exists & (within < _take(lengths, target)[..., None])
    at = xp.minimum(_take(first, target)[..., None] + within, row.shape[-1] - 1)
    flat = at.reshape(*at.shape[:2], -1)
    sources, counts = (_take(x, flat).reshape(at.shape) for x in (row, counts))
    return _finish(start, target, xp.where(read, sources, 0), xp.where(read, counts, 0))


def without_padding(segments: Segments, mask: Bool[Array, "B T"], block_size: int) -> Segments:
    """The segments, with nothing to visit where a target or all that comes after is padding."""
    padding = -mask.shape[1] % block_size
    live = jnp.pad(mask, ((0, 0), (0, padding))).reshape(len(mask), 1, -1, block_size).any(-1)
    sources = jnp.asarray(segments.sources)
    read = _take(live, sources.reshape(*sources.shape[:2], -1))
    read = read.reshape(*read.shape[:2], *sources.shape[2:])
    read = read & (segments.counts > 0)
    used = _last(read)
    used = jnp.where(_take(live, jnp.asarray(segments.target)), used, 0)
    return segments._replace(used=used.astype(jnp.int32))


def _finish(start: Any, target: Any, sources: Any, counts: Any) -> Segments:
    xp = _namespace(counts)
    lead = np.broadcast_shapes(target.shape[:2], sources.shape[:2])
    arrays = (start, target, sources, counts, _last(counts > 0))
    return Segments(*(xp.broadcast_to(x, (*lead, *x.shape[2:])).astype(np.int32) for x in arrays))


def _split(parts: Any, most: int) -> tuple[Any, Any, Any]:
    """From how many segments each target has: `start`, and of each segment target and part."""
    xp = _namespace(parts)
    end = xp.cumsum(parts, -1).astype(np.int32)
    start = xp.concatenate([xp.zeros_like(end[..., :1]), end], -1)
    number = np.arange(most, dtype=np.int32)
    target = (end[..., None, :] <= number[:, None]).sum(-1)
    target = xp.minimum(target, parts.shape[-1] - 1).astype(np.int32)
    return start, target, number - _take(start, target)


def _is_global(pattern: BlockPattern) -> Any:
    """`[#B, M]` booleans."""
    rows = np.arange(pattern.num_blocks, dtype=np.int32)
    return (pattern.global_rows[:, None, :] == rows[:, None]).any(-1)


def _last(read: Any) -> Any:
    """One past the last entry that is True, over the last axis."""
    place = np.arange(1, read.shape[-1] + 1, dtype=np.int32)
    return _namespace(read).where(read, place, 0).max(-1)


def _occurrences(ids: Any, kinds: int) -> Any:
    """`[..., kinds]`: how often each id occurs in `[..., E]`; others are not counted."""
    shape = (*ids.shape[:-1], kinds + 1)
    lead = np.indices(ids.shape)[:-1]
    if isinstance(ids, np.ndarray):
        found = np.zeros(shape, np.int32)
        np.add.at(found, (*lead, ids), 1)
    else:
        found = jnp.zeros(shape, jnp.int32).at[(*lead, ids)].add(1)
    return found[..., :kinds]


def _take(x: Any, at: Any, axis: int = 2) -> Any:
    """`take_along_axis` whose document and head axes broadcast; later axes of `x` stay whole."""
    xp = np if isinstance(x, np.ndarray) and isinstance(at, np.ndarray) else jnp
    lead = np.broadcast_shapes(x.shape[:2], at.shape[:2])
    x = xp.broadcast_to(x, (*lead, *x.shape[2:]))
    at = xp.broadcast_to(at, (*lead, *at.shape[2:]))
    if at.ndim < x.ndim:
        at = at.reshape(at.shape + (1,) * (x.ndim - at.ndim))
    return xp.take_along_axis(x, at, axis)


def _namespace(x: Any) -> Any:
    return np if all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(x)) else jnp
