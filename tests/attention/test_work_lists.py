"""Work lists hold every pair of a row and a block that it reads, once, and no other pair."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_suite import make_pattern
from named_shapes import TESTED
from oracle import listed_blocks

from flax_bigbird.attention import BlockPattern
from flax_bigbird.attention.backends.work_lists import (
    column_work,
    row_work,
    skip_padding,
)


def pairs_of(work, example: int, head: int) -> Counter:
    """Returns how often each (target, source) is visited."""
    first_item, target, sources, counts, num_used = (np.asarray(x) for x in work)

    def at(x):
        return x[example % x.shape[0], head % x.shape[1]]

    pairs: Counter = Counter()
    for item in range(at(first_item)[-1]):
        owner = at(target)[item]
        assert at(first_item)[owner] <= item < at(first_item)[owner + 1]
        for c in range(at(num_used)[item]):
            pairs[int(owner), int(at(sources)[item, c])] += int(at(counts)[item, c])
    assert not at(num_used)[at(first_item)[-1] :].any()
    return +pairs


def irregular(rng) -> BlockPattern:
    """Builds lists with holes that differ by example and head, and a global row listed twice."""
    blocks = rng.integers(0, 11, (2, 3, 11, 5)).astype(np.int32)
    counts = rng.integers(0, 3, blocks.shape).astype(np.int32)
    return BlockPattern(blocks, counts, np.array([[0, 5], [3, 3]], np.int32), 4)


@pytest.mark.parametrize("traced", [False, True], ids=["static", "traced"])
@pytest.mark.parametrize("size", [1, 3, 16])
@pytest.mark.parametrize("kind", ["random", "causal", "irregular"])
def test_every_pair_once(kind, size, traced, rng):
    pattern = irregular(rng) if kind == "irregular" else make_pattern(TESTED["ragged"], kind)
    given = jax.tree.map(jnp.asarray, pattern) if traced else pattern
    cut = [jax.jit(f, static_argnums=1)(given, size) for f in (row_work, column_work)]
    if not traced:
        cut = [f(given, size) for f in (row_work, column_work)]
        assert all(isinstance(x, np.ndarray) for work in cut for x in work)
    for example in range(2):
        for head in range(3 if kind == "irregular" else 2):
            want = Counter(
                (row, block)
                for row in range(pattern.num_blocks)
                for block in listed_blocks(pattern, example, head, row)
            )
            assert pairs_of(cut[0], example, head) == want
            transposed = Counter({(block, row): n for (row, block), n in want.items()})
            assert pairs_of(cut[1], example, head) == transposed


@pytest.mark.parametrize("size", [2, 16])
def test_extra_items(size, rng):
    """The extra items of each target stand where the documentation says."""
    work = column_work(irregular(rng), size)
    start, extra = np.asarray(work.first_item), np.asarray(work.extra_items)
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
    for work in (row_work(pattern, 16), column_work(pattern, 16)):
        trimmed = skip_padding(work, mask, shape.W)
        whole, short = pairs_of(trimmed, 1, 0), pairs_of(trimmed, 0, 0)
        assert whole == pairs_of(work, 0, 0)
        live = Counter({pair: n for pair, n in whole.items() if max(pair) <= real // shape.W})
        assert {pair: short[pair] for pair in live} == live
        assert all(target <= real // shape.W for target, _ in short)
        visited = np.asarray(trimmed.num_used)[0].sum()
        assert visited < 0.5 * np.asarray(work.num_used)[0].sum()
