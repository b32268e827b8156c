"""Builds a `datasets.Dataset` from rows of files, and caches it under a hash of their content."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flax_bigbird.data.columns import ColumnBuilder, ColumnKind
from flax_bigbird.data.readers.rows import FileRow
from flax_bigbird.data.types import Dataset

ORIGIN = "__origin__"
"""The column with the file and the line or row that each row comes from."""

FORMAT_VERSION = 2  # of the readers; a new version ignores the cached rows of older ones
MAX_ROWS = 1000  # rows that are converted at once
MAX_CHARACTERS = 2**25  # of their origins and texts, roughly


class _TypesChanged(Exception):
    """Raised if later rows have other types than those that are already written."""


def cached_dataset(
    iterate_rows: Callable[[], Iterator[FileRow]],
    columns: Mapping[str, ColumnKind] | None,
    is_csv: bool,
    key: tuple[Any, ...],
) -> Dataset:
    """Returns rows as a dataset, read from the cache if it holds them.

    Args:
      iterate_rows: Starts an iteration over the rows.
      columns: The columns to take and what they hold; None takes all columns as they are.
      is_csv: Whether numbers are written as texts.
      key: Everything that the rows depend on.

    Raises:
      DataError: if a value cannot be used. The message names its line or row.
    """
    import datasets.config

    kinds = None if columns is None else tuple(columns.items())
    text = repr((FORMAT_VERSION, kinds, key))
    fingerprint = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    directory = Path(datasets.config.HF_DATASETS_CACHE) / "flax_bigbird" / fingerprint
    path = directory / "rows.arrow"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        _write(iterate_rows, columns, is_csv, path)
    rows = datasets.Dataset.from_file(str(path))
    rows._fingerprint = fingerprint
    return rows


def _write(
    iterate_rows: Callable[[], Iterator[FileRow]],
    columns: Mapping[str, ColumnKind] | None,
    is_csv: bool,
    path: Path,
) -> None:
    """Writes the rows to an Arrow file atomically."""
    kinds: dict[str, ColumnKind] = dict(columns or {})
    builders = {name: ColumnBuilder(name, kind, is_csv) for name, kind in kinds.items()}
    takes_all = columns is None
    while True:  # until the types of the first batch hold all rows
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".rows-")
        os.close(handle)
        try:
            _write_rows(iterate_rows(), builders, takes_all, is_csv, name)
        except _TypesChanged:
            continue
        else:
            os.replace(name, path)
            return
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


def _write_rows(
    rows: Iterator[FileRow],
    builders: dict[str, ColumnBuilder],
    takes_all: bool,
    is_csv: bool,
    path: str,
) -> None:
    """Writes the rows in batches.

    Raises:
      _TypesChanged: if a batch has other types than the first one. The builders know the types of
        both, so that a second attempt gets further.
    """
    import pyarrow

    writer = schema = None
    with contextlib.ExitStack() as stack:
        for chunk in _chunks(rows):
            if takes_all:
                for name in dict.fromkeys(name for row in chunk for name in row):
                    builders.setdefault(name, ColumnBuilder(name, "any", is_csv))
            for row in chunk:
                for name, builder in builders.items():
                    builder.append(row.get(name), row.origin)
            arrays = [builder.flush() for builder in builders.values()]
            arrays.append(pyarrow.array([row.origin for row in chunk], pyarrow.string()))
            batch = pyarrow.RecordBatch.from_arrays(arrays, names=[*builders, ORIGIN])
            if writer is None:
                writer = stack.enter_context(pyarrow.ipc.new_stream(path, batch.schema))
                schema = batch.schema
            elif batch.schema != schema:
                raise _TypesChanged
            writer.write_batch(batch)


def _chunks(rows: Iterator[FileRow]) -> Iterator[list[FileRow]]:
    """Yields rows in groups that are small enough to be held in memory."""
    chunk: list[FileRow] = []
    characters = 0
    for row in rows:
        chunk.append(row)
        characters += sum(len(v) for v in row.values() if isinstance(v, str | list))
        if len(chunk) >= MAX_ROWS or characters >= MAX_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
