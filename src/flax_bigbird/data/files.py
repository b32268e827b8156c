"""Rows of files one after the other, however many; what is wrong with them, by line, before."""

import contextlib
import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flax_bigbird.tasks.errors import DataError

KINDS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}

BATCH = 256  # rows of Parquet at a time


def expand(paths: Sequence[str | Path]) -> tuple[str, list[Path]]:
    """(kind, files) that paths stand for: a folder for the text files below it.

    Raises:
      DataError: a file is missing, empty or of no known kind, or they are of several.
    """
    files = [file for path in paths for file in _expand(Path(path).expanduser())]
    found = {KINDS.get(file.suffix.lower()) for file in files}
    if None in found or len(found) != 1:
        names = ", ".join(sorted({file.suffix or file.name for file in files})) or "none"
        raise DataError(
            f"data files must be of one kind among {', '.join(KINDS)}; got {names}: convert them"
        )
    return str(found.pop()), files


def check(files: Sequence[Path], kind: str) -> None:
    """Raises `DataError` for what is not UTF-8, not JSON, or has a row of another width."""
    if kind in ("json", "csv", "text"):
        for file in files:
            _check_text(file, kind)


def count(files: Sequence[Path], kind: str) -> int:
    """The number of rows."""
    if kind == "parquet":  # whose footer says so
        import pyarrow.parquet

        return sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)
    return len(files) if kind == "text" else sum(1 for _ in rows(files, kind))


def rows(files: Sequence[Path], kind: str) -> Iterator[dict[str, Any]]:
    """Every row of every file, in order; a text file is a row with `text` and `file`."""
    reader = {"json": _json_rows, "csv": _csv_rows, "parquet": _parquet_rows, "text": _text_rows}
    for file in files:
        yield from reader[kind](file)


def separator(file: Path) -> str:
    """Of the columns of a CSV or TSV file."""
    return "\t" if file.suffix.lower() == ".tsv" else ","


def write_whole(path: Path, text: str) -> None:
    """Writes a file in one step: the old one or the new one, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)


def _text_rows(file: Path) -> Iterator[dict[str, Any]]:
    yield {"text": file.read_text(encoding="utf-8-sig"), "file": file.name}


def _json_rows(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8-sig") as stream:
        if _is_array(stream):
            yield from json.load(stream)
            return
        for line in stream:
            if line.strip():
                yield json.loads(line)


def _csv_rows(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8-sig", newline="") as stream, _long_fields():
        yield from csv.DictReader(stream, delimiter=separator(file))


def _parquet_rows(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet

    for batch in pyarrow.parquet.ParquetFile(file).iter_batches(BATCH):
        yield from batch.to_pylist()


def _is_array(stream: Any) -> bool:
    """Whether a JSON file is one array; the stream is at its beginning again."""
    first = stream.read(64).lstrip()[:1]
    stream.seek(0)
    return first == "["


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.rglob("*.txt") if file.is_file())
        if not found:
            raise DataError(f"a folder of data must hold .txt files; {path} has none: name files")
        return found
    if not path.is_file():
        raise DataError(f"data files must exist; {path} does not: check the path")
    if path.stat().st_size == 0:
        raise DataError(f"data files must hold data; {path} is empty: leave it out")
    return [path]


def _check_text(file: Path, kind: str) -> None:
    """Raises for what is not UTF-8, not JSON, or has a row of another width, with the line."""
    number = 0
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"data files must be UTF-8; {file}, line {number} is not (byte "
                    f"0x{line[error.start]:02x} at column {error.start + 1}): convert it, for "
                    "example with iconv"
                ) from error
    if kind == "json":
        _check_json(file)
    elif kind == "csv":
        _check_csv(file, separator(file))


def _check_json(file: Path) -> None:
    with file.open(encoding="utf-8-sig") as stream:
        if _is_array(stream):
            try:
                json.load(stream)
            except ValueError as error:
                raise DataError(f"{file} must be JSON; it is not: {error}: mend it") from error
            return
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"every line must be a JSON object; {file}, line {number} is not ({error}): "
                    "mend or remove it"
                ) from error
            if not isinstance(row, dict):
                raise DataError(
                    f"every line must be a JSON object; {file}, line {number} is "
                    f"{line.strip()[:60]}: mend or remove it"
                )


def _check_csv(file: Path, between: str) -> None:
    with file.open(encoding="utf-8-sig", newline="") as stream, _long_fields():
        reader = csv.reader(stream, delimiter=between)
        width = len(next(reader, []))
        for row in reader:
            if row and len(row) != width:
                raise DataError(
                    f"every row must have the header's {width} columns; {file}, line "
                    f"{reader.line_num} has {len(row)}: quote texts that hold {between!r}"
                )


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    """Documents are longer than the csv module's default limit of 131,072 characters."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)
