"""Reads the lines of UTF-8 files, plain or compressed, and names the line that cannot be read."""

import bz2
import codecs
import contextlib
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from flax_bigbird.data.errors import DataError
from flax_bigbird.data.readers.rows import FileRow


def _open_zstandard(file: Path, mode: str) -> io.BufferedReader:
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise DataError(
            f"reading {file} needs the package {error.name}: "
            'pip install "flax-bigbird[train]", or decompress the file with zstd -d'
        ) from error
    del mode
    stream: Any = pyarrow.input_stream(str(file), compression="zstd")
    return io.BufferedReader(stream)


COMPRESSIONS: dict[str, Callable[[Path, str], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".zst": _open_zstandard,
}
"""The functions that open compressed files, by suffix."""


@contextlib.contextmanager
def open_binary(file: Path) -> Iterator[IO[bytes]]:
    """Opens a file for reading bytes, decompressed if its name says that it is compressed.

    Raises:
      DataError: if a compressed file is damaged.
    """
    compression = COMPRESSIONS.get(file.suffix.lower())
    if compression is None:
        with file.open("rb") as stream:
            yield stream
        return
    try:
        with compression(file, "rb") as stream:
            yield stream
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"a {file.suffix} file must be complete and undamaged; {file} is not ({error}): "
            "compress it again"
        ) from error


def iterate_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yields the lines of a file with their numbers, from 1; they include their line ends.

    A byte-order mark at the start is removed.

    Raises:
      DataError: if the file is not UTF-8. The message names the line.
    """
    with open_binary(file) as stream:
        for number, line in enumerate(stream, 1):
            if number == 1:
                check_encoding(file, line)
                line = line.removeprefix(codecs.BOM_UTF8)
            try:
                yield number, line.decode()
            except UnicodeDecodeError as error:
                raise DataError(
                    f"data files must be UTF-8; {file}, line {number} is not (byte "
                    f"0x{line[error.start]:02x} at column {error.start + 1}): convert it, for "
                    "example with iconv"
                ) from error


def read_text(file: Path) -> Iterator[FileRow]:
    """Yields the one row of a text file, with the columns `text` and `file`.

    Raises:
      DataError: if the file is not UTF-8, or if it is a CoNLL file.
    """
    text = "".join(line for _, line in iterate_lines(file))
    if text.startswith("-DOCSTART-"):
        raise DataError(
            f"text files must not be CoNLL files; {file} is a CoNLL file, because it begins with "
            "-DOCSTART-: set file_format=conll, or rename it to end in .conll"
        )
    yield FileRow({"text": text, "file": file.name}, str(file))


def check_encoding(file: Path, start: bytes) -> None:
    """Raises `DataError` if the first bytes of a file show that it is UTF-16 or UTF-32."""
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
    if start.startswith(marks) or b"\0" in start[:2]:
        raise DataError(
            f"data files must be UTF-8; {file} is UTF-16 or UTF-32: convert it, for example with "
            "iconv -f UTF-16 -t UTF-8"
        )
