"""Converts rows in memory, such as dictionaries, records, texts, and data frames."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from flax_bigbird.data.columns import ColumnBuilder, ColumnKind
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.types import Dataset, Row
from flax_bigbird.tasks.labels import class_name, class_names

_EXPECTED = "rows must be dictionaries, texts, or a pandas or pyarrow table"


def is_single_row(value: Any, columns: Collection[str] = ()) -> bool:
    """Returns whether a value is one row: a mapping, a record, a text, or a row of a frame.

    Args:
      value: The value.
      columns: The names of columns that a task reads. A pandas Series is a row if it is indexed by
        one of them, and otherwise a column.
    """
    if isinstance(value, str) or _as_mapping(value) is not None:
        return True
    return _is_from(value, "pandas", "Series") and any(name in value.index for name in columns)


def iterate_items(value: Any) -> Iterable[Any]:
    """Returns an iterable of rows, from a table or from an iterable.

    Raises:
      DataError: if the value is neither, or if two columns of a table have the same name.
    """
    if _is_from(value, "pandas", "DataFrame"):
        _check_unique(value.columns)
        frame = value.astype(object).where(value.notna(), None)  # a missing value is a NaN there
        return (dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(False, None))
    if _is_from(value, "datasets", "Dataset"):
        return _rows_of_dataset(value)
    if _is_from(value, "pyarrow") and hasattr(value, "to_pylist"):
        _check_unique(getattr(value, "column_names", ()))
        return value.to_pylist()
    if hasattr(value, "to_dicts"):
        return value.to_dicts()
    if not isinstance(value, Iterable) or isinstance(value, bytes | bytearray):
        raise DataError(f"{_EXPECTED}; got {_describe(value)}: give one of them")
    return value


def _check_unique(columns: Iterable[Any]) -> None:
    names = [str(name) for name in columns]
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                f"the columns of a table must have different names; {name!r} is the name of "
                f"{names.count(name)}: rename or drop all but one"
            )


def iterate_rows(value: Any, text_column: str, first_row: int = 1) -> Iterator[Row]:
    """Yields rows as dictionaries of plain Python values.

    Args:
      value: An iterable of mappings, records (named tuples and dataclasses) and texts; a pandas
        DataFrame or Series, a pyarrow Table or Array, or a frame with `to_dicts`, such as that of
        Polars.
      text_column: The column that a row which is only a text has.
      first_row: The number of the first row in messages.

    Raises:
      DataError: if a row is something else. The message names the row and its type.
    """
    for number, item in enumerate(iterate_items(value), first_row):
        yield as_row(item, text_column, f"row {number}")


def as_row(item: Any, text_column: str, name: str) -> Row:
    """Returns one row as a dictionary of plain Python values.

    Args:
      item: The row.
      text_column: The column that a row which is only a text has.
      name: The name of the row in messages, for example "row 3".

    Raises:
      DataError: if the value is not a row.
    """
    if isinstance(item, str):
        return {text_column: str(item)}
    mapping = _as_mapping(item)
    if mapping is None and _is_from(item, "pandas", "Series"):
        mapping = item.to_dict()
    if mapping is None:
        raise DataError(
            f"{_EXPECTED}; {name} is {_describe(item)}: write it as {{{text_column!r}: ...}}, with "
            "the names of its columns"
        )
    return {str(key): _plain(value) for key, value in mapping.items()}


def rows_as_dataset(
    value: Any, text_column: str, columns: Mapping[str, ColumnKind] | None = None
) -> Dataset:
    """Returns rows as a `datasets.Dataset`, with the checks that rows of files undergo.

    Args:
      value: The rows, see `iterate_rows`.
      text_column: The column that a row which is only a text has.
      columns: The columns that are needed and what they hold; None takes all columns.

    Raises:
      DataError: if an item is not a row, there are no rows, or a value cannot be used.
    """
    import datasets
    import pyarrow

    rows = list(iterate_rows(value, text_column))
    if not rows:
        raise DataError("there must be rows; got none: give one or more")
    names = {name: None for row in rows for name in row if columns is None or name in columns}
    arrays = {}
    for name in names:
        builder = ColumnBuilder(name, (columns or {}).get(name, "any"), is_csv=False)
        for number, row in enumerate(rows, 1):
            builder.append(row.get(name), f"row {number}")
        arrays[name] = builder.flush()
    return datasets.Dataset(pyarrow.table(arrays))


def _rows_of_dataset(rows: Dataset) -> Iterator[Row]:
    """Yields the rows of a `datasets.Dataset`, with names in the place of the codes of classes."""
    names = {column: class_names(rows, column) for column in rows.column_names}

    def with_names(column: str, value: Any) -> Any:
        codes = names[column]
        if not codes:
            return value
        if isinstance(value, list):
            return [with_names(column, item) for item in value]
        return class_name(codes, value)

    for row in rows:
        yield {name: with_names(name, value) for name, value in dict(row).items()}


def is_path(value: Any) -> bool:
    """Returns whether a value names a file: a text or a path."""
    return isinstance(value, str) or hasattr(value, "__fspath__")


def _as_mapping(item: Any) -> Mapping[Any, Any] | None:
    """Returns a row with named columns as a mapping; None for anything else."""
    if isinstance(item, Mapping):
        return item
    if isinstance(item, tuple) and hasattr(item, "_asdict"):
        return item._asdict()  # type: ignore[attr-defined]
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    return None


def _plain(value: Any) -> Any:
    """Returns arrays and tuples as lists, and NumPy's scalars as Python's."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if _is_from(value, "numpy") and hasattr(value, "tolist"):
        return _plain(value.tolist()) if value.ndim else value.item()
    return value


def _is_from(value: Any, package: str, name: str | None = None) -> bool:
    """Returns whether a value's type, or a base of it, is defined by a package."""
    return any(
        base.__module__.split(".")[0] == package and name in (None, base.__name__)
        for base in type(value).__mro__
    )


def _describe(value: Any) -> str:
    text = repr(value)
    short = text if len(text) <= 60 else f"{text[:57]}..."
    return f"{short}, of type {type(value).__name__}"
