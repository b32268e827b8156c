"""Plans the batches of a block, so that all readers of a stream contribute to each of them.

Readers have different documents, and so different numbers of windows for each bucket. They agree on
how many batches each bucket gets in this block: as many as the reader with the most windows of that
length has. The others fill these batches with shorter windows, which are padded further. As every
reader gives the same number of windows, those that are left over are fewer than a batch of each
bucket, for every reader.
"""

from collections.abc import Sequence

import numpy as np

Windows = list[np.ndarray]


def count_batches(counts: Sequence[Sequence[int]], rows: Sequence[int]) -> list[int]:
    """Returns the number of batches of each bucket.

    It is not 0 for all of them if every reader has at least `sum(rows)` windows.

    Args:
      counts: `[readers, buckets]`, the number of windows of each reader by bucket, in ascending
        order of the lengths. The sums of all readers are equal.
      rows: `[buckets]`, the number of rows of a batch that each reader gives.
    """
    remaining = [list(own) for own in counts]
    num_batches = [0] * len(rows)
    for bucket in reversed(range(len(rows))):
        wanted = max(own[bucket] // rows[bucket] for own in remaining)
        possible = min(sum(own[: bucket + 1]) // rows[bucket] for own in remaining)
        num_batches[bucket] = min(wanted, possible)
        for own in remaining:
            _take(own, bucket, num_batches[bucket] * rows[bucket])
    return num_batches


def divide_windows(
    buckets: Sequence[Windows], num_batches: Sequence[int], rows: Sequence[int]
) -> tuple[list[list[Windows]], Windows]:
    """Divides the windows of one reader among the batches of a block.

    Args:
      buckets: The windows of each bucket, in the order in which they are taken.
      num_batches: The number of batches of each bucket, from `count_batches`.
      rows: The number of rows of a batch that each reader gives.

    Returns:
      For each batch of each bucket, its windows of this reader, and the windows that are left over.
    """
    starts = [0] * len(buckets)
    batches: list[list[Windows]] = [[] for _ in buckets]
    for bucket in reversed(range(len(buckets))):
        count, taken = num_batches[bucket], []
        left = [len(windows) - start for windows, start in zip(buckets, starts, strict=True)]
        for lower, number in _take(left, bucket, count * rows[bucket]):
            taken += buckets[lower][starts[lower] : starts[lower] + number]
            starts[lower] += number
        # Shorter windows come last, and are spread over all batches.
        batches[bucket] = [taken[index::count] for index in range(count)]
    rest = [w for windows, start in zip(buckets, starts, strict=True) for w in windows[start:]]
    return batches, rest


def _take(remaining: list[int], bucket: int, count: int) -> list[tuple[int, int]]:
    """Takes windows of a bucket, and of shorter ones if these are too few.

    Args:
      remaining: The number of windows of each bucket; those that are taken are subtracted.
      bucket: The bucket.
      count: The number of windows to take.

    Returns:
      The buckets from which windows were taken, and how many.
    """
    taken = []
    for lower in range(bucket, -1, -1):
        number = min(count, remaining[lower])
        remaining[lower] -= number
        count -= number
        taken.append((lower, number))
    return taken
