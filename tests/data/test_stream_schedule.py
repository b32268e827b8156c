"""The batches of a block: readers give the same number of rows, and few windows are left."""

import numpy as np
import pytest

from flax_bigbird.data.stream_schedule import count_batches, divide_windows

ROWS = [4, 2, 1]


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
    generator = np.random.default_rng(seed)
    num_readers, total = int(generator.integers(1, 6)), int(generator.integers(7, 200))
    counts = random_counts(generator, num_readers, total)
    num_batches = count_batches(counts, ROWS)
    assert sum(num_batches) > 0
    for own in counts:
        windows = [
            [np.array([bucket, number]) for number in range(count)]
            for bucket, count in enumerate(own)
        ]
        batches, rest = divide_windows(windows, num_batches, ROWS)
        assert [len(of_bucket) for of_bucket in batches] == num_batches
        given = []
        for bucket, of_bucket in enumerate(batches):
            for batch in of_bucket:
                assert len(batch) == ROWS[bucket]
                assert all(window[0] <= bucket for window in batch)
                given += batch
        assert len(rest) < sum(ROWS)
        everything = sorted(map(tuple, (*given, *rest)))
        assert everything == sorted(tuple(window) for bucket in windows for window in bucket)


def test_one_reader_pads_no_window_further():
    assert count_batches([[9, 5, 2]], ROWS) == [2, 2, 2]
    assert count_batches([[9, 4, 2], [3, 10, 2]], ROWS) == [0, 5, 2]
