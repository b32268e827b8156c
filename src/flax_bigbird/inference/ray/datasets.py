"""Answers and vectors of any dataset of Ray Data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ray

from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.inference.embedder_loading import resolve_embedding
from flax_bigbird.inference.predictor import resolve_prediction
from flax_bigbird.inference.ray.cluster import Workers
from flax_bigbird.inference.ray.workers import RayEmbedder, RayPredictor
from flax_bigbird.inference.resolve import resolve_name
from flax_bigbird.tasks.embedding import Embedding
from flax_bigbird.tasks.loading import check_model

BATCH_SIZE = 1024  # rows that a worker sorts by length and answers at once


def predict_dataset(
    dataset: "ray.data.Dataset",
    model: str | Path,
    *,
    task: str | None = None,
    keep: Sequence[str] | None = None,
    concurrency: int | None = None,
    batch_size: int = BATCH_SIZE,
    preserve_order: bool = False,
    **options: Any,
) -> "ray.data.Dataset":
    """Returns the answers to the rows of a dataset, which Ray computes when they are consumed.

        documents = ray.data.read_parquet("s3://bucket/documents")
        predict_dataset(documents, "classifier").write_parquet("s3://bucket/answers")

    Each worker is an actor that holds the model, on a GPU of its own if the cluster has any. If one
    is killed, its rows are answered by another.

    Args:
      dataset: The rows, with the columns that the task reads.
      model: A directory, the name of a shipped model, or a Hub id, which all nodes can read.
      task: The name of the task. By default, it is the task that the model was trained for.
      keep: The columns of the rows that the result repeats; by default all of them.
      concurrency: The number of workers. By default, there is one for each GPU, or for each node if
        there are no GPUs.
      batch_size: The number of rows that a worker sorts by length and answers at once.
      preserve_order: Whether the answers are in the order of the rows, so that a slow batch holds
        up those after it.
      **options: The options of `load_predictor`.

    Raises:
      OptionError, DataError: if the model, an option or a column cannot be used. While the answers
        are consumed, Ray wraps the `DataError` of a row in an exception of its own.
    """
    name, task_class, _, _ = resolve_prediction(model, task, options)
    check_model(name, task_class.model_class, **task_class.model_fields)
    arguments = {"task": task, "keep": keep} | options
    return _map(dataset, RayPredictor, model, arguments, concurrency, batch_size, preserve_order)


def embed_dataset(
    dataset: "ray.data.Dataset",
    model: str | Path,
    *,
    keep: Sequence[str] | None = None,
    concurrency: int | None = None,
    batch_size: int = BATCH_SIZE,
    preserve_order: bool = False,
    **options: Any,
) -> "ray.data.Dataset":
    """Returns the vectors of the texts of a dataset, which Ray computes when they are consumed.

    Each vector is a row, with the kept columns of its text. `document` is the index of the text in
    its batch, and says which chunks belong together.

    Args:
      dataset: The rows, with a column of texts.
      model: The model; see `load_embedder`.
      keep, concurrency, batch_size, preserve_order: See `predict_dataset`.
      **options: The options of `load_embedder`.

    Raises:
      OptionError, DataError: as `predict_dataset` does.
    """
    name, _, _, _, _ = resolve_embedding(model, options)
    check_model(name, Embedding.model_class, **Embedding.model_fields)
    arguments = {"keep": keep} | options
    return _map(dataset, RayEmbedder, model, arguments, concurrency, batch_size, preserve_order)


def _map(
    dataset: "ray.data.Dataset",
    worker: type,
    model: str | Path,
    arguments: dict[str, Any],
    concurrency: int | None,
    batch_size: int,
    preserve_order: bool,
) -> "ray.data.Dataset":
    refuse_mesh(arguments)
    columns = dataset.columns(fetch_if_missing=False)
    for name in arguments["keep"] or ():
        if columns is not None and name not in columns:
            raise DataError(
                f"keep must name columns of the dataset; got {name!r}: there are "
                f"{', '.join(columns)}"
            )
    if preserve_order:
        dataset.context.execution_options.preserve_order = True
    workers = Workers.of_cluster(concurrency)
    return dataset.map_batches(
        worker,
        fn_constructor_args=[model_path(model)],
        fn_constructor_kwargs={"compilation_cache": compilation_cache()} | arguments,
        batch_size=batch_size,
        batch_format="pyarrow",
        **actor_arguments(workers),
    )


def refuse_mesh(options: Mapping[str, Any]) -> None:
    """Raises `OptionError` if options of a model say how devices share the work.

    Args:
      options: The options.
    """
    if options.get("mesh") is not None:
        raise OptionError(
            "mesh splits the work over the devices of one process; got "
            f"mesh={options['mesh']!r} for the engine ray, each of whose workers has one device: "
            "leave mesh out, or leave engine out"
        )


def actor_arguments(workers: Workers, max_tasks_per_worker: int = 2) -> dict[str, Any]:
    """Returns the arguments of `map_batches` that make an actor of each worker.

    Args:
      workers: The workers.
      max_tasks_per_worker: How many blocks a worker is given before it has finished the first. With
        two, it does not wait for the next one; with one, a worker that starts early does not take
        the block of another that is about to start, which matters if a block takes minutes.
    """
    return {
        "compute": ray.data.ActorPoolStrategy(
            size=workers.count, max_tasks_in_flight_per_actor=max_tasks_per_worker
        ),
        "num_gpus": workers.num_gpus or None,
        "num_cpus": workers.num_cpus,
    }


def model_path(model: str | Path) -> str:
    """Returns the name of a model that is valid in any working directory."""
    name = resolve_name(model)
    return str(Path(name).absolute()) if Path(name).is_dir() else name


def compilation_cache() -> str | None:
    """Returns the directory in which this process keeps compiled programs, for the workers."""
    return jax.config.values["jax_compilation_cache_dir"]
