"""Resolves the task of a checkpoint and the options that it was trained with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax_bigbird.checkpoint.cross_encoders import load_cross_encoder_settings
from flax_bigbird.checkpoint.sentence_transformers import has_embedding_modules
from flax_bigbird.inference.options import saved_option_names
from flax_bigbird.tasks.base import Task
from flax_bigbird.tasks.loading import load_files_beside, load_saved_options
from flax_bigbird.tasks.options import Command, TaskOptions
from flax_bigbird.tasks.registry import check_command, get_task, task_for_config


def resolve_name(model: str | Path) -> str:
    """Returns the name of a model as a string, with `~` expanded if it is a directory."""
    path = Path(model).expanduser()
    return str(path) if path.is_dir() else str(model)


def resolve_task(
    task: str | None, config: Any, model: str, command: Command = "predict"
) -> type[Task]:
    """Returns the class of the task that a model is used for.

    Args:
      task: The name of the task. By default, it is the task of the training run in the model's
        directory, or else the task whose head the checkpoint has.
      config: The model's configuration.
      model: The directory, shipped name or Hub id of the model.
      command: The command that the model is used by.

    Raises:
      OptionError: if there is no such task, or if the checkpoint does not identify its task.
    """
    name = task or load_saved_options(model).get("task") or task_of_files(model)
    name = name or task_for_config(config, model, command)
    check_command(name, command)
    return get_task(name)


def task_of_files(model: str) -> str | None:
    """Returns the task that the files of sentence-transformers beside a checkpoint belong to.

    Raises:
      OptionError: if a file cannot be used.
    """
    if load_files_beside(load_cross_encoder_settings, model) is not None:
        return "reranking"
    return "embedding" if load_files_beside(has_embedding_modules, model) else None


def resolve_options(
    task: str, command: Command, model: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Merges the given options with those of the model's training run; given ones take precedence.

    Without a `tokens_per_batch` among the given ones, a batch has the default number of tokens, or
    holds one text of `max_length` tokens if that is more.

    Args:
      task: The name of the task.
      command: The command whose options these are.
      model: The directory, shipped name or Hub id of the model.
      given: The options that are given.

    Raises:
      OptionError: if the saved options cannot be read.
    """
    names = saved_option_names(task, command)
    saved = {key: value for key, value in load_saved_options(model).items() if key in names}
    options = saved | dict(given)
    length = options.get("max_length")
    if isinstance(length, int) and "tokens_per_batch" not in given:
        default = TaskOptions.model_fields["tokens_per_batch"].default
        options["tokens_per_batch"] = max(default, length)
    return options
