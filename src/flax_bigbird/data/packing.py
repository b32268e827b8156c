"""Packs short documents into rows of a batch in which no document attends to another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flax_bigbird.data.batching import Bucket, Examples


def first_fit_decreasing(sizes: np.ndarray, capacity: int) -> list[list[int]]:
    """Assigns documents to rows: the longest first, each to the fullest row that has room for it.

    Args:
      sizes: `[num_documents]`, the sizes of the documents, from 1 to `capacity`.
      capacity: The size of a row.

    Returns:
      The indices of the documents in each row. Every document occurs once.
    """
    rows: list[list[int]] = []
    rows_by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    for document in np.argsort(-sizes, kind="stable"):
        size = int(sizes[document])
        room = next((room for room in range(size, capacity) if rows_by_room[room]), capacity)
        if room == capacity:
            rows.append([])
            row = len(rows) - 1
        else:
            row = rows_by_room[room].pop()
        rows[row].append(int(document))
        rows_by_room[room - size].append(row)
    return rows


@dataclass(frozen=True)
class PackedExamples:
    """Documents by index: first the documents alone, then the rows that hold several of them.

    Attributes:
      documents: The examples of `Task.encode_dataset`, with `input_ids` and `length`.
      packs: The indices of the documents in each packed row.
      buckets: The buckets to train on. Every document is in one of them.
    """

    documents: Examples
    packs: list[list[int]]
    buckets: list[Bucket]

    def __len__(self) -> int:
        return len(self.documents) + len(self.packs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a document, or a packed row as a list under `documents`."""
        if index < len(self.documents):
            return self.documents[index]
        pack = self.packs[index - len(self.documents)]
        return {"documents": [self.documents[document] for document in pack]}


def pack_examples(
    documents: Examples,
    lengths: np.ndarray,
    buckets: Sequence[Bucket],
    length: int,
    batch_size: int,
    *,
    block_size: int,
    max_blocks: int | None,
) -> PackedExamples:
    """Packs documents into rows of `length` tokens, in which each document starts at a block.

    Documents that are too long, or that fill a row, have rows of their own.

    Args:
      documents: The examples, with `input_ids` and `length`.
      lengths: `[num_documents]`, the number of tokens of each document.
      buckets: The buckets of the documents.
      length: The number of tokens of a packed row.
      batch_size: The number of packed rows per batch.
      block_size: The block size of the model.
      max_blocks: The maximum number of blocks of a packed document, `max_packed_blocks` of the
        model's `SparsityConfig`; None for any.
    """
    capacity = length // block_size
    max_blocks = min(max_blocks or capacity, capacity - 1)
    blocks = -(-lengths // block_size)
    short = np.flatnonzero(blocks <= max_blocks)
    if not len(short):
        return PackedExamples(documents, [], list(buckets))
    packs = [short[row].tolist() for row in first_fit_decreasing(blocks[short], capacity)]
    is_short = np.zeros(len(lengths), bool)
    is_short[short] = True
    rest = [
        Bucket(bucket.length, left, bucket.batch_size)
        for bucket in buckets
        if len(left := bucket.indices[~is_short[bucket.indices]])
    ]
    indices = len(documents) + np.arange(len(packs))
    packed = Bucket(capacity * block_size, indices, batch_size)
    return PackedExamples(documents, packs, [*rest, packed])
