"""Reads JSON files: one object per line, or one array of objects."""

import codecs
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flax_bigbird.data.errors import DataError
from flax_bigbird.data.readers.lines import check_encoding, iterate_lines, open_binary
from flax_bigbird.data.readers.rows import FileRow

CHUNK_SIZE = 2**20  # characters of an array that are read at once

_SPACE = re.compile(r"\s*")
_PEEK_SIZE = 4096  # bytes that show whether a file is an array
_LOOKAHEAD = 16  # characters; an error so close to the end of a chunk may be due to that end


def read_json(file: Path) -> Iterator[FileRow]:
    """Yields the objects of a JSON file. An array is parsed as it is read.

    Raises:
      DataError: if the file is not UTF-8 or not JSON, or if it holds something other than objects.
        The message names the line, or the row of an array.
    """
    with open_binary(file) as stream:
        start = stream.read(_PEEK_SIZE)
    check_encoding(file, start)
    is_array = start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
    yield from _array_rows(file) if is_array else _line_rows(file)


def _line_rows(file: Path) -> Iterator[FileRow]:
    is_first = True
    for number, line in iterate_lines(file):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"every line must be a JSON object; {file}, line {number} is not "
                f"({error}): correct or remove it"
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


def _array_rows(file: Path) -> Iterator[FileRow]:
    number = 0
    with open_binary(file) as binary:
        stream = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
        try:
            for number, row in enumerate(_iterate_array(stream), 1):
                if not isinstance(row, dict):
                    raise DataError(
                        f"every element of the array must be a JSON object; {file}, row {number} "
                        f"is {json.dumps(row)[:60]}: correct or remove it"
                    )
                yield FileRow(row, f"{file}, row {number}")
        except UnicodeDecodeError:
            for _ in iterate_lines(file):  # raises an error that names the line
                pass
            raise
        except (_ArrayError, RecursionError) as error:
            raise DataError(
                f"{file} must be JSON; it is not after row {number}: {error}: correct it"
            ) from error


class _ArrayError(ValueError):
    """Raised if an array is not valid JSON."""


def _iterate_array(stream: io.TextIOWrapper) -> Iterator[Any]:
    """Yields the elements of an array without holding all of them in memory."""
    decoder = json.JSONDecoder()
    buffer, position = stream.read(CHUNK_SIZE), 0
    lines_before = 0  # those that are no longer in the buffer
    is_first = True

    def more() -> bool:
        """Reads at least as much as is not parsed yet; returns whether there was more."""
        nonlocal buffer, position, lines_before
        lines_before += buffer.count("\n", 0, position)
        buffer, position = buffer[position:], 0
        added = stream.read(max(CHUNK_SIZE, len(buffer)))
        buffer += added
        return bool(added)

    def next_character() -> str:
        """Returns the next character that is not white space; "" at the end."""
        nonlocal position
        while True:
            match = _SPACE.match(buffer, position)
            position = match.end() if match else position
            if position < len(buffer) or not more():
                return buffer[position : position + 1]

    def fail(message: str, at: int) -> _ArrayError:
        return _ArrayError(f"{message}, line {lines_before + buffer.count(chr(10), 0, at) + 1}")

    next_character()
    position += 1  # the opening bracket
    while next_character() != "]" or not is_first:
        if not is_first:
            character = next_character()
            if character == "]":
                break
            if character != ",":
                raise fail("an element must be followed by a comma or ]", position)
            position += 1
            next_character()
        while True:
            try:
                value, end = decoder.raw_decode(buffer, position)
            except json.JSONDecodeError as error:
                is_cut = error.pos >= len(buffer) - _LOOKAHEAD or "Unterminated" in error.msg
                start = position
                if not is_cut:
                    raise fail(error.msg, error.pos) from error
                if not more():
                    raise fail(error.msg, error.pos - start) from error
                continue
            start = position
            if end < len(buffer):
                break
            if not more():
                end -= start
                break
        position = end
        is_first = False
        yield value
    position += 1
    if next_character():
        raise fail("nothing may follow the array", position)


def _is_table_of_columns(row: dict[str, Any]) -> bool:
    """Returns whether an object holds a table by column, then by row number."""
    columns = list(row.values())
    if not columns or not all(isinstance(column, dict) and column for column in columns):
        return False
    numbers = [str(index) for index in range(len(columns[0]))]
    return all(list(column) == numbers for column in columns)
