"""Converts JSONL to Parquet in row groups, so that files of any size fit in memory."""

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flax_bigbird.data.columns import ColumnBuilder
from flax_bigbird.data.errors import DataError

if TYPE_CHECKING:
    import pyarrow

ROWS_PER_GROUP = 4096


def jsonl_to_parquet(
    source: Path, target: Path, vectors: np.ndarray | None = None, name: str = "vector"
) -> None:
    """Writes the rows of a JSONL file as a Parquet file, and flushes it to the disk.

    The schema covers all rows: a column may be empty in one row group and hold numbers
    in the next, and a row may lack columns that others have.

    Args:
      source: The JSONL file.
      target: The Parquet file.
      vectors: A further column: a vector for each row, `[N, D]` in float32, which may be mapped to
        memory. It is a list of fixed size in the file.
      name: The name of that column.

    Raises:
      DataError: if the values of a column do not have one type. The message names column and row.
    """
    import pyarrow

    try:
        _write_parquet(source, target, vectors, name)
    except (pyarrow.ArrowException, OverflowError) as error:
        _check_types(source)
        raise DataError(
            f"the rows must fit in a Parquet file; they do not ({error}): write a .jsonl file"
        ) from error


def _check_types(source: Path) -> None:
    """Raises `DataError` if the values of a column do not have one type."""
    builders: dict[str, ColumnBuilder] = {}
    with source.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            for name, value in json.loads(line).items():
                builder = builders.setdefault(name, ColumnBuilder(name, "any", is_csv=False))
                builder.append(value, f"row {number} of the output")
            if number % ROWS_PER_GROUP == 0:
                for builder in builders.values():
                    builder.flush()
    try:
        for builder in builders.values():
            builder.flush()
    except DataError as error:
        raise DataError(f"{error}, write a .jsonl file, or leave it out of keep") from error


def _write_parquet(source: Path, target: Path, vectors: np.ndarray | None, name: str) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = None
    for table in _row_groups(source):
        schema = (
            pyarrow.unify_schemas([schema, table.schema], promote_options="permissive")
            if schema
            else table.schema
        )
    schema = schema or pyarrow.schema([])
    full_schema = schema
    if vectors is not None:
        full_schema = schema.append(
            pyarrow.field(name, pyarrow.list_(pyarrow.float32(), vectors.shape[1]))
        )
    first_row = 0
    with pyarrow.parquet.ParquetWriter(target, full_schema) as writer:
        for table in _row_groups(source):
            missing = [f for f in schema if f.name not in table.column_names]
            for field in missing:
                table = table.append_column(field, pyarrow.nulls(len(table), field.type))
            table = table.select(schema.names).cast(schema)
            if vectors is not None:
                rows = np.array(vectors[first_row : first_row + len(table)]).reshape(-1)
                column = pyarrow.FixedSizeListArray.from_arrays(rows, vectors.shape[1])
                table = table.append_column(full_schema.field(name), column)
            writer.write_table(table)
            first_row += len(table)
    with target.open("rb") as stream:
        os.fsync(stream.fileno())


def _row_groups(source: Path) -> Iterator["pyarrow.Table"]:
    import pyarrow

    with source.open(encoding="utf-8") as stream:
        while group := list(itertools.islice(stream, ROWS_PER_GROUP)):
            yield pyarrow.Table.from_pylist([json.loads(line) for line in group])
