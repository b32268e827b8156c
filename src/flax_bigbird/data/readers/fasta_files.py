"""Reads FASTA files: sequences of nucleotides or amino acids, each after a line that names it.

A record is a row. A record of more than `MAX_ROW_LENGTH` letters, such as a chromosome, is split
into several rows, so that files of any size are read in little memory.
"""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from flax_bigbird.data.errors import DataError
from flax_bigbird.data.readers.lines import check_encoding, open_binary
from flax_bigbird.data.readers.rows import FileRow

MAX_ROW_LENGTH = 100_000
"""The maximum number of letters of a row. Longer records are split at its multiples."""

MIN_GAP_LENGTH = 100
"""The number of successive N in a long record that are a gap, which is left out."""

MAX_HEADER_LENGTH = 2**20

_CHUNK_SIZE = 2**16  # bytes of a line that are read at once; a line may hold a whole chromosome
_WHITE_SPACE = b" \t\r\n\v\f"
_UPPER_CASE = bytes(range(256)).upper()
_ALLOWED = bytes(set(range(0x21, 0x7F)) - set(b">"))
_GAPS = re.compile(b"N{%d,}" % MIN_GAP_LENGTH)


def read_fasta(file: Path) -> Iterator[FileRow]:
    """Yields the records of a FASTA file, or the parts of those that are long.

    A row has the columns `text`, the sequence in upper case and without white space; `id` and
    `description`, the first word of the header and the rest; and `start`, the number of letters of
    the record before the row. Lower case marks repeats in many genomes ("soft masking") and means
    the same letters. Lines that begin with `;` are comments. A record without a sequence is a row
    with an empty text.

    Records of more than `MAX_ROW_LENGTH` letters are split at the multiples of that number, and at
    runs of at least `MIN_GAP_LENGTH` letters N, which are left out. All other rows are whole
    records, whatever they hold.

    Raises:
      DataError: if the file is not FASTA: if text precedes the first header, or a line holds bytes
        that are no letters of a sequence. The message names the line.
    """
    record: _Record | None = None
    for number, line, starts_line in _iterate_chunks(file):
        if starts_line and line.startswith(b">"):
            if record is not None:
                yield from record.end()
            record = _Record(file, number, _parse_header(file, number, line))
        elif not (starts_line and line.startswith(b";")):
            letters = line.translate(_UPPER_CASE, _WHITE_SPACE)
            if not letters:
                continue
            _check_letters(file, number, line, letters)
            if record is None:
                raise DataError(
                    "a FASTA file must begin with a header, a line such as >chr1; "
                    f"{file}, line {number} is {_shorten(line)}: name the sequence, or set "
                    "file_format to that of the file"
                )
            yield from record.add(letters)
    if record is not None:
        yield from record.end()


class _Record:
    """Collects the letters of a record, and turns them into rows."""

    def __init__(self, file: Path, number: int, header: str):
        self._origin = f"{file}, line {number}"
        self._id, _, description = header.partition(" ")
        self._description = description.strip()
        self._letters = bytearray()
        self._start = 0

    def add(self, letters: bytes) -> Iterator[FileRow]:
        """Adds letters, and yields the rows that are complete."""
        self._letters += letters
        while len(self._letters) > MAX_ROW_LENGTH:
            part = bytes(self._letters[:MAX_ROW_LENGTH])
            del self._letters[:MAX_ROW_LENGTH]
            yield from self._rows(part)

    def end(self) -> Iterator[FileRow]:
        """Yields the rest of the record."""
        rest = bytes(self._letters)
        if self._start:
            yield from self._rows(rest)
        else:
            yield self._row(rest, 0, self._origin)

    def _rows(self, part: bytes) -> Iterator[FileRow]:
        """Yields what is between the gaps of a part of a long record."""
        begin = 0
        for gap in [*_GAPS.finditer(part), None]:
            end = len(part) if gap is None else gap.start()
            if begin < end:
                start = self._start + begin
                yield self._row(part[begin:end], start, f"{self._origin}, start {start:,}")
            begin = end if gap is None else gap.end()
        self._start += len(part)

    def _row(self, letters: bytes, start: int, origin: str) -> FileRow:
        values = {
            "text": letters.decode("ascii"),
            "id": self._id,
            "description": self._description,
            "start": start,
        }
        return FileRow(values, origin)


def _iterate_chunks(file: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Yields the lines of a file in chunks, and headers and comments as a whole.

    Yields:
      The number of the line, from 1; a chunk of it; and whether the chunk is at its start.
    """
    number, starts_line = 1, True
    with open_binary(file) as stream:
        while chunk := stream.readline(_CHUNK_SIZE):
            if number == 1 and starts_line:
                check_encoding(file, chunk)
                chunk = chunk.removeprefix(codecs.BOM_UTF8)
            if starts_line and chunk.startswith((b">", b";")) and not chunk.endswith(b"\n"):
                chunk += stream.readline(MAX_HEADER_LENGTH)
                if len(chunk) > MAX_HEADER_LENGTH:
                    raise DataError(
                        f"a header of a FASTA file must have at most {MAX_HEADER_LENGTH:,} bytes; "
                        f"that in {file}, line {number} has more: end it with a line break"
                    )
            yield number, chunk, starts_line
            starts_line = chunk.endswith(b"\n")
            number += starts_line


def _parse_header(file: Path, number: int, line: bytes) -> str:
    """Returns a header without `>`, with single spaces."""
    line = line.rstrip(b"\r\n")
    if b"\r" in line:
        raise DataError(
            f"lines must end with a line feed; {file}, line {number} holds a carriage return "
            "alone: convert the file, for example with tr '\\r' '\\n'"
        )
    try:
        return " ".join(line[1:].decode().split())
    except UnicodeDecodeError as error:
        raise DataError(
            f"data files must be UTF-8; {file}, line {number} is not (byte "
            f"0x{line[1 + error.start]:02x} at column {error.start + 2}): convert it, for example "
            "with iconv"
        ) from error


def _check_letters(file: Path, number: int, line: bytes, letters: bytes) -> None:
    """Raises `DataError` if a chunk of a line holds something other than letters and symbols."""
    wrong = letters.translate(None, _ALLOWED)
    if wrong:
        remedy = (
            "begin each header on a line of its own"
            if wrong[:1] == b">"
            else "remove it, or set file_format to that of the file"
        )
        raise DataError(
            "a sequence in a FASTA file must consist of letters and symbols of ASCII without >; "
            f"{file}, line {number} holds the byte 0x{wrong[0]:02x} ({_shorten(line)}): {remedy}"
        )


def _shorten(line: bytes) -> str:
    text = line.rstrip(b"\r\n").decode("ascii", "backslashreplace")
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
