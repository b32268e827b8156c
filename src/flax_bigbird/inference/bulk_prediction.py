"""Prediction for files of any size: answers in order, written in chunks, resumed if interrupted."""

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from flax_bigbird.checkpoint import (
    LOCK_FILE,
    DirectoryInUseError,
    atomic_write_text,
    lock_directory,
)
from flax_bigbird.data import files as data_files
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.data.readers.rows import FileRow
from flax_bigbird.data.standard_input import STANDARD_INPUT, standard_input_as_file
from flax_bigbird.data.types import Row
from flax_bigbird.inference.kept_values import json_value
from flax_bigbird.inference.parquet import jsonl_to_parquet
from flax_bigbird.inference.predictor import Predictor
from flax_bigbird.pretrained import local_path

OUTPUT_FORMATS = (".jsonl", ".parquet")


class PredictionInterrupted(Exception):
    """Raised when `should_stop` interrupts prediction; the answers so far are saved.

    Attributes:
      rows: The number of rows that are answered and saved.
    """

    def __init__(self, rows: int):
        super().__init__(f"stopped after {rows} rows")
        self.rows = rows


class PredictionError(RuntimeError):
    """Raised when a prediction cannot continue; the message states the problem and the remedy."""


@dataclasses.dataclass(frozen=True)
class PartialOutput:
    """The directory `OUTPUT.part` of an unfinished prediction.

    It holds the answers so far (`rows.jsonl`), how many of them are complete (`done.json`), and
    everything that they depend on (`job.json`).
    """

    directory: Path

    @classmethod
    def of(cls, output: Path) -> "PartialOutput":
        """Returns the partial output that belongs to an output file."""
        return cls(output.with_name(f"{output.name}.part"))

    @property
    def lines(self) -> Path:
        return self.directory / "rows.jsonl"

    @property
    def job(self) -> Path:
        return self.directory / "job.json"

    @property
    def done(self) -> Path:
        return self.directory / "done.json"

    def clear(self) -> None:
        """Removes everything in the directory but its lock, which the caller holds."""
        for path in self.directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK_FILE:
                path.unlink()


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
        self.write_line(streams, _output_row(row, self.keep, answer))

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
    _check_output(target, overwrite)
    with standard_input_as_file(files) as inputs:
        kind, paths = data_files.expand_paths(inputs, predictor.options.file_format)
        data_files.check_output_is_no_input(target, paths)
        separator = predictor.options.separator
        data_files.check_separator(separator, kind)
        _check_keep(keep, paths, kind, separator)
        columns = _needed_columns(predictor, paths, kind, keep)

        def iterate_rows() -> Iterator[FileRow]:
            return data_files.iterate_rows(
                paths, kind, columns=columns, separator=separator, missing=""
            )

        # This reads all rows, so that wrong ones are reported before anything is written.
        num_rows = sum(1 for _ in iterate_rows())
        partial = PartialOutput.of(target)
        job = _job_fingerprint(predictor, paths, keep, is_standard_input=inputs is not files)
        job |= depends_on
        counts_before = predictor.token_counts
        answers_so_far = answer_file(partial, target, keep, predictor)
        sizes = answer_file.sizes
        with _lock(partial, target), _explain_missing(partial, sizes):
            _check_output(target, overwrite)  # another process may have written it since
            done = _start_or_resume(partial, job, overwrite, sizes)
            rows_done = done["rows"]
            events.on_start(rows_done, num_rows)
            with _open_at(partial, {name: done[size] for name, size in sizes.items()}) as streams:
                if not rows_done:
                    answers_so_far.start(streams, num_rows)
                remaining = itertools.islice(iterate_rows(), rows_done, None)
                rows, rows_to_answer = itertools.tee(remaining)
                for answers in predictor.iterate_answers(rows_to_answer, first_row=rows_done + 1):
                    for index, answer in enumerate(answers, rows_done):
                        answers_so_far.write(streams, next(rows), answer, index)
                    rows_done += len(answers)
                    _save_progress(partial, streams, rows_done, sizes)
                    events.on_progress(rows_done)
                    if events.should_stop() and rows_done < num_rows:
                        raise PredictionInterrupted(rows_done)
            _publish(partial, target, answers_so_far)
    message = predictor.unknown_tokens_message(counts_before)
    if message:
        events.on_message(message)
    return rows_done


@contextlib.contextmanager
def _open_at(partial: PartialOutput, sizes: Mapping[str, int]) -> Iterator[dict[str, BinaryIO]]:
    """Opens the files of a partial output and cuts each of them to its size.

    A chunk that was interrupted while it was being written is thus written again.
    """
    with contextlib.ExitStack() as stack:
        streams: dict[str, BinaryIO] = {}
        for name, size in sizes.items():
            path = partial.directory / name
            stream: BinaryIO = stack.enter_context(path.open("r+b" if path.exists() else "wb"))
            stream.truncate(size)
            stream.seek(size)
            streams[name] = stream
        yield streams


def _save_progress(
    partial: PartialOutput,
    streams: Mapping[str, BinaryIO],
    rows_done: int,
    sizes: Mapping[str, str],
) -> None:
    """Flushes the answers to disk, and writes then how many of them there are."""
    done = {"rows": rows_done}
    for name, stream in streams.items():
        stream.flush()
        os.fsync(stream.fileno())
        done[sizes[name]] = stream.tell()
    atomic_write_text(partial.done, json.dumps(done))


def _check_output(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        _remove_published(PartialOutput.of(target))
        raise OptionError(
            f"output must be new; {target} exists: choose another name, or set overwrite"
        )
    if not target.parent.is_dir():
        raise OptionError(
            f"output must be in a directory that exists; got {target}: create the directory"
        )


@contextlib.contextmanager
def _explain_missing(partial: PartialOutput, names: Iterable[str]) -> Iterator[None]:
    """Re-raises the error that follows if somebody else removes the partial output."""
    try:
        yield
    except FileNotFoundError as error:
        if all((partial.directory / name).exists() for name in names):
            raise
        raise PredictionError(
            f"the answers so far must stay in {partial.directory} until all of them are written; "
            "it was removed in the meantime, and they are lost: run the same command again, which "
            "starts over"
        ) from error


@contextlib.contextmanager
def _lock(partial: PartialOutput, target: Path) -> Iterator[None]:
    """Keeps other predictions out of the partial output inside the `with` block.

    Raises:
      OptionError: if another process writes to it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock_directory(partial.directory))
        except DirectoryInUseError as error:
            raise OptionError(
                f"output must not be in use by another prediction; {target} is written by "
                f"{error.holder}: wait until it ends, stop it, or choose another output"
            ) from error
        yield


def _remove_published(partial: PartialOutput) -> None:
    """Removes a partial output whose process was killed after it had written the output."""
    with contextlib.suppress(OptionError, DirectoryInUseError):
        if (_load_json(partial.done) or {}).get("published"):
            with lock_directory(partial.directory):
                shutil.rmtree(partial.directory)


def _check_keep(keep: Sequence[str], paths: list[Path], kind: str, separator: str | None) -> None:
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


def _needed_columns(
    predictor: Predictor, paths: list[Path], kind: str, keep: Sequence[str]
) -> set[str] | None:
    """Returns the columns that are read from Parquet files; None reads all of them."""
    if kind != "parquet":
        return None
    names = set(data_files.column_names(paths, kind))
    task = predictor.task
    columns = task.columns(task.resolve_columns(predictor.options, names))
    if columns is None:
        return None
    needed = {*columns, getattr(predictor.options, "text_column", "text")}
    # If all are missing, the error message lists the columns that exist.
    return needed.union(keep) if needed & names else None


def _output_row(row: FileRow, keep: Sequence[str], answer: Row) -> Row:
    """Returns the kept columns and the answer.

    Keys of the answer that clash with a kept column get the prefix `predicted_`.
    """
    kept = {name: json_value(row.get(name), name, row.origin) for name in keep}
    return kept | {f"predicted_{k}" if k in kept else k: value for k, value in answer.items()}


def _job_fingerprint(
    predictor: Predictor, paths: list[Path], keep: Sequence[str], is_standard_input: bool
) -> dict[str, Any]:
    """Returns everything that the answers depend on."""
    directory = Path(local_path(predictor.name))
    weights = sorted(directory.glob("*.safetensors")) if directory.is_dir() else []
    return {
        "task": predictor.task.name,
        "model": predictor.name,
        "weights": [_fingerprint(path) for path in weights],
        "options": predictor.options.as_dict(),
        "dtype": str(predictor.model.dtype),
        "inputs": [
            _fingerprint(path, STANDARD_INPUT if is_standard_input else None) for path in paths
        ],
        "keep": list(keep),
    }


def _fingerprint(path: Path, name: str | None = None) -> list[Any]:
    return [name or str(path.resolve()), path.stat().st_size, data_files.content_hash(path)]


def _start_or_resume(
    partial: PartialOutput, job: dict[str, Any], overwrite: bool, sizes: Mapping[str, str]
) -> dict[str, int]:
    """Creates or opens the partial output.

    Returns:
      The content of `done.json`: how many rows are done, and the sizes of the files in bytes.

    Raises:
      OptionError: if the partial output is that of another job.
    """
    job = json.loads(json.dumps(job, default=str))
    if overwrite:
        partial.clear()
    previous_job = _load_json(partial.job)
    if previous_job is not None and previous_job != job:
        different = [name for name in job if previous_job.get(name) != job[name]]
        raise OptionError(
            "a prediction can only be resumed with what it was started with; "
            f"{partial.directory} has other {', '.join(different)}: use the same, choose another "
            "output, or set overwrite"
        )
    if previous_job is None:
        partial.clear()
        atomic_write_text(partial.job, json.dumps(job))
    done = _load_json(partial.done)
    if done is None:
        return {"rows": 0} | dict.fromkeys(sizes.values(), 0)
    if not isinstance(done.get("rows"), int) or not all(
        isinstance(done.get(size), int)
        and (partial.directory / name).exists()
        and (partial.directory / name).stat().st_size >= done[size]
        for name, size in sizes.items()
    ):
        raise OptionError(
            f"a prediction can only be resumed if its answers so far are there; those in "
            f"{partial.directory} are incomplete: set overwrite to start over"
        )
    return done


def _load_json(path: Path) -> dict[str, Any] | None:
    """Returns the content of a file of a partial output, or None if it does not exist."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise OptionError(
            f"a prediction can only be resumed if its files are intact; {path} is damaged: set "
            "overwrite to start over"
        )
    return content


def _publish(partial: PartialOutput, target: Path, answers: AnswerFile) -> None:
    """Moves the finished answers to the output file."""
    finished = answers.finish()
    done = _load_json(partial.done) or {"rows": 0}
    atomic_write_text(partial.done, json.dumps(done | {"published": True}))
    os.replace(finished, target)
    shutil.rmtree(partial.directory)
