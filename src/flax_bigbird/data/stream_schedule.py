"""Plans the batches of a block, to each of which all readers of a stream contribute as many rows.

Readers have different documents, and so different numbers of windows for each bucket. A bucket gets
as many batches as the windows of all readers fill. Readers with more windows of a bucket than their
rows of these batches give some of them to those with fewer, so that no window is padded further
than to the length of its bucket. What is left over of a bucket is less than a batch.
"""

import collections
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

Windows = list[np.ndarray]


class Move(NamedTuple):
    """Windows that one reader gives to another.

    Attributes:
      giver: The index of the reader that has read them.
      receiver: The index of the reader that gives them to batches.
      bucket: The index of their bucket.
      num_windows: Their number.
    """

    giver: int
    receiver: int
    bucket: int
    num_windows: int


def count_batches(counts: Sequence[Sequence[int]], rows: Sequence[int]) -> list[int]:
    """Returns the number of batches of each bucket.

    It is not 0 for all of them if every reader has at least `sum(rows)` windows.

    Args:
      counts: `[readers, buckets]`, the number of windows of each reader by bucket.
      rows: `[buckets]`, the number of rows of a batch that each reader gives.
    """
    totals = [sum(of_bucket) for of_bucket in zip(*counts, strict=True)]
    return [
        total // (len(counts) * per_reader) for total, per_reader in zip(totals, rows, strict=True)
    ]


def plan_moves(
    counts: Sequence[Sequence[int]], num_batches: Sequence[int], rows: Sequence[int]
) -> list[Move]:
    """Returns the moves after which every reader has its rows of all batches.

    Args:
      counts: `[readers, buckets]`, the number of windows of each reader by bucket.
      num_batches: The number of batches of each bucket, from `count_batches`.
      rows: `[buckets]`, the number of rows of a batch that each reader gives.
    """
    moves = []
    for bucket, of_bucket in enumerate(zip(*counts, strict=True)):
        needed = num_batches[bucket] * rows[bucket]
        surplus = collections.deque((i, n - needed) for i, n in enumerate(of_bucket) if n > needed)
        for receiver, count in enumerate(of_bucket):
            missing = needed - count
            while missing > 0:
                giver, available = surplus.popleft()
                moved = min(missing, available)
                moves.append(Move(giver, receiver, bucket, moved))
                missing -= moved
                if moved < available:
                    surplus.appendleft((giver, available - moved))
    return moves


def divide_moves(
    moves: Sequence[Move], lengths: Sequence[int], max_tokens: int
) -> Iterator[list[Move]]:
    """Yields moves in rounds, in each of which no reader gives more than `max_tokens` tokens.

    A longer window has a round of its giver's own.

    Args:
      moves: The moves.
      lengths: `[buckets]`, the maximum number of tokens of a window.
      max_tokens: The maximum number of tokens.
    """
    remaining: dict[int, collections.deque[Move]] = {}
    for move in moves:
        remaining.setdefault(move.giver, collections.deque()).append(move)
    while any(remaining.values()):
        of_round = []
        for queue in remaining.values():
            budget = max_tokens
            while queue and (budget == max_tokens or budget >= lengths[queue[0].bucket]):
                move = queue.popleft()
                count = min(move.num_windows, max(1, budget // lengths[move.bucket]))
                of_round.append(move._replace(num_windows=count))
                if count < move.num_windows:
                    queue.appendleft(move._replace(num_windows=move.num_windows - count))
                budget -= count * lengths[move.bucket]
        yield of_round


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
    batches: list[list[Windows]] = []
    rest: Windows = []
    for windows, count, per_batch in zip(buckets, num_batches, rows, strict=True):
        taken = windows[: count * per_batch]
        # Windows that have waited come first, and those of other readers last.
        batches.append([taken[index::count] for index in range(count)])
        rest += windows[count * per_batch :]
    return batches, rest
