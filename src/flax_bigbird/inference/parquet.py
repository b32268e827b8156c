"""Converts JSONL to Parquet in row groups, so that files of any size fit in memory."""

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flax_bigbird.data.columns import ColumnBuilder
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.types import Row

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
        schema = unify_schemas(schema, table.schema) if schema else table.schema
    schema = schema or pyarrow.schema([])
    full_schema = schema
    if vectors is not None:
        full_schema = schema.append(_vector_field(name, vectors))
    first_row = 0
    with pyarrow.parquet.ParquetWriter(target, full_schema) as writer:
        for table in _row_groups(source):
            table = with_schema(table, schema)
            if vectors is not None:
                table = with_vectors(table, vectors[first_row : first_row + len(table)], name)
            writer.write_table(table)
            first_row += len(table)
    with target.open("rb") as stream:
        os.fsync(stream.fileno())


def _row_groups(source: Path) -> Iterator["pyarrow.Table"]:
    with source.open(encoding="utf-8") as stream:
        while group := list(itertools.islice(stream, ROWS_PER_GROUP)):
            yield table_of_rows([json.loads(line) for line in group])


def table_of_rows(rows: Sequence[Row]) -> "pyarrow.Table":
    """Returns rows as a table that has the columns of all of them, also those that some lack."""
    import pyarrow

    names = dict.fromkeys(name for row in rows for name in row)
    return pyarrow.table({name: [row.get(name) for row in rows] for name in names})


def with_vectors(table: "pyarrow.Table", vectors: np.ndarray, name: str) -> "pyarrow.Table":
    """Returns a table with vectors `[N, D]` as a further column, a list of fixed size."""
    import pyarrow

    values = np.array(vectors).reshape(-1)
    column = pyarrow.FixedSizeListArray.from_arrays(values, vectors.shape[1])
    return table.append_column(_vector_field(name, vectors), column)


def unify_schemas(*schemas: "pyarrow.Schema") -> "pyarrow.Schema":
    """Returns a schema that holds the rows of all: nulls fit anywhere, and integers in floats."""
    import pyarrow

    return pyarrow.unify_schemas(schemas, promote_options="permissive")


def with_schema(table: "pyarrow.Table", schema: "pyarrow.Schema") -> "pyarrow.Table":
    """Returns a table with the columns and types of a schema that holds its rows."""
    import pyarrow

    for field in schema:
        if field.name not in table.column_names:
            table = table.append_column(field, pyarrow.nulls(len(table), field.type))
    return table.select(schema.names).cast(schema)


def _vector_field(name: str, vectors: np.ndarray) -> "pyarrow.Field":
    import pyarrow

    return pyarrow.field(name, pyarrow.list_(pyarrow.float32(), vectors.shape[1]))
