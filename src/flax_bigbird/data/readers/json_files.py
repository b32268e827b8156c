"""Reads JSON files: one object per line, an array of objects, or SQuAD's own format."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flax_bigbird.data.errors import DataError
from flax_bigbird.data.readers.json_stream import open_json
from flax_bigbird.data.readers.lines import check_encoding, iterate_lines, open_binary
from flax_bigbird.data.readers.rows import FileRow
from flax_bigbird.data.readers.squad_files import is_squad, read_squad

_PEEK_SIZE = 4096  # bytes that show whether a file is an array


def read_json(file: Path) -> Iterator[FileRow]:
    """Yields the objects of a JSON file, or the questions of one in SQuAD's format.

    Arrays are parsed as they are read.

    Raises:
      DataError: if the file is not UTF-8 or not JSON, or if it holds something other than objects.
        The message names the line, the row of an array, or the question.
    """
    with open_binary(file) as stream:
        start = stream.read(_PEEK_SIZE)
    check_encoding(file, start)
    start = start.removeprefix(codecs.BOM_UTF8).lstrip()
    if start.startswith(b"["):
        yield from _array_rows(file)
    elif start.startswith(b"{") and is_squad(file):
        yield from read_squad(file)
    else:
        yield from _line_rows(file)


def _line_rows(file: Path) -> Iterator[FileRow]:
    is_first = True
    for number, line in iterate_lines(file):
        if not line.strip():
            continue
        try:
            row = json.loads(line.rstrip("\r\n"))
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"every line must be a JSON object; {file}, line {number} is not "
                f"({_describe(error)}): correct or remove it"
            ) from error
        if not isinstance(row, dict):
            raise DataError(
                f"every line must be a JSON object; {file}, line {number} is "
                f"{line.strip()[:60]}: correct or remove it"
            )
        if is_first and _is_table_of_columns(row):
            raise DataError(
                f"every line must be a JSON object with the columns of one row; {file}, line "
                f"{number} holds whole columns, as DataFrame.to_json() writes them: write it with "
                'to_json(orient="records", lines=True)'
            )
        is_first = False
        yield FileRow(row, f"{file}, line {number}")


def _describe(error: Exception) -> str:
    """Returns what is wrong with a line, without the line number within it, which is always 1."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    return f"{error.msg.removesuffix(' at').removesuffix(' starting')}, column {error.colno}"


def _array_rows(file: Path) -> Iterator[FileRow]:
    with open_json(file) as stream:
        for index in stream.iterate_array():
            row = stream.value()
            if not isinstance(row, dict):
                raise DataError(
                    f"every element of the array must be a JSON object; {file}, row {index + 1} "
                    f"is {json.dumps(row)[:60]}: correct or remove it"
                )
            yield FileRow(row, f"{file}, row {index + 1}")
            stream.last = f"row {index + 1}"
        stream.check_end()


def _is_table_of_columns(row: dict[str, Any]) -> bool:
    """Returns whether an object holds a table by column, then by row number."""
    columns = list(row.values())
    if not columns or not all(isinstance(column, dict) and column for column in columns):
        return False
    numbers = [str(index) for index in range(len(columns[0]))]
    return all(list(column) == numbers for column in columns)
