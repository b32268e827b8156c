"""What a job that writes the answers for files checks, depends on, and reports."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from flax_bigbird._messages import pluralize
from flax_bigbird.data import files as data_files
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.data.readers.rows import FileRow
from flax_bigbird.inference.partial_output import PartialOutput
from flax_bigbird.pretrained import local_path
from flax_bigbird.tasks.prediction_task import PredictionTask

# Weights in all formats, and the files of a tokenizer; "config.json" has labels and thresholds.
_MODEL_FILES = ("*.safetensors", "pytorch_model*.bin", "flax_model*.msgpack", "config.json")
_MODEL_FILES += ("*token*.json", "spiece.model", "vocab.*", "merges.txt")


class PredictionInterrupted(Exception):
    """Raised when `should_stop` interrupts prediction; the answers so far are saved.

    Attributes:
      rows: The number of rows that are answered and saved.
    """

    def __init__(self, rows: int):
        super().__init__(f"stopped after {pluralize(rows, 'row')}")
        self.rows = rows


@dataclasses.dataclass(frozen=True)
class JobEvents:
    """The functions that a job calls; `predict_files` documents them."""

    on_start: Callable[[int, int], None]
    on_progress: Callable[[int], None]
    on_message: Callable[[str], None]
    should_stop: Callable[[], bool]


def check_output(target: Path, overwrite: bool) -> None:
    """Raises `OptionError` if an output exists, unless it is overwritten, or cannot be written."""
    if target.exists() and not overwrite:
        PartialOutput.of(target).remove_published()
        raise OptionError(
            f"must be new; {target} exists: choose another name, or set overwrite", option="output"
        )
    data_files.check_output_directory(target)


def check_keep(keep: Sequence[str], paths: list[Path], kind: str, separator: str | None) -> None:
    """Raises `DataError` if files lack a column that the output repeats.

    Args:
      keep: The names of the columns.
      paths: The files.
      kind: Their format.
      separator: The character between the fields of CSV files; None detects it.
    """
    if not keep:
        return
    if kind == "parquet":  # the first row may hold a value that cannot be read
        names = data_files.column_names(paths[:1], kind)
    else:
        names = list(next(data_files.iterate_rows(paths, kind, separator=separator), {}))
    for name in keep:
        if name not in names:
            raise DataError(
                f"keep must name columns of the input; got {name!r}: there are {', '.join(names)}"
            )


def check_first_row(task: PredictionTask, rows: Iterable[FileRow]) -> None:
    """Raises `DataError` if the first row lacks what the task reads. There may be no row."""
    for row in rows:
        try:
            task.encode(row)
        except DataError as error:
            raise DataError(f"{row.origin}: {error}") from error
        return


def needed_columns(
    task: PredictionTask, paths: list[Path], kind: str, separator: str | None, keep: Sequence[str]
) -> set[str] | None:
    """Returns the columns that are read from Parquet files; None reads all of them.

    In CSV files, these are the columns whose names must differ from all others.

    Args:
      task: The task.
      paths: The files.
      kind: Their format.
      separator: The character between the fields of CSV files; None detects it.
      keep: The columns of the input that the output repeats.
    """
    if kind not in ("csv", "parquet"):
        return None
    names = set(data_files.column_names(paths, kind, separator=separator))
    columns = task.columns(task.resolve_columns(task.options, names))
    if columns is None:
        return None
    needed = {*columns, getattr(task.options, "text_column", "text")}
    # If all are missing, the error message lists the columns that exist.
    return needed.union(keep) if needed & names else None


def job_fingerprint(task: PredictionTask, name: str, dtype: str) -> dict[str, Any]:
    """Returns everything that the answers depend on, besides the rows.

    They do not depend on the mesh, so that a job is resumed on other devices.

    Args:
      task: The task, with its options.
      name: The directory, shipped name or Hub id of the model.
      dtype: The dtype that the model computes in.
    """
    directory = Path(local_path(name))
    files = {path for pattern in _MODEL_FILES for path in directory.glob(pattern)}
    return {
        "task": task.name,
        "model": name,
        "checkpoint": [file_fingerprint(path) for path in sorted(files) if path.is_file()],
        "options": {k: v for k, v in task.options.as_dict().items() if k != "mesh"},
        "dtype": dtype,
    }


def file_fingerprint(path: Path, name: str | None = None) -> list[Any]:
    """Returns the name, the size and a hash of the content of a file."""
    return [name or str(path.resolve()), path.stat().st_size, data_files.content_hash(path)]
