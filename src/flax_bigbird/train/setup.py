"""Prepares a training run: task, model, data and number of steps."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from flax_bigbird._messages import pluralize
from flax_bigbird.data import files
from flax_bigbird.data.errors import OptionError
from flax_bigbird.parallel.mesh_options import check_mesh_fits_model
from flax_bigbird.parallel.processes import (
    broadcast_arrays,
    check_same_as_main,
    is_main_process,
    run_main_first,
    run_on_main,
)
from flax_bigbird.parallel.row_shards import RowShards
from flax_bigbird.tasks.base import Task
from flax_bigbird.tasks.option_names import column_errors
from flax_bigbird.tasks.registry import get_task
from flax_bigbird.train.arguments import TrainingArguments
from flax_bigbird.train.best_metric import BestMetric, choose_best_metric
from flax_bigbird.train.callbacks import TrainerCallback
from flax_bigbird.train.data_setup import SplitData, load_rows, setup_split
from flax_bigbird.train.model_setup import (
    planned_config,
    resolve_initial_model,
    resolve_max_length,
    setup_model,
)
from flax_bigbird.train.resuming import original_batches
from flax_bigbird.train.run_directory import RunDirectory, load_saved_options
from flax_bigbird.train.stream_setup import open_stream
from flax_bigbird.train.tokenizer_setup import setup_tokenizer
from flax_bigbird.train.training_data import TrainingData, TrainingSource


@dataclass(frozen=True)
class PreparedRun:
    """Everything that the trainer needs.

    Attributes:
      options: The options, with a `max_length`.
      initial_model: The name of the model that the run starts from; None for a new one.
      task: The task.
      model: The model, with its initial parameters.
      train_data: The training examples.
      validation_data: The validation examples, if there are any.
      max_steps: The number of optimizer steps.
      eval_steps: The number of optimizer steps between evaluations.
      max_gradient_tokens: The maximum number of tokens whose gradient is computed at once. It is
        less than `options.tokens_per_batch` if the run is resumed with smaller batches.
      data_fingerprint: The hash of the files of the data, see `TrainingSource.fingerprint`.
      best_metric: The metric that decides which model is the best, if there are validation data.
      eval_on_start: Whether to evaluate before the first step, because the head is fitted already.
    """

    options: TrainingArguments
    initial_model: str | None
    task: Task
    model: Any
    train_data: TrainingData
    validation_data: SplitData | None
    max_steps: int
    eval_steps: int
    max_gradient_tokens: int
    data_fingerprint: str
    best_metric: BestMetric | None = None
    eval_on_start: bool = False


def prepare_run(
    options: TrainingArguments,
    directory: RunDirectory,
    callback: TrainerCallback,
    mesh: Mesh | None = None,
) -> PreparedRun:
    """Loads the data, the tokenizer and the model, and creates the run directory.

    With several processes, the main process does so first: the others then find what it has
    written. It alone fits a new head, whose parameters it sends to the others.

    Args:
      options: The options, from `train_options`.
      directory: The run directory.
      callback: The callback that receives messages about the data and the model.
      mesh: The mesh of the devices; None for a single device.

    Raises:
      OptionError: if the options contradict each other or the model, or the disk is too full.
      DataError: if the data cannot be used.
    """
    with column_errors(options):
        run, fits_head = run_main_first(lambda: _load_run(options, directory, callback, mesh))
    check_same_as_main(
        {"the content hash": run.data_fingerprint, **run.train_data.summary()}, "data"
    )

    def fit_head() -> bool:
        seed = run.options.seed
        fitted = run.train_data.fit_new_head(run.task, run.model, seed, callback.on_message)
        if fitted is not None:
            run.model.params = fitted
        return fitted is not None

    is_fitted = fits_head and run_on_main(fit_head)
    if is_fitted:
        run.model.params = broadcast_arrays(run.model.params)
    if run.max_steps:
        data = run.train_data
        steps = pluralize(run.max_steps, "step")
        callback.on_message(f"Training on {data.description}, for {steps}.")
    return dataclasses.replace(run, eval_on_start=is_fitted)


def _load_run(
    options: TrainingArguments,
    directory: RunDirectory,
    callback: TrainerCallback,
    mesh: Mesh | None,
) -> tuple[PreparedRun, bool]:
    """Returns the run before a new head is fitted, and whether there is one to fit.

    Options and training rows that cannot be used are reported before anything is written.

    Args:
      options: The options, from `train_options`.
      directory: The run directory.
      callback: The callback that receives messages about the data and the model.
      mesh: The mesh of the devices; None for a single device.
    """
    task_class: type[Task] = get_task(str(options.task))
    initial_model = resolve_initial_model(options, task_class)
    if mesh is not None:
        check_mesh_fits_model(dict(mesh.shape), planned_config(options, initial_model, {}))
    given_options, options = options, resolve_max_length(options, initial_model)
    max_gradient_tokens = options.tokens_per_batch
    if directory.is_started() and not options.overwrite_output_dir:
        options = original_batches(load_saved_options(directory.options), options)

    content_hash = functools.cache(files.content_hash)  # large files are read for it once
    options, source = _open_source(options, task_class, content_hash, mesh)
    # The labels are those of all rows, so that rows held out have no unknown ones.
    task_config = task_class.infer_config(options, source.rows)
    source = source.hold_out(options, task_class)
    best_metric = None
    if source.validation_rows is not None:
        config = planned_config(options, initial_model, task_config)
        best_metric = choose_best_metric(options, config, source.validation_rows)
    _create_directory(directory, given_options)

    task, model, has_new_head = _setup_task(
        options, initial_model, task_class, task_config, source, directory, callback
    )
    train_data = source.encode(options, task, model.config, callback)
    validation_data = None
    if source.validation_rows is not None:
        smaller = options.replace(tokens_per_batch=max_gradient_tokens)
        validation_data = setup_split(smaller, task, source.validation_rows, "validation", callback)
    run = PreparedRun(
        options,
        initial_model,
        task,
        model,
        train_data,
        validation_data,
        *train_data.count_steps(options),
        max_gradient_tokens,
        source.fingerprint(options, content_hash),
        best_metric,
    )
    # A checkpoint of the run has its own head.
    return run, has_new_head and not directory.is_started()


def _setup_task(
    options: TrainingArguments,
    initial_model: str | None,
    task_class: type[Task],
    task_config: dict[str, Any],
    source: TrainingSource,
    directory: RunDirectory,
    callback: TrainerCallback,
) -> tuple[Task, Any, bool]:
    """Returns the task, with its tokenizer, the model, and whether its head is new.

    Args:
      options: The options, with a `max_length`.
      initial_model: The model to start from; None for a new one.
      task_class: The class of the task.
      task_config: The keys of the configuration that follow from the rows.
      source: The rows, on whose texts a new tokenizer is trained.
      directory: The run directory, where the tokenizer is saved.
      callback: The callback that receives messages about the model.
    """
    texts = source.iterate_texts(options, task_class)
    tokenizer = setup_tokenizer(options, initial_model, texts, directory.tokenizer)
    model, messages, has_new_head = setup_model(
        options, initial_model, task_class, task_config, tokenizer
    )
    if options.max_steps == 0 and not has_new_head:
        raise OptionError(
            f"max_steps may be 0 if a new head is fitted; got 0 for {initial_model}, whose head is "
            "kept: give the number of steps"
        )
    directory.check_free_space(sum(leaf.nbytes for leaf in jax.tree.leaves(model.params)))
    if not (options.tokenizer or initial_model):
        messages.append(f"A new tokenizer with {len(tokenizer):,} tokens.")
    for message in messages:
        callback.on_message(message)
    task: Any = task_class.for_model(options, tokenizer, model.config, initial_model)
    return task, model, has_new_head


def _open_source(
    options: TrainingArguments,
    task: type[Task],
    content_hash: Callable[[Path], str],
    mesh: Mesh | None,
) -> tuple[TrainingArguments, TrainingSource]:
    """Returns the options with the columns of the data, and the rows or the stream."""
    if not options.is_streaming:
        return load_rows(options, task, content_hash)
    return options, open_stream(options, task, content_hash, RowShards.of(mesh).num_readers)


def _create_directory(directory: RunDirectory, options: TrainingArguments) -> None:
    """Creates the run directory in the main process, and checks that the others see it.

    Raises:
      OptionError: if another process does not.
    """
    if is_main_process():
        directory.create(options)
    elif not directory.options.exists():
        raise OptionError(
            "must be on a file system that all processes share; process "
            f"{jax.process_index()} does not see {directory.options}, which process 0 has "
            "written: choose another directory",
            option="output_dir",
        )
