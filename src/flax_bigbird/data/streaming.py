"""Streams documents of corpora that are larger than the disk, shard after shard, resumably."""

import glob
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flax_bigbird.data import files
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.remote_files import is_url
from flax_bigbird.data.types import Dataset

SAMPLE_SIZE = 64
BUILDERS = ("json", "csv", "parquet", "text")
"""The formats of files for which `datasets` has a builder, under the same name."""


class Position(NamedTuple):
    """Where a stream is: the documents before it are those that were read.

    Attributes:
      epoch: How often all shards were read before.
      shard: How many shards of this epoch were read before.
      state: The state of `datasets.IterableDataset` in the present shard; None at its start.
    """

    epoch: int = 0
    shard: int = 0
    state: dict[str, Any] | None = None


@dataclass(frozen=True)
class Corpus:
    """Documents that are read again and again, in another order of shards in each epoch.

    Attributes:
      dataset: The `datasets.IterableDataset` of all shards.
      text_column: The column of the documents.
      name: What the corpus is called in messages.
      fingerprint: A hash of what shows that other data are read: names, and sizes of local files.
      seed: The seed of the order of shards.
    """

    dataset: Any
    text_column: str
    name: str
    fingerprint: str
    seed: int

    @property
    def num_shards(self) -> int:
        return self.dataset.num_shards

    def sample(self) -> Dataset:
        """Returns the first documents as a dataset in memory, to be checked.

        Raises:
          DataError: if there are none.
        """
        import datasets

        rows = list(itertools.islice(self._rows(self.dataset), SAMPLE_SIZE))
        if not rows:
            raise DataError(f"the training data must have rows; {self.name} has none: check it")
        return datasets.Dataset.from_list(rows)

    def iterate_texts(self, count: int) -> Iterator[str]:
        """Yields the first texts that are not empty, to train a tokenizer on."""
        texts = (text for text, _ in self._documents_of_epoch(Position()))
        return itertools.islice(filter(None, texts), count)

    def iterate_documents(self, start: Position) -> Iterator[tuple[str, Position]]:
        """Yields all documents from a position on, each with the position after it, forever.

        Raises:
          DataError: if the data cannot be read, if a document is no text, or if all are empty.
        """
        position = start
        while True:
            is_empty = position == Position(position.epoch)
            for text, stop in self._documents_of_epoch(position):
                is_empty = is_empty and not text.strip()
                yield text, stop
            if is_empty:
                raise DataError(
                    f"the training data must hold a text that is not empty; all of {self.name} are "
                    "empty: check text_column"
                )
            position = Position(position.epoch + 1)

    def _documents_of_epoch(self, start: Position) -> Iterator[tuple[str, Position]]:
        order = np.random.default_rng([self.seed, start.epoch]).permutation(self.num_shards)
        state = start.state
        for number in range(start.shard, self.num_shards):
            shard = self.dataset.shard(self.num_shards, int(order[number]))
            if state is not None:
                shard.load_state_dict(state)
            state = None
            for row in self._rows(shard):
                position = Position(start.epoch, number, shard.state_dict())
                yield self._text(row), position

    def _rows(self, dataset: Any) -> Iterator[dict[str, Any]]:
        try:
            yield from dataset
        except Exception as error:  # many libraries may raise here
            raise _unreadable(self.name, error, "files") from error

    def _text(self, row: Mapping[str, Any]) -> str:
        text = row.get(self.text_column)
        if not isinstance(text, str):
            raise DataError(
                f"column {self.text_column!r} of the training data must hold a text in every row; "
                f"got {text!r} in {str(dict(row))[:100]}: name another column with text_column, or "
                "fill or remove such rows"
            )
        return text


def stream_files(
    paths: Sequence[str], text_column: str, seed: int, file_format: str | None = None
) -> Corpus:
    """Returns the corpus of files, each of which is at least one shard.

    Args:
      paths: Paths, directories of text files, patterns such as `corpus/*.jsonl.gz`, and URLs, in
        which patterns are allowed, too.
      text_column: The column of the documents.
      seed: The seed of the order of shards.
      file_format: The format of the files; by default, it follows from their names.

    Raises:
      DataError: if a file is missing, or of a format that is not streamed.
    """
    found = [file for path in paths for file in _expand(path, file_format)]
    formats = {file_format or files.format_of_name(Path(file)) for file in found}
    kind = formats.pop() if len(formats) == 1 else None
    if kind is None or kind not in BUILDERS:
        raise DataError(
            "files that are streamed must be of one kind among JSONL, CSV, Parquet and text; got "
            f"{', '.join(found[:3])}: convert them, name their format with file_format, or leave "
            "streaming out"
        )
    options = {"sample_by": "document"} if kind == "text" else {}
    sizes = [(file, 0 if is_url(file) else Path(file).stat().st_size) for file in found]
    dataset = _load(kind, found[0], data_files=found, split="train", **options)
    return Corpus(dataset, text_column, ", ".join(map(str, paths)), _hash(sizes), seed)


def stream_dataset(
    name: str, configuration: str | None, split: str, text_column: str, seed: int
) -> Corpus:
    """Returns the corpus of a dataset on the Hub, or of a directory that `datasets` reads.

    Args:
      name: The dataset's id or directory.
      configuration: The dataset's configuration; None for the default.
      split: The name of the split.
      text_column: The column of the documents.
      seed: The seed of the order of shards.

    Raises:
      DataError: if `datasets` cannot load it.
    """
    dataset = _load(name, name, name=configuration, split=split)
    return Corpus(dataset, text_column, name, _hash((name, configuration, split)), seed)


def _load(path: str, shown: str, **options: Any) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(path, streaming=True, **options)
    except Exception as error:  # many libraries may raise here
        raise _unreadable(shown, error, "name") from error


def _unreadable(name: str, error: Exception, to_check: str) -> DataError:
    """Returns the error of data that `datasets` cannot read, with its reason."""
    cause = error.__cause__ or error
    reason = f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]}"
    return DataError(
        f"the training data must be readable by `datasets`; {name} is not ({reason}): check the "
        f"{to_check}"
    )


def _expand(path: str, file_format: str | None) -> list[str]:
    """Returns the files of a path or a local pattern; `datasets` expands patterns in URLs."""
    if is_url(path):
        return [path]
    local = str(Path(path).expanduser())
    if not Path(local).exists() and glob.has_magic(local):
        found = sorted(glob.glob(local, recursive=True))
        if not found:
            raise DataError(f"data files must exist; no file matches {path}: check the pattern")
        return [str(Path(file).absolute()) for file in found]
    return [str(file.absolute()) for file in files.expand_paths([local], file_format)[1]]


def _hash(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:32]
