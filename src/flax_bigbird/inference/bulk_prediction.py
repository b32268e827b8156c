"""Prediction for files of any size: answers in order, written in chunks, resumed if interrupted."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from flax_bigbird.data import files as data_files
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.data.readers.rows import FileRow
from flax_bigbird.data.standard_input import STANDARD_INPUT, standard_input_as_file
from flax_bigbird.data.types import Row
from flax_bigbird.inference.kept_values import kept_values, without_clashes
from flax_bigbird.inference.parquet import jsonl_to_parquet
from flax_bigbird.inference.partial_output import PartialOutput
from flax_bigbird.inference.predictor import Predictor
from flax_bigbird.pretrained import local_path
from flax_bigbird.tasks.prediction_task import PredictionTask

OUTPUT_FORMATS = (".jsonl", ".parquet")


class PredictionInterrupted(Exception):
    """Raised when `should_stop` interrupts prediction; the answers so far are saved.

    Attributes:
      rows: The number of rows that are answered and saved.
    """

    def __init__(self, rows: int):
        super().__init__(f"stopped after {rows} rows")
        self.rows = rows


class AnswerFile:
    """How the answers of a job are kept until they are complete, and written then.

    This class keeps them as lines of JSON, for a JSONL or Parquet file. Its subclasses may keep a
    part of them in further files, which all grow in step: a job is resumed by cutting each of them
    to the size that it had after the last chunk.

    Attributes:
      suffixes: The ends of the names of files that can be written.
      sizes: For each file of the partial output, the name of its size in `done.json`.
    """

    suffixes: tuple[str, ...] = OUTPUT_FORMATS
    sizes: Mapping[str, str] = {"rows.jsonl": "bytes"}

    def __init__(
        self, partial: PartialOutput, target: Path, keep: Sequence[str], predictor: Predictor
    ):
        self.partial, self.target, self.keep = partial, target, keep
        self.predictor = predictor

    @classmethod
    def check(cls, target: Path, keep: Sequence[str], predictor: Predictor) -> None:
        """Checks what the output depends on, before any work.

        Raises:
          OptionError: if a file of this name cannot hold the answers.
        """
        if target.suffix not in cls.suffixes:
            raise OptionError(
                f"output must end in {' or '.join(cls.suffixes)}; got {target.name!r}: rename it"
            )

    def start(self, streams: Mapping[str, BinaryIO], num_rows: int) -> None:
        """Writes what precedes the answers of the first row."""

    def write(self, streams: Mapping[str, BinaryIO], row: FileRow, answer: Row, index: int) -> None:
        """Appends the answer for a row.

        Args:
          streams: The files of the partial output by name.
          row: The row.
          answer: Its answer.
          index: The index of the row among all rows.
        """
        kept = kept_values(row, self.keep)
        self.write_line(streams, kept | without_clashes(answer, kept))

    def write_line(self, streams: Mapping[str, BinaryIO], values: Row) -> None:
        """Appends a line of JSON to `rows.jsonl`."""
        line = json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n"
        streams["rows.jsonl"].write(line.encode())

    def finish(self) -> Path:
        """Returns the finished file, which is moved to the output."""
        if self.target.suffix != ".parquet":
            return self.partial.lines
        finished = self.partial.directory / "rows.parquet"
        try:
            self.convert(finished)
        except DataError as error:
            raise DataError(f"{error} (the answers are in {self.partial.lines})") from error
        return finished

    def convert(self, finished: Path) -> None:
        """Writes the answers as a Parquet file."""
        jsonl_to_parquet(self.partial.lines, finished)


def predict_files(
    predictor: Predictor,
    files: Sequence[str | Path],
    output: str | Path,
    *,
    keep: Sequence[str] = (),
    overwrite: bool = False,
    on_start: Callable[[int, int], None] = lambda rows_done, num_rows: None,
    on_progress: Callable[[int], None] = lambda rows_done: None,
    on_message: Callable[[str], None] = lambda message: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Writes one answer per row of `files`, in their order, to a JSONL or Parquet file.

    The answers are collected in the directory `OUTPUT.part` until they are complete. If the
    prediction is interrupted, the same call resumes it after the last chunk that was saved, and the
    result equals that of an uninterrupted call.

    Args:
      predictor: The model and its task.
      files: JSONL, CSV, TSV, Parquet or CoNLL files, text files, or directories of text files; or
        `-` alone, which stands for rows of JSON or CSV from standard input.
      output: The file to write; its name must end in `.jsonl` or `.parquet`.
      keep: The columns of the input that the output repeats.
      overwrite: Whether to replace an existing output and discard an unfinished one.
      on_start: Called once with the number of rows that are already done and of all rows.
      on_progress: Called after each chunk with the number of rows that are done.
      on_message: Called at the end with a warning if too many tokens were unknown.
      should_stop: Called after each chunk; prediction stops if it returns True.

    Returns:
      The number of rows.

    Raises:
      OptionError, DataError: if the output or the files cannot be used (nothing is written then),
        if another process writes the same output, or if a row lacks what the task needs (the rows
        before it are saved then).
      PredictionInterrupted: if `should_stop` returned True before the last row.
      PredictionError: if the directory of the answers so far was removed in the meantime.
    """
    events = JobEvents(on_start, on_progress, on_message, should_stop)
    return answer_files(predictor, files, output, AnswerFile, keep, overwrite, events)


@dataclasses.dataclass(frozen=True)
class JobEvents:
    """The functions that a job calls; `predict_files` documents them."""

    on_start: Callable[[int, int], None]
    on_progress: Callable[[int], None]
    on_message: Callable[[str], None]
    should_stop: Callable[[], bool]


def answer_files(
    predictor: Predictor,
    files: Sequence[str | Path],
    output: str | Path,
    answer_file: type[AnswerFile],
    keep: Sequence[str],
    overwrite: bool,
    events: JobEvents,
    **depends_on: Any,
) -> int:
    """Writes the answers for the rows of `files`, in their order; `predict_files` says more.

    Args:
      predictor: The model and its task.
      files: The files.
      output: The file to write.
      answer_file: How the answers are kept and written.
      keep: The columns of the input that the output repeats.
      overwrite: Whether to replace an existing output and discard an unfinished one.
      events: The functions to call.
      **depends_on: What the answers depend on besides the model, its options and the files.
    """
    target = Path(output).expanduser()
    answer_file.check(target, keep, predictor)
    check_output(target, overwrite)
    with standard_input_as_file(files) as inputs:
        kind, paths = data_files.expand_paths(inputs, predictor.options.file_format)
        data_files.check_output_is_no_input(target, paths)
        separator = predictor.options.separator
        data_files.check_separator(separator, kind)
        check_keep(keep, paths, kind, separator)
        columns = needed_columns(predictor.task, paths, kind, separator, keep)

        def iterate_rows() -> Iterator[FileRow]:
            return data_files.iterate_rows(
                paths, kind, columns=columns, separator=separator, missing=""
            )

        # This reads all rows, so that wrong ones are reported before anything is written.
        num_rows = sum(1 for _ in iterate_rows())
        partial = PartialOutput.of(target)
        name = STANDARD_INPUT if inputs is not files else None
        job = {
            **job_fingerprint(predictor.task, predictor.name, str(predictor.model.dtype)),
            "inputs": [file_fingerprint(path, name) for path in paths],
            "keep": list(keep),
            **depends_on,
        }
        counts_before = predictor.token_counts
        answers_so_far = answer_file(partial, target, keep, predictor)
        sizes = answer_file.sizes
        with partial.lock(target), partial.explain_missing(sizes):
            check_output(target, overwrite)  # another process may have written it since
            done = partial.start_or_resume(job, overwrite, sizes)
            rows_done = done["rows"]
            events.on_start(rows_done, num_rows)
            with partial.open_at({name: done[size] for name, size in sizes.items()}) as streams:
                if not rows_done:
                    answers_so_far.start(streams, num_rows)
                remaining = itertools.islice(iterate_rows(), rows_done, None)
                rows, rows_to_answer = itertools.tee(remaining)
                for answers in predictor.iterate_answers(rows_to_answer, first_row=rows_done + 1):
                    for index, answer in enumerate(answers, rows_done):
                        answers_so_far.write(streams, next(rows), answer, index)
                    rows_done += len(answers)
                    partial.save_progress(streams, rows_done, sizes)
                    events.on_progress(rows_done)
                    if events.should_stop() and rows_done < num_rows:
                        raise PredictionInterrupted(rows_done)
            partial.publish(answers_so_far.finish(), target)
    message = predictor.unknown_tokens_message(counts_before)
    if message:
        events.on_message(message)
    return rows_done


def check_output(target: Path, overwrite: bool) -> None:
    """Raises `OptionError` if an output exists, unless it is overwritten, or cannot be written."""
    if target.exists() and not overwrite:
        PartialOutput.of(target).remove_published()
        raise OptionError(
            f"output must be new; {target} exists: choose another name, or set overwrite"
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
    weights = sorted(directory.glob("*.safetensors")) if directory.is_dir() else []
    return {
        "task": task.name,
        "model": name,
        "weights": [file_fingerprint(path) for path in weights],
        "options": {k: v for k, v in task.options.as_dict().items() if k != "mesh"},
        "dtype": dtype,
    }


def file_fingerprint(path: Path, name: str | None = None) -> list[Any]:
    """Returns the name, the size and a hash of the content of a file."""
    return [name or str(path.resolve()), path.stat().st_size, data_files.content_hash(path)]
