"""A corpus that is larger than the disk: an endless sequence of shards, divided among readers."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from flax_bigbird.data.errors import DataError
from flax_bigbird.data.row_cache import ORIGIN
from flax_bigbird.data.types import Dataset
from flax_bigbird.data.unreachable import unreachable

SAMPLE_SIZE = 64
DOCUMENTS_PER_GROUP = 32
READABLE = "the training data must be readable by `datasets`"


class Position(NamedTuple):
    """Where a reader of a corpus is: the documents before it are those that were read.

    Attributes:
      shard: The index of the present shard in the endless sequence of shards, see `Corpus`.
      row: How many rows of this shard were read.
      state: The state of `datasets.IterableDataset` after them; None at the start of a shard.
    """

    shard: int = 0
    row: int = 0
    state: dict[str, Any] | None = None


@dataclass(frozen=True)
class Corpus:
    """Documents that are read again and again: an endless sequence of shards.

    The shards of an epoch come in a random order, and those of the next epoch follow in another
    one. Of several readers, each reads every n-th shard of the sequence, so that together they read
    every row once per epoch.

    Attributes:
      dataset: The `datasets.IterableDataset` of all files.
      text_column: The column of the documents.
      name: What the corpus is called in messages.
      fingerprint: A hash of what shows that other data are read: names, and sizes of local files.
      seed: The seed of the order of shards.
      files: The names of the files, if they are known.
      num_parts: The number of shards that each shard of `dataset` is divided into: the n-th row
        belongs to part n modulo `num_parts`.
    """

    dataset: Any
    text_column: str
    name: str
    fingerprint: str
    seed: int
    files: tuple[str, ...] = ()
    num_parts: int = 1

    @property
    def num_shards(self) -> int:
        return self.dataset.num_shards * self.num_parts

    def divided(self, num_readers: int) -> "Corpus":
        """Returns the corpus with a shard for each reader, at least.

        If there are too few, Parquet files are divided into their row groups, if the version of
        `datasets` does so. If there are still too few, each is divided by rows: a reader then reads
        all rows of its shard, and tokenizes its own.

        Raises:
          DataError: if the row groups cannot be read.
        """
        dataset = self.dataset
        if dataset.num_shards < num_readers:
            dataset = self._by_row_groups()
        num_parts = -(-num_readers // dataset.num_shards)
        return dataclasses.replace(self, dataset=dataset, num_parts=num_parts)

    def divided_as(self, num_shards: int, num_parts: int) -> "Corpus":
        """Returns the corpus divided as it was when a run started, for other readers, too.

        Args:
          num_shards: The `dataset.num_shards` of then.
          num_parts: The `num_parts` of then.

        Raises:
          DataError: if the corpus has another number of shards now.
        """
        dataset = self.dataset
        if dataset.num_shards < num_shards:
            dataset = self._by_row_groups()
        if dataset.num_shards != num_shards:
            raise DataError(
                f"a run resumes with the shards that it was started with; {self.name} had "
                f"{num_shards:,} and has {dataset.num_shards:,} now: restore the files and the "
                "version of `datasets`, or start again with overwrite_output_dir"
            )
        return dataclasses.replace(self, dataset=dataset, num_parts=num_parts)

    def sample(self) -> Dataset:
        """Returns the first documents as a dataset in memory, to be checked.

        Raises:
          DataError: if there are none.
        """
        import datasets

        located = (
            row | {ORIGIN: self._row_name(shard, number)}
            for shard in range(self.dataset.num_shards)
            for number, row in self._rows(shard)
        )
        rows = list(itertools.islice(located, SAMPLE_SIZE))
        if not rows:
            raise DataError(f"the training data must have rows; {self.name} has none: check it")
        return datasets.Dataset.from_list(rows)

    def iterate_texts(self, count: int) -> Iterator[str]:
        """Yields the first texts that are not empty, to train a tokenizer on."""
        texts = (
            self._text(row, shard, number)
            for shard in self._order(0).tolist()
            for number, row in self._rows(shard)
        )
        return itertools.islice(filter(None, texts), count)

    def iterate_documents(
        self, start: Position, num_readers: int = 1
    ) -> Iterator[tuple[list[str], Position]]:
        """Yields groups of documents from a position on, each with the position after it, forever.

        Args:
          start: The position; a new reader starts at the shard of its own index.
          num_readers: The number of readers.

        Raises:
          DataError: if the data cannot be read, if a document is no text, or if all are empty.
        """
        position, texts = start, []
        empty: set[int] = set()  # shards that were read since the last text that is not empty
        while True:
            index = self._index(position.shard)
            shard, part = divmod(index, self.num_parts)
            dataset = self._open(shard)
            if position.state is not None:
                dataset.load_state_dict(position.state)
            if not position.row:
                empty.add(index)
            for number, row in self._rows(shard, dataset, position.row):
                if (number - 1) % self.num_parts != part:
                    continue
                texts.append(self._text(row, shard, number))
                if texts[-1].strip():
                    empty.clear()
                if len(texts) == DOCUMENTS_PER_GROUP:
                    yield texts, Position(position.shard, number, dataset.state_dict())
                    texts = []
            if len(empty) == self.num_shards:
                raise DataError(
                    f"the training data must hold a text that is not empty; all of {self.name} are "
                    "empty: check text_column"
                )
            position = Position(position.shard + num_readers)

    def _index(self, position: int) -> int:
        """Returns the index of the shard at a position of the endless sequence."""
        epoch, number = divmod(position, self.num_shards)
        return int(self._order(epoch, self.num_parts)[number])

    def _order(self, epoch: int, num_parts: int = 1) -> np.ndarray:
        """Returns the indices of the shards of an epoch in the order in which they are read."""
        generator = np.random.default_rng([self.seed, epoch])
        return generator.permutation(self.dataset.num_shards * num_parts)

    def _open(self, shard: int) -> Any:
        # `IterableDataset.shard` takes time in proportion to the number of shards, so that opening
        # each of them would take time in proportion to its square.
        num_groups = math.isqrt(self.dataset.num_shards)
        index, group = divmod(shard, num_groups)
        if group not in self._groups:
            self._groups[group] = self.dataset.shard(num_groups, group, contiguous=False)
        return self._groups[group].shard(self._groups[group].num_shards, index)

    @functools.cached_property
    def _groups(self) -> dict[int, Any]:
        """Every n-th shard of the dataset, for each start that was needed."""
        return {}

    def _rows(self, shard: int, dataset: Any = None, start: int = 0) -> Iterator[tuple[int, Any]]:
        """Yields the rows of a shard with their numbers, which count from 1.

        Args:
          shard: The index of the shard.
          dataset: The shard, if it is open already.
          start: How many of its rows were read.
        """
        dataset = self._open(shard) if dataset is None else dataset
        try:
            yield from enumerate(dataset, start + 1)
        except Exception as error:  # many libraries may raise here
            raise unreachable(self._shard_name(shard), error, READABLE) from error

    def _by_row_groups(self) -> Any:
        """Returns the dataset with a shard for each row group, if it is one of Parquet files."""
        if not hasattr(self.dataset, "reshard"):
            return self.dataset
        try:
            return self.dataset.reshard()
        except NotImplementedError:
            return self.dataset
        except Exception as error:  # many libraries may raise here
            raise unreachable(self.name, error, READABLE) from error

    def _text(self, row: Mapping[str, Any], shard: int, number: int) -> str:
        text = row.get(self.text_column)
        if not isinstance(text, str):
            raise DataError(
                f"column {self.text_column!r} of the training data must hold a text in every row; "
                f"got {text!r} in {self._row_name(shard, number)}, {str(dict(row))[:100]}: name "
                "another column with text_column, or fill or remove such rows"
            )
        return text

    def _row_name(self, shard: int, number: int) -> str:
        """Returns where a row is, for messages."""
        return f"{self._shard_name(shard)}, row {number:,}"

    def _shard_name(self, shard: int) -> str:
        if len(self.files) == self.dataset.num_shards:
            return self.files[shard]
        return f"shard {shard + 1:,} of {self.name}"
