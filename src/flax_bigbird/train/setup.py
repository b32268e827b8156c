"""Prepares a training run: task, model, data and number of steps."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax

from flax_bigbird.data import files
from flax_bigbird.data.batching import batches_per_epoch
from flax_bigbird.data.errors import OptionError
from flax_bigbird.tasks.base import Task
from flax_bigbird.tasks.registry import get_task
from flax_bigbird.train.arguments import TrainingArguments
from flax_bigbird.train.callbacks import TrainerCallback
from flax_bigbird.train.data_setup import (
    SplitData,
    content_fingerprint,
    hold_out_rows,
    load_rows,
    pack_split,
    setup_split,
)
from flax_bigbird.train.model_setup import (
    resolve_initial_model,
    resolve_max_length,
    setup_model,
)
from flax_bigbird.train.resuming import original_batches
from flax_bigbird.train.run_directory import RunDirectory, load_saved_options
from flax_bigbird.train.tokenizer_setup import setup_tokenizer


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
      data_fingerprint: The hash of the files of the data, see `content_fingerprint`.
      eval_on_start: Whether to evaluate before the first step, because the head is fitted already.
    """

    options: TrainingArguments
    initial_model: str | None
    task: Task
    model: Any
    train_data: SplitData
    validation_data: SplitData | None
    max_steps: int
    eval_steps: int
    max_gradient_tokens: int
    data_fingerprint: str
    eval_on_start: bool = False


def prepare_run(
    options: TrainingArguments, directory: RunDirectory, callback: TrainerCallback
) -> PreparedRun:
    """Loads the data, the tokenizer and the model, and creates the run directory.

    Options and training rows that cannot be used are reported before anything is written.

    Args:
      options: The options, from `train_options`.
      directory: The run directory.
      callback: The callback that receives messages about the data and the model.

    Raises:
      OptionError: if the options contradict each other or the model, or the disk is too full.
      DataError: if the data cannot be used.
    """
    task_class: type[Task] = get_task(str(options.task))
    initial_model = resolve_initial_model(options, task_class)
    given_options, options = options, resolve_max_length(options, initial_model)
    max_gradient_tokens = options.tokens_per_batch
    if directory.is_started() and not options.overwrite_output_dir:
        options = original_batches(load_saved_options(directory.options), options)

    content_hash = functools.cache(files.content_hash)  # large files are read for it once
    options, train_rows, validation_rows = load_rows(options, task_class, content_hash)
    # The labels are those of all rows, so that rows held out have no unknown ones.
    task_config = task_class.infer_config(options, train_rows)
    if validation_rows is None:
        train_rows, validation_rows = hold_out_rows(options, task_class, train_rows)
    directory.create(given_options)

    texts = task_class.iterate_texts(options, train_rows)
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
    task: Any = task_class.for_model(options, tokenizer, model.config, initial_model)
    train_data = setup_split(options, task, train_rows, "train", callback)
    if task.packing:
        train_data = pack_split(options, train_data, model.config, callback)
    validation_data = None
    if validation_rows is not None:
        smaller = options.replace(tokens_per_batch=max_gradient_tokens)
        validation_data = setup_split(smaller, task, validation_rows, "validation", callback)
    max_steps, eval_steps = count_steps(options, train_data)

    if not (options.tokenizer or initial_model):
        messages.append(f"A new tokenizer with {len(tokenizer):,} tokens.")
    for message in messages:
        callback.on_message(message)
    fitted_params = None
    if has_new_head and not directory.is_started():  # a checkpoint of the run has its own head
        fitted_params = task.fit_new_head(
            model, train_data.encoded, train_data.buckets, options.seed, callback.on_message
        )
    if fitted_params is not None:
        model.params = fitted_params
    if max_steps:
        callback.on_message(
            f"Training on {train_data.num_rows:,} rows of {train_data.num_tokens:,} tokens, "
            f"padding {train_data.padding_fraction:.0%}, for {max_steps:,} steps."
        )
    return PreparedRun(
        options,
        initial_model,
        task,
        model,
        train_data,
        validation_data,
        max_steps,
        eval_steps,
        max_gradient_tokens,
        content_fingerprint(options, content_hash),
        eval_on_start=fitted_params is not None,
    )


def count_steps(options: TrainingArguments, train_data: SplitData) -> tuple[int, int]:
    """Returns the number of optimizer steps of a run, and the number between two evaluations."""
    batches = batches_per_epoch(train_data.buckets)
    steps_per_epoch = batches / options.gradient_accumulation_steps
    max_steps = options.max_steps
    if max_steps is None:
        max_steps = max(1, math.ceil(options.num_train_epochs * steps_per_epoch))
    return max_steps, options.eval_steps or max(1, min(max_steps, round(steps_per_epoch)))
