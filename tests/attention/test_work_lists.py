"""Segments hold every pair of a row and a block that it reads, once, and no other."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_suite import make_pattern
from named_shapes import TESTED
from oracle import written_out

from flax_bigbird.attention import BlockPattern
from flax_bigbird.attention.backends.work_lists import (
    segments_of_columns,
    segments_of_rows,
    without_padding,
)


def pairs_of(segments, document: int, head: int) -> Counter:
    """How often each (target, source) is visited."""
    start, target, sources, counts, used = (np.asarray(x) for x in segments)

    def at(x):
        return x[document % x.shape[0], head % x.shape[1]]

    found: Counter = Counter()
    for segment in range(at(start)[-1]):
        owner = at(target)[segment]
        assert at(start)[owner] <= segment < at(start)[owner + 1]
        for c in range(at(used)[segment]):
            found[int(owner), int(at(sources)[segment, c])] += int(at(counts)[segment, c])
    assert not at(used)[at(start)[-1] :].any()
    return +found


def irregular(rng) -> BlockPattern:
    """Holes in the lists, lists by document and head, a global row named twice."""
    blocks = rng.integers(0, 11, (2, 3, 11, 5)).astype(np.int32)
    counts = rng.integers(0, 3, blocks.shape).astype(np.int32)
    return BlockPattern(blocks, counts, np.array([[0, 5], [3, 3]], np.int32), 4)


@pytest.mark.parametrize("traced", [False, True], ids=["static", "traced"])
@pytest.mark.parametrize("size", [1, 3, 16])
@pytest.mark.parametrize("kind", ["random", "causal", "irregular"])
def test_every_pair_once(kind, size, traced):
    rng = np.random.default_rng()
    pattern = irregular(rng) if kind == "irregular" else make_pattern(TESTED["ragged"], kind)
    given = jax.tree.map(jnp.asarray, pattern) if traced else pattern
    cut = [
        jax.jit(f, static_argnums=1)(given, size) for f in (segments_of_rows, segments_of_columns)
    ]
    if not traced:
        cut = [f(given, size) for f in (segments_of_rows, segments_of_columns)]
        assert all(isinstance(x, np.ndarray) for segments in cut for x in segments)
    for document in range(2):
        for head in range(3 if kind == "irregular" else 2):
            want = Counter(
                (row, block)
                for row in range(pattern.num_blocks)
                for block in written_out(pattern, document, head, row)
            )
            assert pairs_of(cut[0], document, head) == want
            transposed = Counter({(block, row): n for (row, block), n in want.items()})
            assert pairs_of(cut[1], document, head) == transposed


@pytest.mark.parametrize("size", [2, 16])
def test_extra_segments(size):
    """Each target's extra segments are where they are said to be."""
    segments = segments_of_columns(irregular(np.random.default_rng()), size)
    start, extra = segments.start, segments.extra
    for at in np.ndindex(start.shape[:2]):
        for target in range(start.shape[-1] - 1):
            begin, end = start[at][target] - target, start[at][target + 1] - target - 1
            wanted = np.arange(start[at][target] + 1, start[at][target + 1])
            assert (extra[at][begin:end] == wanted).all()


def test_padding_is_not_visited():
    """Right padding is at the end of every list: no padded target or source is visited."""
    shape = TESTED["ragged"]
    pattern = make_pattern(shape, "random")
    real = 21  # tokens: blocks 0 to 5
    mask = jnp.asarray(np.arange(shape.T) < np.array([[real], [shape.T]]))
    for segments in (segments_of_rows(pattern, 16), segments_of_columns(pattern, 16)):
        trimmed = without_padding(segments, mask, shape.W)
        whole, short = pairs_of(trimmed, 1, 0), pairs_of(trimmed, 0, 0)
        assert whole == pairs_of(segments, 0, 0)
        live = Counter({pair: n for pair, n in whole.items() if max(pair) <= real // shape.W})
        assert {pair: short[pair] for pair in live} == live
        assert all(target <= real // shape.W for target, _ in short)
        visited = np.asarray(trimmed.used)[0].sum()
        assert visited < 0.5 * np.asarray(segments.used)[0].sum()
