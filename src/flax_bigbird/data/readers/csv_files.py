"""Reads CSV and TSV files by one stated rule of quoting.

A field is quoted if it begins with `"` and if the next `"` that is not doubled is followed by a
separator or the end of a line. It then may hold separators and line ends, and `""` stands for `"`.
In all other fields, quotes have no special meaning. Fields are not changed; an empty field is
missing.
"""

import collections
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from flax_bigbird._messages import pluralize
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.readers.lines import iterate_lines
from flax_bigbird.data.readers.rows import FileRow

MAX_QUOTED_FIELD = 2**28  # characters
MAX_KNOWN_VALUES = 256  # per column, to recognize lines that look like rows
MAX_KNOWN_LENGTH = 64

_INSIDE_QUOTES = re.compile(r'(?:[^"]++|"")*+')
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_LINE = re.compile(r"([^\r\n]*)(\r\n|\r|\n|$)")

Line = tuple[int, str, str]
"""The number of a line, its text, and the characters that end it."""


def read_csv(
    file: Path,
    separator: str | None = None,
    missing: str | None = None,
    columns: Collection[str] | None = None,
) -> Iterator[FileRow]:
    """Yields the rows of a CSV or TSV file, whose first line names the columns.

    Args:
      file: The file.
      separator: The character between fields; None detects it, see `find_separator`.
      missing: The value of an empty field.
      columns: The columns that are needed, whose names must differ from all others.

    Raises:
      DataError: if the file is not UTF-8, if the header names such a column twice, if a row has
        another number of fields than the first line, or if a quoted field holds lines that look
        like rows. The message names the line.
    """
    reader = _CsvReader(file, separator or find_separator(file))
    header: dict[str, int] = {}
    for number, fields in reader.iterate_fields():
        if not header:
            for index, name in enumerate(fields):
                if name in header and name in (columns or ()):
                    raise DataError(
                        f"every column must have a name of its own; {file} has two named {name!r}: "
                        "rename one of them in the first line"
                    )
                header.setdefault(name or "", index)
            continue
        row = {name: fields[index] for name, index in header.items()}
        if missing is not None:
            row = {name: missing if value is None else value for name, value in row.items()}
        yield FileRow(row, f"{file}, line {number}")


def csv_columns(file: Path, separator: str | None = None) -> list[str]:
    """Returns the names of the columns of a CSV or TSV file."""
    reader = _CsvReader(file, separator or find_separator(file))
    for _, fields in reader.iterate_fields():
        return [name or "" for name in fields]
    return []


def find_separator(file: Path) -> str:
    """Returns the separator of a file: a tab for TSV, and for CSV a comma.

    A CSV file is separated by semicolons if its first line holds a semicolon and no comma, and by
    tabs if it holds a tab and neither of them.
    """
    if ".tsv" in [suffix.lower() for suffix in file.suffixes[-2:]]:
        return "\t"
    _, header = next(iterate_lines(file), (0, ""))
    return next((separator for separator in ",;\t" if separator in header), ",")


class _CsvReader:
    """Splits the lines of a file into the fields of rows."""

    def __init__(self, file: Path, separator: str):
        self.file, self.separator = file, separator
        ending = rf"(?={re.escape(separator)}|\Z)"
        self._quoted = re.compile(rf'"((?:[^"]++|"")*+)"{ending}')
        self._lines = _split_lines(file)
        self._returned: collections.deque[Line] = collections.deque()
        self._known_values: list[set[str]] = []

    def iterate_fields(self) -> Iterator[tuple[int, list[str | None]]]:
        """Yields the number of the first line of each row, and its fields. The header is first."""
        width = 0
        while (line := self._next_line()) is not None:
            number, text, _ = line
            if not text or (width > 1 and text.isspace() and self.separator not in text):
                continue
            if '"' in text:
                fields = self._parse(line, width)
            else:
                fields = [field or None for field in text.split(self.separator)]
            if width and len(fields) != width:
                remedy = (
                    f"quote texts that hold {self.separator!r}, and double the quotes in them"
                    if len(fields) > width
                    else "add the others, or quote a text that goes on in the next line"
                )
                raise DataError(
                    f"every row must have the header's {pluralize(width, 'column')}; {self.file}, "
                    f"line {number} has {len(fields)}: {remedy}"
                )
            if width:
                self._remember(fields)
            else:
                width = len(fields)
                self._known_values = [set() for _ in fields]
            yield number, fields

    def _parse(self, line: Line, width: int) -> list[str | None]:
        """Returns the fields of the row that starts at a line with quotes."""
        text = line[1]
        fields: list[str | None] = []
        position = 0
        while True:
            rest = None
            if text.startswith('"', position):
                if match := self._quoted.match(text, position):
                    fields.append(match[1].replace('""', '"'))
                    position = match.end()
                    rest = text
                elif _INSIDE_QUOTES.fullmatch(text, position + 1) and (
                    last := self._parse_lines(line, text[position + 1 :], fields, width)
                ):
                    line, rest = last
                    position = 0
            if rest is None:
                end = text.find(self.separator, position)
                end = len(text) if end < 0 else end
                fields.append(text[position:end] or None)
                position = end
            else:
                text = rest
            if position >= len(text):
                return fields
            position += 1

    def _parse_lines(
        self, first: Line, start: str, fields: list[str | None], width: int
    ) -> tuple[Line, str] | None:
        """Parses a quoted field that continues in the next lines, and appends it to `fields`.

        Args:
          first: The line in which the field starts.
          start: What follows the opening quote in that line.
          fields: The fields before it.
          width: The number of fields of a row; 0 in the header.

        Returns:
          The last line of the field, and what follows the field in it; None if the field does not
          end as a quoted field must, and is therefore not quoted.
        """
        following: list[Line] = []
        parts, size = [start, first[2]], 0
        while (line := self._next_line()) is not None:
            following.append(line)
            _, inside, ending = line
            match = _INSIDE_QUOTES.match(inside)
            end = match.end() if match else 0
            parts.append(inside[:end])
            size += end
            if size > MAX_QUOTED_FIELD:
                break
            if end == len(inside):
                parts.append(ending)
                continue
            rest = inside[end + 1 :]
            if rest and not rest.startswith(self.separator):
                break
            self._check_no_rows([first, *following], len(fields), width)
            fields.append("".join(parts).replace('""', '"'))
            return line, rest
        self._returned.extendleft(reversed(following))
        return None

    def _check_no_rows(self, lines: list[Line], column: int, width: int) -> None:
        """Raises `DataError` if all lines that a quoted field spans look like rows."""
        if width > 1 and all(self._looks_like_row(text, column, width) for _, text, _ in lines):
            first, last = lines[0][0], lines[-1][0]
            raise DataError(
                f"a quoted field must not hold rows; {self.file}, line {first} begins a field with "
                f"a quote that ends in line {last}, and the lines between look like rows: double "
                "the quotes and put the whole field in quotes, or remove the quotes"
            )

    def _looks_like_row(self, text: str, column: int, width: int) -> bool:
        """Returns whether a line, if quotes are ignored, is a row.

        It must have as many fields as a row. Commas and semicolons occur in prose too, so for them
        the fields beside the quoted one must also be numbers, or values of earlier rows.
        """
        fields = text.split(self.separator)
        if len(fields) != width:
            return False
        others = [(i, field) for i, field in enumerate(fields) if i != column]
        return self.separator == "\t" or all(
            _NUMBER.fullmatch(field) or field in self._known_values[i] for i, field in others
        )

    def _remember(self, fields: list[str | None]) -> None:
        for known, field in zip(self._known_values, fields, strict=True):
            if field and len(field) <= MAX_KNOWN_LENGTH and len(known) < MAX_KNOWN_VALUES:
                known.add(field)

    def _next_line(self) -> Line | None:
        return self._returned.popleft() if self._returned else next(self._lines, None)


def _split_lines(file: Path) -> Iterator[Line]:
    """Yields the lines of a file, which may end in `\\n`, `\\r\\n`, or `\\r`."""
    number = 0
    for _, line in iterate_lines(file):
        if "\r" not in line:
            number += 1
            yield number, line.removesuffix("\n"), "\n"
            continue
        for match in _LINE.finditer(line):
            if match[0]:
                number += 1
                yield number, match[1], match[2]
