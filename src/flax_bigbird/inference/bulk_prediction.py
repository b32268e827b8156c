"""Prediction for files of any size: answers in order, written in chunks, resumed if interrupted."""

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
from flax_bigbird.inference.jobs import (
    JobEvents,
    PredictionInterrupted,
    check_first_row,
    check_keep,
    check_output,
    file_fingerprint,
    job_fingerprint,
    needed_columns,
)
from flax_bigbird.inference.kept_values import kept_values, without_clashes
from flax_bigbird.inference.parquet import jsonl_to_parquet
from flax_bigbird.inference.partial_output import PartialOutput
from flax_bigbird.inference.predictor import Predictor

OUTPUT_FORMATS = (".jsonl", ".parquet")


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
                f"must end in {' or '.join(cls.suffixes)}; got {target.name!r}: rename it",
                option="output",
            )
        if target.is_dir():
            raise OptionError(
                f"must be a file; {target} is a directory: choose another name", option="output"
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
        check_first_row(predictor.task, iterate_rows())
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
