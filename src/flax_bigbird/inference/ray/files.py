"""Prediction and embedding for files on a Ray cluster, published at once and resumed if killed."""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flax_bigbird.data.tokenization import load_tokenizer, unknown_tokens_message
from flax_bigbird.inference.bulk_embedding import task_fingerprint
from flax_bigbird.inference.embedder_loading import resolve_embedding
from flax_bigbird.inference.jobs import JobEvents, PredictionInterrupted
from flax_bigbird.inference.predictor import resolve_prediction
from flax_bigbird.inference.ray import cluster
from flax_bigbird.inference.ray.datasets import actor_arguments, compilation_cache, model_path
from flax_bigbird.inference.ray.job import Job, check_job
from flax_bigbird.inference.ray.parts import Parts
from flax_bigbird.inference.ray.slice_worker import SliceWorker
from flax_bigbird.inference.ray.slices import (
    Input,
    count_all_rows,
    count_few_rows,
    rows_of,
    slices_dataset,
)
from flax_bigbird.inference.ray.workers import RayEmbedder, RayPredictor
from flax_bigbird.tasks.embedding import Embedding


def predict_files(
    model: str | Path,
    files: Sequence[str | Path],
    output: str | Path,
    *,
    task: str | None = None,
    keep: Sequence[str] = (),
    overwrite: bool = False,
    address: str | None = None,
    concurrency: int | None = None,
    on_start: Callable[[int, int], None] = lambda rows_done, num_rows: None,
    on_progress: Callable[[int], None] = lambda rows_done: None,
    on_message: Callable[[str], None] = lambda message: None,
    should_stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> int:
    """Writes one answer per row of `files` to a directory of Parquet files, on a Ray cluster.

    The answers and their columns are those of `flax_bigbird.inference.predict_files`, and the names
    of the files sort in the order of the rows. The directory appears when it is complete; until
    then, the files are in `OUTPUT.part`. If this process is interrupted or killed, the same call
    answers the rows that are left. If a worker is killed, another answers its rows.

    Args:
      model: A directory, the name of a shipped model, or a Hub id, which all nodes can read.
      files: The files, see `flax_bigbird.inference.predict_files`, or URLs of files or of
        directories with files, such as `s3://bucket/documents`. All nodes must be able to read
        them.
      output: The directory to write, on a file system that all nodes share; or a URL, where the
        file `_SUCCESS` says that the output is complete, and an interrupted job is not resumed.
      task: The name of the task. By default, it is the task that the model was trained for.
      keep: The columns of the input that the output repeats.
      overwrite: Whether to replace an existing output and discard an unfinished one.
      address: The address of a cluster; by default, one is started on this machine.
      concurrency: The number of workers, each of which holds the model. By default, there is one
        for each GPU, or for each node if there are no GPUs; workers without a GPU share the CPUs.
      on_start, on_progress, on_message, should_stop: See `flax_bigbird.inference.predict_files`.
      **options: The options of `load_predictor`.

    Returns:
      The number of rows.

    Raises:
      OptionError, DataError: if an option, the output or the files cannot be used.
      PredictionInterrupted: if `should_stop` returned True before the last row.
      PredictionError: if the cluster fails, or the output is not on a shared file system.
    """
    name, task_class, resolved, config = resolve_prediction(model, task, options)
    prepared: Any = task_class.for_model(resolved, load_tokenizer(name), config, name)
    job = Job(prepared, name, model, RayPredictor, {"task": task, **options}, keep, {})
    events = JobEvents(on_start, on_progress, on_message, should_stop)
    return _run(job, files, output, overwrite, address, concurrency, events)


def embed_files(
    model: str | Path,
    files: Sequence[str | Path],
    output: str | Path,
    *,
    keep: Sequence[str] = (),
    overwrite: bool = False,
    address: str | None = None,
    concurrency: int | None = None,
    on_start: Callable[[int, int], None] = lambda rows_done, num_rows: None,
    on_progress: Callable[[int], None] = lambda rows_done: None,
    on_message: Callable[[str], None] = lambda message: None,
    should_stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> int:
    """Writes the vectors of the rows of `files` to a directory of Parquet files, on a Ray cluster.

    The columns are those of the Parquet files of `flax_bigbird.inference.embed_files`.

    Args:
      model: The model; see `load_embedder`.
      files, output, keep, overwrite, address, concurrency: See `predict_files`.
      on_start, on_progress, on_message, should_stop: See `flax_bigbird.inference.predict_files`.
      **options: The options of `load_embedder`.

    Returns:
      The number of rows of the files.

    Raises:
      OptionError, DataError, PredictionInterrupted, PredictionError: as `predict_files` does.
    """
    name, resolved, tokenizer, config, modules = resolve_embedding(model, options)
    prepared = Embedding(resolved, tokenizer, config, modules)
    depends_on = {"modules": task_fingerprint(prepared)}
    job = Job(prepared, name, model, RayEmbedder, options, keep, depends_on)
    events = JobEvents(on_start, on_progress, on_message, should_stop)
    return _run(job, files, output, overwrite, address, concurrency, events)


def _run(
    job: Job,
    files: Sequence[str | Path],
    output: str | Path,
    overwrite: bool,
    address: str | None,
    concurrency: int | None,
    events: JobEvents,
) -> int:
    """Answers the rows of files on a cluster."""
    parts = Parts.of(output)
    inputs = check_job(job, files, parts, overwrite)
    counts = count_few_rows(inputs)
    with cluster.plain_errors(), cluster.connect(address):
        workers = cluster.Workers.of_cluster(concurrency)
        counts = count_all_rows(inputs) if counts is None else counts
        with parts.publishing(lambda: job.fingerprint(inputs), overwrite):
            _answer(job, inputs, counts, parts, workers, events)
    return sum(counts)


def _answer(
    job: Job,
    inputs: Input,
    counts: Sequence[int],
    parts: Parts,
    workers: cluster.Workers,
    events: JobEvents,
) -> None:
    """Writes the parts that are missing, and checks all of them."""
    num_rows, done = sum(counts), parts.ranges()
    rows_done = rows_of(done)
    events.on_start(rows_done, num_rows)
    unknown = tokens = 0
    if rows_done < num_rows:
        slices = slices_dataset(inputs, counts, done, workers.count)
        answered = slices.map_batches(
            SliceWorker,
            fn_constructor_args=[job.worker, parts, model_path(job.model)],
            fn_constructor_kwargs={
                "keep": job.keep,
                "compilation_cache": compilation_cache(),
                **job.options,
            },
            batch_size=1,
            batch_format="pyarrow",
            **actor_arguments(workers, max_tasks_per_worker=1),
        )
        for part in answered.iter_rows():
            if part["error"]:
                raise pickle.loads(part["error"])
            rows_done += int(part["rows"])
            unknown, tokens = unknown + int(part["unknown"]), tokens + int(part["tokens"])
            events.on_progress(rows_done)
            if events.should_stop() and rows_done < num_rows:
                raise PredictionInterrupted(rows_done)
    parts.finish(num_rows)
    message = unknown_tokens_message(unknown, tokens, "input")
    if message:
        events.on_message(message)
