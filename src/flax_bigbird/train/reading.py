"""Files, folders and `datasets` ids as a `datasets.Dataset`; what is wrong with them, by line."""

import contextlib
import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flax_bigbird.tasks.errors import DataError as DataError
from flax_bigbird.train.options import TrainOptions

if TYPE_CHECKING:
    from datasets import Dataset

KINDS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}


def read_files(paths: Sequence[str]) -> "Dataset":
    """The rows of files of one kind, in order; a folder stands for the text files below it.

    Text files are one document each, in the column `text`. Columns keep the types that `datasets`
    finds.

    Raises:
      DataError: a file is missing, empty, of no known kind, not UTF-8, or broken (with the line).
    """
    files = [file for path in paths for file in _expand(Path(path).expanduser())]
    kinds = {KINDS.get(file.suffix.lower()) for file in files}
    if None in kinds or len(kinds) != 1:
        names = ", ".join(sorted({file.suffix or file.name for file in files}))
        raise DataError(
            f"data files must be of one kind among {', '.join(KINDS)}; got {names}: convert them"
        )
    kind = str(kinds.pop())
    options: dict[str, Any] = {"sample_by": "document"} if kind == "text" else {}
    if kind == "csv" and files[0].suffix.lower() == ".tsv":
        options["sep"] = "\t"
    if kind in ("json", "csv", "text"):
        # datasets may skip or guess where a file is broken: the line is found before.
        for file in files:
            _check_text(file, kind, "\t" if "sep" in options else ",")
    return _load(kind, [str(file) for file in files], options)


def read_dataset(name: str, configuration: str | None, split: str) -> "Dataset":
    """A split of a dataset of the Hub, or of a folder that `datasets` reads.

    Raises:
      DataError: it cannot be loaded.
    """
    datasets = _datasets()
    try:
        return datasets.load_dataset(name, configuration, split=split)
    except Exception as error:  # of many libraries: files, network, splits
        raise DataError(
            f"the dataset must be one that `datasets` loads; {name} "
            f"({configuration or 'default'}, {split}) is not: {_one_line(error)}"
        ) from error


def read_training_data(options: TrainOptions) -> tuple["Dataset", "Dataset | None"]:
    """(training rows, validation rows or None), as the options say.

    Without validation data, `validation_share` of the rows are held out at random, by the seed.
    """
    if options.dataset:
        training = read_dataset(options.dataset, options.dataset_name, options.train_split)
    else:
        training = read_files(options.train_files)
    if options.validation_files:
        return training, read_files(options.validation_files)
    if options.dataset and options.validation_split:
        split = options.validation_split
        return training, read_dataset(options.dataset, options.dataset_name, split)
    if options.validation_share == 0:
        return training, None
    if len(training) < 2:
        raise DataError(
            f"a share of the rows can be held out where there are two or more; got {len(training)}"
            ": give validation_files, or validation_share=0"
        )
    count = max(1, round(options.validation_share * len(training)))
    parts = training.train_test_split(test_size=count, seed=options.seed)
    return parts["train"], parts["test"]


def check_columns(rows: "Dataset", names: Sequence[str], what: str) -> None:
    """Raises `DataError` for a column that is not there, naming those that are."""
    for name in names:
        if name not in rows.column_names:
            raise DataError(
                f"the {what} must have a column {name!r}; got {', '.join(rows.column_names)}: name "
                "the right one with an option such as text_column or label_column"
            )


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


def _check_text(file: Path, kind: str, separator: str) -> None:
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
        _check_csv(file, separator)


def _check_json(file: Path) -> None:
    with file.open(encoding="utf-8-sig") as stream:
        if stream.read(64).lstrip()[:1] == "[":  # one array, which `json` reads as a whole
            stream.seek(0)
            try:
                json.load(stream)
            except ValueError as error:
                raise DataError(f"{file} must be JSON; it is not: {error}: mend it") from error
            return
        stream.seek(0)
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


def _check_csv(file: Path, separator: str) -> None:
    with file.open(encoding="utf-8-sig", newline="") as stream, _long_fields():
        reader = csv.reader(stream, delimiter=separator)
        width = len(next(reader, []))
        for row in reader:
            if row and len(row) != width:
                raise DataError(
                    f"every row must have the header's {width} columns; {file}, line "
                    f"{reader.line_num} has {len(row)}: quote texts that hold {separator!r}"
                )


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    """Documents are longer than the csv module's default limit of 131,072 characters."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _load(kind: str, files: list[str], options: dict[str, Any]) -> "Dataset":
    datasets = _datasets()
    try:
        return datasets.load_dataset(kind, data_files=files, split="train", **options)
    except Exception as error:
        cause = error.__cause__
        if isinstance(cause, OSError):
            raise cause from error  # a full disk says so itself
        raise DataError(
            f"data files must be readable as {kind}; {', '.join(files[:3])}: {_one_line(error)}"
        ) from error


def _datasets() -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets


def _one_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return " ".join(f"{type(cause).__name__}: {cause}".split())[:300]
