"""What a job on a Ray cluster computes, and the checks that need no cluster."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flax_bigbird.data import files as data_files
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.data.readers.rows import FileRow
from flax_bigbird.data.remote_files import (
    copy_of_head,
    expand_sources,
    in_parallel,
    is_url,
    local_copy,
    parquet_column_names,
    source_fingerprint,
)
from flax_bigbird.data.standard_input import STANDARD_INPUT
from flax_bigbird.inference.jobs import (
    check_first_row,
    check_keep,
    file_fingerprint,
    job_fingerprint,
    needed_columns,
)
from flax_bigbird.inference.ray.datasets import refuse_mesh
from flax_bigbird.inference.ray.parts import Parts
from flax_bigbird.inference.ray.slices import Input
from flax_bigbird.inference.ray.workers import RayPredictor
from flax_bigbird.tasks.loading import check_model
from flax_bigbird.tasks.prediction_task import PredictionTask

MAX_CHECKED_FILES = 256
"""How many files are opened before the cluster is started, so that errors are found early."""

MAX_HEAD_BYTES = 2**18
"""How much is read of a remote file to check its first row."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What a job computes.

    Attributes:
      task: The task, which has no model here.
      name: The directory, shipped name or Hub id of the checkpoint.
      model: The model as it was given.
      worker: The class of the workers.
      options: The arguments of the workers.
      keep: The columns of the input that the output repeats.
      depends_on: What the answers depend on besides the model, its options and the files.
    """

    task: PredictionTask
    name: str
    model: str | Path
    worker: type[RayPredictor]
    options: dict[str, Any]
    keep: Sequence[str]
    depends_on: dict[str, Any]

    def fingerprint(self, inputs: Input) -> dict[str, Any]:
        """Returns everything that the answers depend on."""
        prints = [
            source_fingerprint(source) if is_url(source) else file_fingerprint(Path(source))
            for source in inputs.sources
        ]
        own = job_fingerprint(self.task, self.name, str(self.task.options.dtype))
        return {**own, "inputs": prints, "keep": list(self.keep), **self.depends_on}


def check_job(job: Job, files: Sequence[str | Path], parts: Parts, overwrite: bool) -> Input:
    """Returns the files, after all checks that need no cluster.

    Raises:
      OptionError, DataError: if something cannot be used.
    """
    refuse_mesh(job.options)
    if STANDARD_INPUT in map(str, files):
        raise OptionError(
            "the engine ray reads files; got -, standard input: write it to a file, or leave "
            "engine out"
        )
    parts.check_new(overwrite)
    options = job.task.options
    kind, sources = expand_sources(files, options.file_format)
    local = [source for source in sources if not is_url(source)]
    parts.check_is_no_input(local)
    data_files.check_separator(options.separator, kind)
    with local_copy(sources[0]) as path:
        check_keep(job.keep, [path], kind, options.separator)
        columns = needed_columns(job.task, [path], kind, options.separator, job.keep)
        inputs = Input(sources, kind, frozenset(columns) if columns else None, options.separator)
        check_first_row(job.task, inputs.iterate_rows_of_copy(sources[0], path))
    _check_other_files(job.task, inputs)
    check_model(job.name, job.task.model_class, **job.task.model_fields)
    return inputs


def _check_other_files(task: PredictionTask, inputs: Input) -> None:
    """Checks all files but the first, up to `MAX_CHECKED_FILES` of them.

    Of local files, the first row is checked. Of remote ones, it is if a small part of the file
    holds it, and of remote Parquet files, the columns are.

    Raises:
      DataError: if one cannot be read, or lacks what the task reads.
    """
    others = [source for source in inputs.sources[1:] if source != inputs.sources[0]]
    others = others[:MAX_CHECKED_FILES]
    remote = [source for source in others if is_url(source)]
    if inputs.kind == "parquet":
        _check_same_columns(inputs, remote)
    else:
        # The task encodes them here: not all tokenizers may be used by several threads.
        for rows in in_parallel(_first_row_of_head, [(inputs, source) for source in remote]):
            check_first_row(task, rows)
    for source in others:
        if not is_url(source):
            check_first_row(task, inputs.iterate_rows(source))


def _check_same_columns(inputs: Input, sources: Sequence[str]) -> None:
    """Raises `DataError` if Parquet files lack a column that is read of the first file."""
    if not sources:
        return
    first = inputs.sources[0]
    names = in_parallel(parquet_column_names, [(source,) for source in (first, *sources)])
    needed = (inputs.columns or frozenset()).intersection(names[0])
    for source, columns in zip(sources, names[1:], strict=True):
        for name in sorted(needed.difference(columns)):
            raise DataError(
                f"all files must have the columns that are read; {source} has no {name!r}, which "
                f"{first} has: there are {', '.join(columns)}: rename its column, or leave it out"
            )


def _first_row_of_head(inputs: Input, source: str) -> list[FileRow]:
    """Returns the first row of a remote file, if its first bytes hold all of the row."""
    with copy_of_head(source, MAX_HEAD_BYTES) as (path, is_all):
        rows = inputs.iterate_rows_of_copy(source, path)
        try:
            first = list(itertools.islice(rows, 1 if is_all else 2))
        except DataError:
            if is_all:
                raise
            return []  # what is wrong may be that the rest is missing
        return first[:1] if is_all or len(first) == 2 else []
