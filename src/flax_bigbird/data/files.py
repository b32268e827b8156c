"""Lists data files, and reads their rows one by one in any supported format."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.data.readers.conll_files import read_conll
from flax_bigbird.data.readers.csv_files import csv_columns, read_csv
from flax_bigbird.data.readers.fasta_files import read_fasta
from flax_bigbird.data.readers.json_files import read_json
from flax_bigbird.data.readers.lines import COMPRESSIONS, read_text
from flax_bigbird.data.readers.parquet_files import parquet_columns, read_parquet
from flax_bigbird.data.readers.rows import FileRow

FORMATS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
    ".conll": "conll",
    ".bio": "conll",
    ".iob": "conll",
    ".iob2": "conll",
    ".fa": "fasta",
    ".fasta": "fasta",
    ".fna": "fasta",
    ".ffn": "fasta",
    ".faa": "fasta",
}
"""The format of a file by its suffix. All but Parquet may be compressed, as in `.jsonl.gz`."""

_READERS: dict[str, Callable[[Path], Iterator[FileRow]]] = {
    "json": read_json,
    "conll": read_conll,
    "text": read_text,
    "fasta": read_fasta,
}


def expand_paths(
    paths: Sequence[str | Path], file_format: str | None = None
) -> tuple[str, list[Path]]:
    """Expands paths to files. A directory is expanded to the text files below it.

    Paths are taken literally: `*` and `[` have no special meaning.

    Args:
      paths: The paths.
      file_format: The format of the files, one of the values of `FORMATS`. By default, it follows
        from their names.

    Returns:
      The format of the files, one of the values of `FORMATS`, and the files.

    Raises:
      DataError: if a file is missing, empty, or of an unknown format, or if the formats differ.
    """
    files = [file for path in paths for file in _expand(Path(path).expanduser())]
    if file_format is not None:
        return file_format, files
    formats = {format_of_name(file) for file in files}
    if None in formats or len(formats) != 1:
        names = ", ".join(sorted({"".join(file.suffixes[-2:]) or file.name for file in files}))
        raise DataError(
            f"data files must be of one kind among {', '.join(FORMATS)}, or of one of the text "
            f"formats compressed as {', '.join(COMPRESSIONS)}; got {names or 'none'}: convert "
            "them, or name their format with file_format"
        )
    return str(formats.pop()), files


def check_output_directory(output: Path) -> None:
    """Raises `OptionError` if the directory that an output is to be written to does not exist."""
    if not output.parent.is_dir():
        raise OptionError(
            f"must be in a directory that exists; got {output}: create the directory",
            option="output",
        )


def check_output_is_no_input(output: Path, files: Iterable[str | Path]) -> None:
    """Raises `OptionError` if an output file is one of the input files, by whatever name."""
    for file in files:
        path = Path(file).expanduser()
        if output.exists() and path.exists() and output.samefile(path):
            raise OptionError(
                f"must not be a file that is read; got {output}, which is {file}: choose "
                "another name",
                option="output",
            )


def check_separator(separator: str | None, format: str) -> None:
    """Raises `OptionError` if a separator is given for files that are not CSV."""
    if separator is not None and format != "csv":
        raise OptionError(
            f"separator belongs to CSV files; got {separator!r} for files of the format {format}: "
            "leave it out"
        )


def iterate_rows(
    files: Iterable[Path],
    format: str,
    *,
    columns: Collection[str] | None = None,
    separator: str | None = None,
    missing: str | None = None,
) -> Iterator[FileRow]:
    """Yields the rows of all files in order.

    A text file is a row with `text` and `file`. A CoNLL file has a row for each document or
    sentence, a JSON file in SQuAD's format one for each question, and a FASTA file one for each
    record, or several if the record is long.

    Args:
      files: The files.
      format: Their format.
      columns: The columns that are needed; rows may have others. None needs all of them.
      separator: The character between the fields of CSV files; None detects it.
      missing: The value of an empty field of a CSV file.

    Raises:
      DataError: if a file is damaged or does not follow its format. The message names the line or
        the row.
    """
    for file in files:
        if format == "csv":
            yield from read_csv(file, separator, missing, columns)
        elif format == "parquet":
            yield from read_parquet(file, columns)
        else:
            yield from _READERS[format](file)


def column_names(files: Iterable[Path], format: str, *, separator: str | None = None) -> list[str]:
    """Returns the names of the columns of files, in the order of their first occurrence."""
    names: dict[str, None] = {}
    for file in files:
        if format == "csv":
            names |= dict.fromkeys(csv_columns(file, separator))
        elif format == "parquet":
            names |= dict.fromkeys(parquet_columns(file))
        else:
            for row in iterate_rows([file], format):
                names |= dict.fromkeys(row)
    return list(names)


def content_hash(file: Path) -> str:
    """Returns a hash of the content of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def format_of_name(file: Path) -> str | None:
    """Returns the format of a file by its name, one of the values of `FORMATS`, or None."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if len(suffixes) > 1 and suffixes[-1] in COMPRESSIONS:
        format = FORMATS.get(suffixes[-2])
        return None if format == "parquet" else format
    return FORMATS.get(suffixes[-1]) if suffixes else None


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(
            file for file in path.rglob("*") if format_of_name(file) == "text" and file.is_file()
        )
        if not files:
            raise DataError(
                f"a directory of data must hold .txt files; {path} has none: name files"
            )
        return files
    if not path.is_file():
        raise DataError(f"data files must exist; {path} does not: check the path")
    if path.stat().st_size == 0:
        raise DataError(f"data files must hold data; {path} is empty: leave it out")
    return [path]
