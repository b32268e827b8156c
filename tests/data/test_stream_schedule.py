"""The batches of a block: readers give the same number of rows, and few windows are left."""

import collections

import numpy as np
import pytest

from flax_bigbird.data.stream_schedule import (
    Move,
    count_batches,
    divide_moves,
    divide_windows,
    plan_moves,
)

ROWS = [4, 2, 1]
LENGTHS = [8, 16, 32]


def random_counts(generator, num_readers, total):
    """Returns counts by bucket with equal sums; some readers lack whole buckets."""
    counts = []
    for _ in range(num_readers):
        weights = generator.random(len(ROWS)) ** 4 * (generator.random(len(ROWS)) < 0.7)
        weights = weights if weights.any() else np.ones(len(ROWS))
        counts.append(generator.multinomial(total, weights / weights.sum()).tolist())
    return counts


@pytest.mark.parametrize("seed", range(20))
def test_readers_give_equal_rows_and_few_windows_wait(seed):
    """After the moves, each reader has its rows of all batches, and windows are in their bucket."""
    generator = np.random.default_rng(seed)
    num_readers, total = int(generator.integers(1, 6)), int(generator.integers(7, 200))
    counts = random_counts(generator, num_readers, total)
    num_batches = count_batches(counts, ROWS)
    assert sum(num_batches) > 0
    windows = [
        [[np.array([reader, bucket, n]) for n in range(count)] for bucket, count in enumerate(own)]
        for reader, own in enumerate(counts)
    ]
    for moves in divide_moves(plan_moves(counts, num_batches, ROWS), LENGTHS, 64):
        tokens = collections.Counter()
        for giver, receiver, bucket, count in moves:
            tokens[giver] += count * LENGTHS[bucket]
            windows[receiver][bucket] += [windows[giver][bucket].pop() for _ in range(count)]
        assert max(tokens.values()) <= 64
    given, waiting = [], []
    for own in windows:
        batches, rest = divide_windows(own, num_batches, ROWS)
        assert [len(of_bucket) for of_bucket in batches] == num_batches
        for bucket, of_bucket in enumerate(batches):
            for batch in of_bucket:
                assert len(batch) == ROWS[bucket]
                assert all(window[1] == bucket for window in batch)
                given += batch
        waiting += rest
    left = np.bincount([window[1] for window in waiting], minlength=len(ROWS))
    assert (left < num_readers * np.array(ROWS)).all()
    expected = [
        (r, b, n) for r, own in enumerate(counts) for b, c in enumerate(own) for n in range(c)
    ]
    assert sorted(map(tuple, (*given, *waiting))) == expected


def test_readers_keep_what_they_need():
    counts = [[9, 5, 2], [8, 4, 3]]
    assert count_batches(counts, ROWS) == [2, 2, 2]
    assert plan_moves(counts, [2, 2, 2], ROWS) == []
    assert plan_moves([[9, 0, 2], [7, 9, 2]], [2, 2, 2], ROWS) == [
        Move(0, 1, 0, 1),
        Move(1, 0, 1, 4),
    ]


def test_windows_that_are_longer_than_a_round_are_moved_alone():
    moves = [Move(0, 1, 2, 2), Move(1, 2, 0, 3)]
    rounds = list(divide_moves(moves, LENGTHS, 16))
    assert rounds == [[Move(0, 1, 2, 1), Move(1, 2, 0, 2)], [Move(0, 1, 2, 1), Move(1, 2, 0, 1)]]
