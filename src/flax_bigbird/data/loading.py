"""Loads files and `datasets` ids as `datasets.Dataset`, and checks their columns."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from flax_bigbird._messages import pluralize
from flax_bigbird.data import files
from flax_bigbird.data.columns import ColumnKind
from flax_bigbird.data.errors import DataError, MissingColumnError
from flax_bigbird.data.readers.rows import FileRow
from flax_bigbird.data.row_cache import ORIGIN, cached_dataset
from flax_bigbird.data.types import Dataset, Row
from flax_bigbird.data.unreachable import unreachable

SPLIT_NAMES = {"train": "training data", "validation": "validation data", "test": "data"}
"""The names of the splits in messages."""

_Parsed = TypeVar("_Parsed")


def load_files(
    paths: Sequence[str],
    columns: Mapping[str, ColumnKind] | None = None,
    split: str = "train",
    *,
    separator: str | None = None,
    file_format: str | None = None,
    content_hash: Callable[[Path], str] = files.content_hash,
) -> Dataset:
    """Loads the rows of files of one format, in order.

    A directory is expanded to the text files below it. Text files are one document each, in the
    column `text`. The rows have an additional column, `ORIGIN`, with the file and line of each row.

    Args:
      paths: The files.
      columns: The columns that are needed and what they hold. Others are not read. None reads all
        columns, with the types that their values have.
      split: The split of the rows, a key of `SPLIT_NAMES`.
      separator: The character between the fields of CSV files; None detects it.
      file_format: The format of the files; None takes it from their names.
      content_hash: The function that hashes a file. A caller that needs the hashes, too, may give
        one that remembers them.

    Raises:
      DataError: if a file is missing, empty, of an unknown format, not UTF-8, or broken, if a
        column is missing, or if a value cannot be used. The message names the line.
    """
    format, found = files.expand_paths(paths, file_format)
    files.check_separator(separator, format)

    def iterate_rows() -> Iterator[FileRow]:
        return files.iterate_rows(found, format, columns=columns, separator=separator)

    if next(iterate_rows(), None) is None:
        raise DataError(
            f"the {SPLIT_NAMES[split]} must have rows; {', '.join(map(str, found[:3]))} "
            "has none: check the files"
        )
    if columns is not None:
        _check_columns_exist(iterate_rows(), columns, found, format, split, separator)
    contents = [(str(file), content_hash(file)) for file in found]
    return cached_dataset(iterate_rows, columns, format == "csv", (contents, format, separator))


def file_columns(
    paths: Sequence[str], *, separator: str | None = None, file_format: str | None = None
) -> list[str]:
    """Returns the names of the columns of the first row of files.

    Args:
      paths: The files.
      separator: The character between the fields of CSV files; None detects it.
      file_format: The format of the files; None takes it from their names.

    Raises:
      DataError: if a file is missing, or the first row cannot be read.
    """
    format, found = files.expand_paths(paths, file_format)
    if format == "parquet":
        return files.column_names(found[:1], format)
    return list(next(files.iterate_rows(found, format, separator=separator), {}))


def load_dataset_split(name: str, configuration: str | None, split: str) -> Dataset:
    """Loads a split of a dataset on the Hugging Face Hub, or of a directory that `datasets` reads.

    Args:
      name: The dataset's id or directory.
      configuration: The dataset's configuration; None for the default.
      split: The name of the split.

    Raises:
      DataError: if `datasets` cannot load it.
    """
    directory = Path(name).expanduser()
    if directory.is_dir() and set(str(directory.resolve())) & set("*?[]"):
        raise DataError(
            "the path of a directory that `datasets` loads must not hold *, ?, [ or ], which it "
            f"takes for patterns; got {directory.resolve()}: rename it, or give its files instead"
        )
    try:
        return _datasets().load_dataset(name, configuration, split=split)
    except Exception as error:  # many libraries may raise here
        place = f"{name} ({configuration or 'default'}, {split})"
        raise unreachable(place, error, "the dataset must be one that `datasets` loads") from error


def row_location(rows: Dataset, index: int, split: str) -> str:
    """Returns where a row is, for messages: its file and line, whatever the order of the rows.

    Rows that do not come from files are named by their number alone.

    Args:
      rows: The rows.
      index: The index of the row.
      split: The split of the rows, a key of `SPLIT_NAMES`.
    """
    if ORIGIN in rows.column_names:
        return str(rows[index][ORIGIN])
    return f"row {index + 1} of the {SPLIT_NAMES[split]}"


def require_columns(rows: Dataset, names: Iterable[str], split: str) -> None:
    """Checks that columns exist.

    Args:
      rows: The rows.
      names: The names of the columns.
      split: The split of the rows, a key of `SPLIT_NAMES`.

    Raises:
      DataError: if a column is missing. The message lists those that exist.
    """
    for name in names:
        if name not in rows.column_names:
            raise _missing_column(name, [n for n in rows.column_names if n != ORIGIN], split)


def require_texts(rows: Dataset, names: Iterable[str], split: str) -> list[str]:
    """Checks that columns hold a text in every row.

    Args:
      rows: The rows.
      names: The names of the columns.
      split: The split of the rows, a key of `SPLIT_NAMES`.

    Returns:
      A sentence for the log for each column in which some texts are empty.

    Raises:
      DataError: if a column is missing or holds something else. The message names the row.
    """
    names = list(names)
    require_columns(rows, names, split)
    return [message for name in names for message in _check_texts(rows, name, split)]


def iterate_column(rows: Dataset, name: str) -> Iterator[Any]:
    """Yields the values of a column without holding them all in memory."""
    for batch in rows.select_columns(name).iter(256):
        yield from batch[name]  # type: ignore[index]


def parse_rows(rows: Dataset, parse: Callable[[Row], _Parsed], split: str) -> Iterator[_Parsed]:
    """Yields what a function returns for each row.

    Args:
      rows: The rows.
      parse: The function, whose `DataError` does not name the row.
      split: The split of the rows, a key of `SPLIT_NAMES`.

    Raises:
      DataError: if the function raises it. The message names the row.
    """
    for index, row in enumerate(rows):
        values: Any = row
        try:
            parsed = parse(values)
        except DataError as error:
            raise DataError(f"{row_location(rows, index, split)}: {error}") from error
        yield parsed


def _check_texts(rows: Dataset, name: str, split: str) -> list[str]:
    dtype = getattr(rows.features[name], "dtype", None)
    if dtype not in ("string", "large_string"):
        raise DataError(
            f"column {name!r} of the {SPLIT_NAMES[split]} must hold texts; it holds {dtype}: name "
            "another column"
        )
    missing, empty = [], []
    for index, text in enumerate(iterate_column(rows, name)):
        if text is None:
            missing.append(index)
        elif not text or text.isspace():
            empty.append(index)
    if missing:
        raise DataError(
            f"column {name!r} of the {SPLIT_NAMES[split]} must hold a text in every row; "
            f"{row_location(rows, missing[0], split)} has none ({len(missing)} in all): fill or "
            "remove them"
        )
    if not empty:
        return []
    column = f"in column {name!r} of the {SPLIT_NAMES[split]}"
    first = row_location(rows, empty[0], split)
    one, many = f"text {column} is empty, {first}", f"texts {column} are empty, {first} first"
    return [pluralize(len(empty), one, many)]


def _check_columns_exist(
    rows: Iterable[FileRow],
    columns: Iterable[str],
    found: Sequence[Path],
    format: str,
    split: str,
    separator: str | None,
) -> None:
    """Raises `DataError` if no row has one of the columns."""
    missing = set(columns)
    for row in rows:
        missing -= row.keys()
        if not missing:
            return
    names = files.column_names(found, format, separator=separator)
    raise _missing_column(next(name for name in columns if name in missing), names, split)


def _missing_column(name: str, names: Sequence[str], split: str) -> MissingColumnError:
    rule = f"the {SPLIT_NAMES[split]} must have a column {name!r}; got {', '.join(names)}"
    error = MissingColumnError(
        f"{rule}: name the right one with the option for it, which ends in _column"
    )
    error.column, error.rule = name, rule
    return error


def _datasets() -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets
