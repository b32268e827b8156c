"""Packs short examples into rows of a batch in which no example attends to another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flax_bigbird.data.batching import Bucket, Examples


def first_fit_decreasing(sizes: np.ndarray, capacity: int) -> list[list[int]]:
    """Assigns examples to rows: the longest first, each to the fullest row that has room for it.

    Args:
      sizes: `[num_examples]`, the sizes of the examples, from 1 to `capacity`.
      capacity: The size of a row.

    Returns:
      The indices of the examples in each row. Every example occurs once.
    """
    rows: list[list[int]] = []
    rows_by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    for example in np.argsort(-sizes, kind="stable"):
        size = int(sizes[example])
        room = next((room for room in range(size, capacity) if rows_by_room[room]), capacity)
        if room == capacity:
            rows.append([])
            row = len(rows) - 1
        else:
            row = rows_by_room[room].pop()
        rows[row].append(int(example))
        rows_by_room[room - size].append(row)
    return rows


@dataclass(frozen=True)
class PackedExamples:
    """A random-access sequence of the single examples, followed by the packed rows.

    Attributes:
      examples: The examples of `Task.encode_dataset`, with `input_ids` and `length`.
      packed_rows: The indices of the examples in each packed row.
      buckets: The buckets to train on. Every example is in one of them.
    """

    examples: Examples
    packed_rows: list[list[int]]
    buckets: list[Bucket]

    def __len__(self) -> int:
        return len(self.examples) + len(self.packed_rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns an example, or the examples of a packed row as a list under `documents`."""
        if index < len(self.examples):
            return self.examples[index]
        packed_row = self.packed_rows[index - len(self.examples)]
        return {"documents": [self.examples[example] for example in packed_row]}


def pack_examples(
    examples: Examples,
    lengths: np.ndarray,
    buckets: Sequence[Bucket],
    length: int,
    batch_size: int,
    *,
    block_size: int,
    max_blocks: int | None,
) -> PackedExamples:
    """Packs examples into rows of `length` tokens, in which each example starts at a block.

    Examples that are too long to be packed stay single.

    Args:
      examples: The examples, with `input_ids` and `length`.
      lengths: `[num_examples]`, the number of tokens of each example.
      buckets: The buckets of the examples.
      length: The number of tokens of a packed row.
      batch_size: The number of packed rows per batch.
      block_size: The block size of the model.
      max_blocks: The maximum number of blocks of a packed example, `max_packed_blocks` of the
        model's `SparsityConfig`; None for any.
    """
    capacity = length // block_size
    max_blocks = min(max_blocks or capacity, capacity - 1)
    blocks = -(-lengths // block_size)
    short = np.flatnonzero(blocks <= max_blocks)
    if not len(short):
        return PackedExamples(examples, [], list(buckets))
    packed_rows = [short[row].tolist() for row in first_fit_decreasing(blocks[short], capacity)]
    is_short = np.zeros(len(lengths), bool)
    is_short[short] = True
    rest = [
        Bucket(bucket.length, left, bucket.batch_size)
        for bucket in buckets
        if len(left := bucket.indices[~is_short[bucket.indices]])
    ]
    indices = len(examples) + np.arange(len(packed_rows))
    packed = Bucket(capacity * block_size, indices, batch_size)
    return PackedExamples(examples, packed_rows, [*rest, packed])
