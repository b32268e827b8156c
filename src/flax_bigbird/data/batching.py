"""Groups examples of similar length into batches, for training (by `grain`) and evaluation."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from flax_bigbird.data.types import Arrays

CollateFn = Callable[[dict[str, Any], int, np.random.Generator], Arrays]
"""Turns an example, the length to pad to, and a random generator into the example's arrays."""

READ_THREADS = 2
PREFETCHED_BATCHES = 8
MAX_FILLED_ROWS = 64
"""Up to how many rows the only batch of a bucket is filled with copies in an evaluation."""

_REPEATED_EXAMPLES = 2**40  # `repeat(None)` overflows in `grain.MapDataset.mix`


@runtime_checkable
class Examples(Protocol):
    """A sequence of examples, such as a `datasets.Dataset` or `PackedExamples`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Bucket:
    """The examples that are padded to the same length.

    Attributes:
      length: The padded length. It is the smallest bucket length that holds these examples.
      indices: `[num_examples]`, the indices of the examples.
      batch_size: The number of examples per batch.
    """

    length: int
    indices: np.ndarray
    batch_size: int


def assign_buckets(
    lengths: Sequence[int] | np.ndarray, bucket_lengths: Sequence[int], tokens_per_batch: int
) -> list[Bucket]:
    """Assigns examples to buckets.

    Args:
      lengths: `[num_examples]`, the number of tokens of each example.
      bucket_lengths: The lengths of the buckets in ascending order.
      tokens_per_batch: The number of tokens of a batch, with padding.

    Returns:
      The buckets that hold examples.
    """
    assigned = np.searchsorted(np.asarray(bucket_lengths), np.asarray(lengths))
    return [
        Bucket(length, indices, max(1, tokens_per_batch // length))
        for bucket, length in enumerate(bucket_lengths)
        if len(indices := np.flatnonzero(assigned == bucket))
    ]


def padding_fraction(lengths: Sequence[int] | np.ndarray, buckets: Sequence[Bucket]) -> float:
    """Returns the fraction of padding among the tokens of all buckets."""
    padded = sum(bucket.length * len(bucket.indices) for bucket in buckets)
    return 1 - float(np.sum(lengths)) / padded


def batches_per_epoch(buckets: Sequence[Bucket]) -> float:
    """Returns the number of batches per epoch, which may be fractional."""
    return sum(len(bucket.indices) / bucket.batch_size for bucket in buckets)


class BatchRows(NamedTuple):
    """The rows that a process reads of each batch of a bucket, and what it does with them.

    Attributes:
      rows: `[n]`, the indices of the rows in the batch; a row may be repeated.
      finish: A function of their stacked arrays, whose result the iterator returns.
    """

    rows: np.ndarray
    finish: Callable[[Arrays], Any]

    @classmethod
    def all(cls, batch_size: int) -> "BatchRows":
        """Returns all rows of a batch, whose arrays stay as they are."""
        return cls(np.arange(batch_size), lambda arrays: arrays)

    @classmethod
    def all_of_bucket(cls, bucket: Bucket, num_readers: int = 1) -> "BatchRows":
        """Returns all rows of a batch of a bucket, see `SelectRows`."""
        del num_readers
        return cls.all(bucket.batch_size)


@runtime_checkable
class SelectRows(Protocol):
    """Returns the rows that a process reads of each batch of a bucket.

    Args:
      bucket: The bucket.
      num_readers: The number of readers that the rows of a batch come from in turn. A process then
        gets rows of as few readers as possible.
    """

    def __call__(self, bucket: Bucket, num_readers: int = 1) -> BatchRows: ...


def training_batches(
    examples: Examples,
    buckets: Sequence[Bucket],
    collate: CollateFn,
    seed: int,
    batch_rows: SelectRows = BatchRows.all_of_bucket,
) -> Any:
    """Returns an endless `grain.IterDataset` of batches, whose iterators can be resumed.

    Every epoch of a bucket has a different random order. The batches of the buckets are interleaved
    in proportion to the number of batches of each bucket. The random generator of an example
    depends only on `seed` and on how many examples of its bucket came before.

    Args:
      examples: The examples.
      buckets: The buckets of the examples.
      collate: The function that returns the arrays of an example.
      seed: The seed of the order and of the random generators of the examples.
      batch_rows: Takes a bucket, and returns the rows to read of each of its batches. No other rows
        are collated, and the state of the iterators does not depend on it. By default, all are.
    """
    import grain

    datasets = []
    for index, bucket in enumerate(buckets):

        def collate_example(
            example: Any, generator: np.random.Generator, length: int = bucket.length
        ) -> Arrays:
            return collate(example, length, generator)

        dataset = grain.MapDataset.source(_Subset(examples, bucket.indices)).seed(
            seed + 1009 * index
        )
        dataset = dataset.shuffle().repeat(_REPEATED_EXAMPLES // len(bucket.indices))
        dataset = dataset.random_map(collate_example)
        rows, finish = batch_rows(bucket)
        if not np.array_equal(rows, np.arange(bucket.batch_size)):
            dataset = _select_rows(dataset, bucket.batch_size, rows)
        datasets.append(dataset.batch(len(rows)).map(finish))
    counts = [len(bucket.indices) / bucket.batch_size for bucket in buckets]
    mixed = grain.MapDataset.mix(datasets, [count / sum(counts) for count in counts])
    return mixed.to_iter_dataset(
        grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=PREFETCHED_BATCHES)
    )


def evaluation_batches(
    examples: Examples,
    buckets: Sequence[Bucket],
    collate: CollateFn,
    seed: int,
    batch_rows: Callable[[int], BatchRows] = BatchRows.all,
) -> Iterator[tuple[np.ndarray, Any]]:
    """Yields every example once, in batches of constant shape per bucket.

    The random generator of an example depends only on `seed` and on the index of the example.

    Args:
      examples: The examples.
      buckets: The buckets of the examples.
      collate: The function that returns the arrays of an example.
      seed: The seed of the random generators of the examples.
      batch_rows: Takes the number of rows of a batch, and returns the rows to read of it. By
        default, all are.

    Yields:
      The indices `[n]` of the examples in the batch, and the arrays of the batch. The last batch of
      a bucket is padded with copies of its first example; only the first n examples count.
    """
    for bucket in buckets:
        batch_size = min(bucket.batch_size, max(len(bucket.indices), MAX_FILLED_ROWS))
        rows, finish = batch_rows(batch_size)
        for start in range(0, len(bucket.indices), batch_size):
            indices = bucket.indices[start : start + batch_size]
            wanted = [int(indices[row]) if row < len(indices) else int(indices[0]) for row in rows]
            collated = {
                i: collate(examples[i], bucket.length, np.random.default_rng([seed, i]))
                for i in dict.fromkeys(wanted)
            }
            yield indices, finish(stack([collated[i] for i in wanted]))


def stack(collated: Sequence[Arrays]) -> Arrays:
    """Stacks the arrays of examples into the arrays of a batch, `[B, ...]` each."""
    return {name: np.stack([arrays[name] for arrays in collated]) for name in collated[0]}


def _select_rows(dataset: Any, batch_size: int, rows: np.ndarray) -> Any:
    """Returns the elements `rows` of every `batch_size` elements of a `grain.MapDataset`."""
    import grain

    class SelectedRows(grain.MapDataset):
        def __len__(self) -> int:
            return len(dataset) // batch_size * len(rows)

        def __getitem__(self, index: Any) -> Any:
            if isinstance(index, slice):
                return self.slice(index)
            batch, row = divmod(index, len(rows))
            return self._parent[batch * batch_size + int(rows[row])]

    return SelectedRows(dataset)


class _Subset:
    """A subset of examples as a random-access data source for grain."""

    def __init__(self, examples: Examples, indices: np.ndarray):
        self._examples, self._indices = examples, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Any:
        return self._examples[int(self._indices[index])]

    def __repr__(self) -> str:
        return f"{len(self)} rows"
