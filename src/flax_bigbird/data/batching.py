"""From rows of pieces to an endless, resumable stream of batches, by `grain`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

    from flax_bigbird.train.packing import PackedRows

Arrays = dict[str, np.ndarray]
Collate = Callable[[dict[str, Any], int, np.random.Generator], Arrays]

READING_THREADS = 2
BATCHES_AHEAD = 8
_ENOUGH = 2**40  # rows of a bucket; mixing overflows on grain's own "for ever"


@dataclass(frozen=True)
class Bucket:
    """The rows whose length is at most `length`, and above that of the bucket before."""

    length: int
    rows: np.ndarray  # their numbers
    batch: int  # rows a batch


def into_buckets(
    lengths: Sequence[int] | np.ndarray, buckets: Sequence[int], tokens: int
) -> list[Bucket]:
    """The buckets that have rows; a batch is as many rows as `tokens` hold."""
    which = np.searchsorted(np.asarray(buckets), np.asarray(lengths))
    return [
        Bucket(length, rows, max(1, tokens // length))
        for number, length in enumerate(buckets)
        if len(rows := np.flatnonzero(which == number))
    ]


def padding_share(lengths: Sequence[int] | np.ndarray, buckets: Sequence[Bucket]) -> float:
    """Of the tokens of all rows in their buckets, those that are padding."""
    padded = sum(bucket.length * len(bucket.rows) for bucket in buckets)
    return 1 - float(np.sum(lengths)) / padded


class _Rows:
    """Rows of a dataset by number, as grain reads them."""

    def __init__(self, rows: "Dataset | PackedRows", numbers: np.ndarray):
        self._rows, self._numbers = rows, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._rows[int(self._numbers[index])]

    def __repr__(self) -> str:
        return f"{len(self)} rows"


def training_batches(
    rows: "Dataset | PackedRows", buckets: Sequence[Bucket], collate: Collate, seed: int
) -> Any:
    """A `grain.IterDataset` of batches without end; what `iter` gives has a state to resume from.

    Every pass over a bucket is in another random order. Batches of the buckets come in turn, in
    proportion to their numbers. What is random in a row depends on `seed` and its place alone.

    Args:
      collate: one row, the length to pad to and a generator in; arrays of that row out.
    """
    import grain

    parts = []
    for number, bucket in enumerate(buckets):

        def padded(row: dict[str, Any], generator: np.random.Generator, length=bucket.length):
            return collate(row, length, generator)

        part = grain.MapDataset.source(_Rows(rows, bucket.rows)).seed(seed + 1009 * number)
        part = part.shuffle().repeat(_ENOUGH // len(bucket.rows))
        part = part.random_map(padded).batch(bucket.batch)
        parts.append(part)
    passes = [len(bucket.rows) / bucket.batch for bucket in buckets]
    mixed = grain.MapDataset.mix(parts, [count / sum(passes) for count in passes])
    return mixed.to_iter_dataset(
        grain.ReadOptions(num_threads=READING_THREADS, prefetch_buffer_size=BATCHES_AHEAD)
    )


def batches_per_epoch(buckets: Sequence[Bucket]) -> float:
    """Batches in which every row comes once."""
    return sum(len(bucket.rows) / bucket.batch for bucket in buckets)


def evaluation_batches(
    rows: "Dataset", buckets: Sequence[Bucket], collate: Collate, seed: int
) -> Iterator[tuple[np.ndarray, Arrays]]:
    """Every row once, in buckets: (row numbers [n], arrays of a whole batch).

    The last batch of a bucket is filled up with its first row; only the first n rows count. What
    is random in a row depends on `seed` and the row's number.
    """
    for bucket in buckets:
        for start in range(0, len(bucket.rows), bucket.batch):
            numbers = bucket.rows[start : start + bucket.batch]
            made = [
                collate(rows[int(n)], bucket.length, np.random.default_rng([seed, int(n)]))
                for n in numbers
            ]
            made += [made[0]] * (bucket.batch - len(made))
            yield numbers, {key: np.stack([row[key] for row in made]) for key in made[0]}
