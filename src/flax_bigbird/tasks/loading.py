"""Loads the configuration, the model, and the saved options of a checkpoint for a task."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import flax_bigbird
from flax_bigbird.checkpoint import CheckpointError, CheckpointWarning, Source, format_paths
from flax_bigbird.data.errors import OptionError
from flax_bigbird.models.checkpoint_checks import check_params
from flax_bigbird.models.config_loading import load_config as load_checkpoint_config
from flax_bigbird.pretrained import local_path, shipped_models
from flax_bigbird.tasks.option_names import nearest, translate_saved_options

SAVED_OPTIONS = "options.yaml"
"""The file in which `bigbird train` saves its options beside the model."""

_Content = TypeVar("_Content")


def load_config(model: str) -> Any:
    """Loads the configuration of a checkpoint.

    Args:
      model: A directory, the name of a model inside the package, or a Hub id.

    Raises:
      OptionError: if there is no checkpoint.
    """
    path = local_path(model)
    directory = Path(path)
    if directory.is_dir() and not (directory / "config.json").is_file():
        reason, remedy = "has no config.json", "name another"
        if (directory / SAVED_OPTIONS).is_file():
            reason = "holds a run of bigbird train that is not finished"
            remedy = "finish it with the command that started it, or name another"
        raise OptionError(
            f"must be a BigBird checkpoint; the directory {path} {reason}: {remedy}",
            option="model",
        )
    similar = nearest(model, shipped_models())
    try:
        return load_checkpoint_config(Source(path), similar or "check the path")
    except (OSError, ValueError) as error:
        raise no_checkpoint_error(path, error) from None


def no_checkpoint_error(model: str, error: Exception) -> OptionError:
    """Returns the error for a model that cannot be loaded."""
    return OptionError(f"must be a BigBird checkpoint; {model}: {error}", option="model")


def load_model(model: str, model_class: str, *, dtype: Any, **config: Any) -> Any:
    """Loads a checkpoint with the head that a task needs. Its outputs do not depend on padding.

    Args:
      model: A directory, the name of a model inside the package, or a Hub id.
      model_class: The name of the model class in `flax_bigbird`.
      dtype: The dtype of the computation.
      **config: Changes of the configuration.

    Raises:
      OptionError: if the checkpoint cannot be loaded or lacks parameters of the model class.
    """
    config = {"padding_invariant": True} | config
    with _model_errors(model, model_class):
        return getattr(flax_bigbird, model_class).from_pretrained(model, dtype=dtype, **config)


def check_model(model: str, model_class: str, **config: Any) -> None:
    """Checks that `load_model` can load a checkpoint, without its weights and without any device.

    Args:
      model: A directory, the name of a model inside the package, or a Hub id.
      model_class: The name of the model class in `flax_bigbird`.
      **config: Changes of the configuration.

    Raises:
      OptionError: as `load_model` does.
    """
    with _model_errors(model, model_class):
        check_params(getattr(flax_bigbird, model_class), Source(model), config)


@contextlib.contextmanager
def _model_errors(model: str, model_class: str) -> Iterator[None]:
    """Raises `OptionError` if the block cannot load a checkpoint, or finds parameters missing."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CheckpointWarning)
            yield
    except (CheckpointError, OSError, ValueError) as error:
        raise no_checkpoint_error(model, error) from error
    # Parameters of another head in the file do no harm.
    given = [w.message for w in caught if isinstance(w.message, CheckpointWarning)]
    missing = [message for message in given if not message.unread_parameters]
    if missing:
        # The warning of the model class says that they were initialized, which helps nobody here.
        new = missing[0].new_parameters
        lacks = f" lacks {format_paths(list(new))}" if new else f": {missing[0]}"
        raise OptionError(
            f"the checkpoint must have all parameters of {model_class}; {model}{lacks}: train it "
            "for the task first, or name another task"
        )


def load_files_beside(load: Callable[[Source], _Content], model: str) -> _Content:
    """Loads the files beside a checkpoint that say what it is, such as those of an embedder.

    Args:
      load: The function that loads them.
      model: A directory, the name of a model inside the package, or a Hub id.

    Raises:
      OptionError: if a file cannot be used.
    """
    try:
        return load(Source(model))
    except CheckpointError as error:
        raise no_checkpoint_error(model, error) from None


def load_saved_options(model: str) -> dict[str, Any]:
    """Returns the options, under their present names, that a model was trained with.

    Args:
      model: A directory, the name of a model inside the package, or a Hub id.

    Returns:
      The content of the `options.yaml` beside the model; an empty dictionary if there is none.

    Raises:
      OptionError: if the file is broken.
    """
    import yaml

    path = Path(local_path(model)) / SAVED_OPTIONS
    if not path.is_file():
        return {}
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise OptionError(
            f"{path} must be the options of a run; it is broken ({error}): correct or remove it"
        ) from error
    if not isinstance(values, dict):
        raise OptionError(f"{path} must be the options of a run; it is broken: remove it")
    return translate_saved_options(values)
