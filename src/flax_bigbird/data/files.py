"""Reads the rows of JSONL, CSV, Parquet, and text files one by one, and checks files by line."""

import contextlib
import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from flax_bigbird.data.errors import DataError
from flax_bigbird.data.types import Row

FORMATS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}
"""The format of a file by its suffix, under the name that `datasets` gives it."""

PARQUET_BATCH_SIZE = 256  # rows


def expand_paths(paths: Sequence[str | Path]) -> tuple[str, list[Path]]:
    """Lists the files that paths stand for. A folder stands for the text files below it.

    Returns:
      The format of the files, one of the values of `FORMATS`, and the files.

    Raises:
      DataError: if a file is missing, empty, or of an unknown format, or if the formats differ.
    """
    files = [file for path in paths for file in _expand(Path(path).expanduser())]
    formats = {FORMATS.get(file.suffix.lower()) for file in files}
    if None in formats or len(formats) != 1:
        names = ", ".join(sorted({file.suffix or file.name for file in files})) or "none"
        raise DataError(
            f"data files must be of one kind among {', '.join(FORMATS)}; got {names}: convert them"
        )
    return str(formats.pop()), files


def check_files(files: Sequence[Path], format: str) -> None:
    """Checks the syntax of files in a text format.

    Raises:
      DataError: if a file is not UTF-8, is not JSON, or has a row with the wrong number of
        columns. The message names the line.
    """
    for file in files:
        if format in ("json", "csv", "text"):
            _check_utf8(file)
        if format == "json":
            _check_json(file)
        elif format == "csv":
            _check_csv(file)


def count_rows(files: Sequence[Path], format: str) -> int:
    """Returns the number of rows in files of one format."""
    if format == "parquet":  # whose footer holds the number
        import pyarrow.parquet

        return sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)
    return len(files) if format == "text" else sum(1 for _ in iterate_rows(files, format))


def iterate_rows(files: Sequence[Path], format: str) -> Iterator[Row]:
    """Yields the rows of all files in order. A text file is a row with `text` and `file`."""
    readers = {"json": _json_rows, "csv": _csv_rows, "parquet": _parquet_rows, "text": _text_rows}
    for file in files:
        yield from readers[format](file)


def column_separator(file: Path) -> str:
    """Returns the character between the columns of a CSV or TSV file."""
    return "\t" if file.suffix.lower() == ".tsv" else ","


def _text_rows(file: Path) -> Iterator[Row]:
    yield {"text": file.read_text(encoding="utf-8-sig"), "file": file.name}


def _json_rows(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig") as stream:
        if _is_array(stream):
            yield from json.load(stream)
            return
        for line in stream:
            if line.strip():
                yield json.loads(line)


def _csv_rows(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig", newline="") as stream, _unlimited_fields():
        yield from csv.DictReader(stream, delimiter=column_separator(file))


def _parquet_rows(file: Path) -> Iterator[Row]:
    import pyarrow.parquet

    for batch in pyarrow.parquet.ParquetFile(file).iter_batches(PARQUET_BATCH_SIZE):
        yield from batch.to_pylist()


def _is_array(stream: IO[Any]) -> bool:
    """Returns whether a JSON file holds one array, and rewinds the stream."""
    first = stream.read(64).lstrip()[:1]
    stream.seek(0)
    return first == "["


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.txt") if file.is_file())
        if not files:
            raise DataError(f"a folder of data must hold .txt files; {path} has none: name files")
        return files
    if not path.is_file():
        raise DataError(f"data files must exist; {path} does not: check the path")
    if path.stat().st_size == 0:
        raise DataError(f"data files must hold data; {path} is empty: leave it out")
    return [path]


def _check_utf8(file: Path) -> None:
    with file.open("rb") as stream:
        for line_number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8-sig" if line_number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"data files must be UTF-8; {file}, line {line_number} is not (byte "
                    f"0x{line[error.start]:02x} at column {error.start + 1}): convert it, for "
                    "example with iconv"
                ) from error


def _check_json(file: Path) -> None:
    with file.open(encoding="utf-8-sig") as stream:
        if _is_array(stream):
            try:
                json.load(stream)
            except ValueError as error:
                raise DataError(f"{file} must be JSON; it is not: {error}: correct it") from error
            return
        for line_number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"every line must be a JSON object; {file}, line {line_number} is not "
                    f"({error}): correct or remove it"
                ) from error
            if not isinstance(row, dict):
                raise DataError(
                    f"every line must be a JSON object; {file}, line {line_number} is "
                    f"{line.strip()[:60]}: correct or remove it"
                )


def _check_csv(file: Path) -> None:
    separator = column_separator(file)
    with file.open(encoding="utf-8-sig", newline="") as stream, _unlimited_fields():
        reader = csv.reader(stream, delimiter=separator)
        width = len(next(reader, []))
        for row in reader:
            if row and len(row) != width:
                raise DataError(
                    f"every row must have the header's {width} columns; {file}, line "
                    f"{reader.line_num} has {len(row)}: quote texts that hold {separator!r}"
                )


@contextlib.contextmanager
def _unlimited_fields() -> Iterator[None]:
    """Lifts the csv module's limit of 131,072 characters, which documents exceed."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)
