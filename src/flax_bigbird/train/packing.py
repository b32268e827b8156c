"""Several documents in a row of a batch, none of which reads another (`packing`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flax_bigbird.config import SparsityConfig
from flax_bigbird.train.pipeline import Bucket

if TYPE_CHECKING:
    from datasets import Dataset


def fill_rows(sizes: np.ndarray, room: int) -> list[list[int]]:
    """Which documents share a row: the longest first, each where least room is left.

    Args:
      sizes: [documents], each in 1..room.
      room: of a row.

    Returns:
      The documents' numbers, row by row; every document once.
    """
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(room + 1)]  # rows that have so much left
    for document in np.argsort(-sizes, kind="stable"):
        size = int(sizes[document])
        left = next((left for left in range(size, room) if by_room[left]), room)
        if left == room:
            rows.append([])
            row = len(rows) - 1
        else:
            row = by_room[left].pop()
        rows[row].append(int(document))
        by_room[left - size].append(row)
    return rows


@dataclass(frozen=True)
class PackedRows:
    """Rows of documents by number: first the dataset's own, then those that hold several.

    Attributes:
      documents: rows with `input_ids` and `length`.
      packs: the documents that share a row, row by row.
      buckets: the rows to train on; a document is in one of them.
    """

    documents: "Dataset"
    packs: list[list[int]]
    buckets: list[Bucket]

    def __len__(self) -> int:
        return len(self.documents) + len(self.packs)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """A document, or a row of them under `documents`."""
        if number < len(self.documents):
            return self.documents[number]
        pack = self.packs[number - len(self.documents)]
        return {"documents": [self.documents[document] for document in pack]}


def pack(
    documents: "Dataset",
    lengths: np.ndarray,
    buckets: Sequence[Bucket],
    length: int,
    batch: int,
    config: Any,
) -> PackedRows:
    """Puts the documents that a model reads in full into rows of `length` tokens.

    Longer documents, and those that fill a row, have rows of their own.

    Args:
      lengths: [documents], in tokens.
      buckets: of the documents.
      batch: packed rows a batch.
      config: the model's.
    """
    size = config.block_size
    room = length // size
    limit = SparsityConfig.from_hf(config).max_packed_blocks or room
    blocks = -(-lengths // size)
    short = np.flatnonzero(blocks <= min(limit, room - 1))
    if not len(short):
        return PackedRows(documents, [], list(buckets))
    rows = fill_rows(blocks[short], room)
    packs = [short[row].tolist() for row in rows]
    is_short = np.zeros(len(lengths), bool)
    is_short[short] = True
    rest = [
        Bucket(bucket.length, left, bucket.batch)
        for bucket in buckets
        if len(left := bucket.rows[~is_short[bucket.rows]])
    ]
    numbers = len(documents) + np.arange(len(packs))
    packed = Bucket(room * size, numbers, batch)
    return PackedRows(documents, packs, [*rest, packed])
