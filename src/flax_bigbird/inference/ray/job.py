"""What a job on a Ray cluster computes, and the checks that need no cluster."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flax_bigbird.data import files as data_files
from flax_bigbird.data.errors import OptionError
from flax_bigbird.data.remote_files import (
    expand_sources,
    is_url,
    local_copy,
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
"""How many local files are opened before the cluster is started, so that errors are found early."""


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
    for source in local[:MAX_CHECKED_FILES]:
        if source != sources[0]:
            check_first_row(job.task, inputs.iterate_rows(source))
    check_model(job.name, job.task.model_class, **job.task.model_fields)
    return inputs
