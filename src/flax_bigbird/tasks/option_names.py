"""Explains unknown option names: those of other tasks, former names, and misspellings."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from pydantic.fields import FieldInfo

from flax_bigbird.data.errors import MissingColumnError, OptionError
from flax_bigbird.tasks import registry

Command = Literal["train", "evaluate", "predict", "embed"]

RENAMED: dict[str, str] = {
    "validation_share": "validation_fraction",
    "warmup_share": "warmup_ratio",
    "smallest_bucket": "min_bucket_length",
    "longest_answer": "max_answer_length",
    "new_tokens": "max_new_tokens",
    "mask_rate": "mlm_probability",
    "whole_words": "whole_word_mask",
    "random_positions": "random_position_offset",
    "epochs": "num_train_epochs",
    "gradient_accumulation": "gradient_accumulation_steps",
    "schedule": "lr_scheduler_type",
    "adam_b1": "adam_beta1",
    "adam_b2": "adam_beta2",
    "clip_norm": "max_grad_norm",
    "evaluate_every": "eval_steps",
    "save_every": "save_steps",
    "log_every": "logging_steps",
    "patience": "early_stopping_patience",
    "best_metric": "metric_for_best_model",
    "vocabulary_size": "vocab_size",
    "dataset_name": "dataset_config",
    "mode": "problem_type",
    "keep_attention": "gradient_checkpointing",
    "model_config": "config_overrides",
    "overwrite": "overwrite_output_dir",
}
"""The former names of options and the names that replaced them."""

_RENAMED_REMEDIES = {
    "keep_attention": 'give gradient_checkpointing="attention"',
    "mode": "rename it, and give one of single_label_classification, multi_label_classification, "
    "and regression",
}
_OLD_MODES = {
    "single-label": "single_label_classification",
    "multi-label": "multi_label_classification",
}


def check_option_names(
    names: Iterable[str],
    known: Iterable[str],
    *,
    task: str | None = None,
    command: Command | None = None,
) -> None:
    """Checks that all names are options.

    Args:
      names: The names that were given.
      known: The names of the options that may be given.
      task: The task that the options are for.
      command: The command that the options are for.

    Raises:
      OptionError: if an option has been renamed, belongs to another task or another command, or
        does not exist.
    """
    known = list(known)
    for name in names:
        if name in known:
            continue
        new_name = RENAMED.get(name, name)
        if new_name in known:
            remedy = _RENAMED_REMEDIES.get(name, "rename it")
            raise OptionError(f"{name} is now {new_name}: {remedy}")
        owners = _find_owners(new_name)
        if task in owners and command:
            users = " and ".join(f"bigbird {user}" for user in owners[task])
            raise OptionError(
                f"{name} is an option of {users}; got it for bigbird {command}: leave it out"
            )
        if owners and task:
            raise OptionError(
                f"{name} is an option of {', '.join(owners)}; got it for {task}: leave it out"
            )
        remedy = nearest(name, known) or f"choose one of {', '.join(sorted(known))}"
        raise OptionError(f"every option must be known; got {name!r}: {remedy}")


def translate_saved_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Translates the options that a run saved to the current names and values.

    Options of other tasks, which older versions saved too, are left out.

    Args:
      values: The content of the run's `options.yaml`.
    """
    values = dict(values)
    keeps_attention = values.pop("keep_attention", False)
    if isinstance(recompute := values.get("gradient_checkpointing"), bool):
        mode = "attention" if keeps_attention else "full"
        values["gradient_checkpointing"] = mode if recompute else "none"
    if "mode" in values:
        values["mode"] = _OLD_MODES.get(values["mode"], values["mode"])
    values = {RENAMED.get(name, name): value for name, value in values.items()}
    task = values.get("task")
    if task not in registry.TASKS:
        return values
    others = {name for other in registry.task_names() for name in _option_names(other, "train")}
    foreign = others - _option_names(task, "train")
    return {name: value for name, value in values.items() if name not in foreign}


@contextlib.contextmanager
def column_errors(options: Any) -> Iterator[None]:
    """Names the option to change in the error of a block that misses a column.

    Args:
      options: The options, whose fields that end in `_column` hold the names of columns.
    """
    try:
        yield
    except MissingColumnError as error:
        fields = [name for name in type(options).model_fields if name.endswith("_column")]
        owners = [name for name in fields if getattr(options, name) == error.column]
        if not owners:  # the column follows from the data
            raise
        raise MissingColumnError(
            f"{error.rule}: name the right one with {' or '.join(owners)}"
        ) from error


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns "did you mean X?" for the most similar of the known names, or ""."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {near[0]}?" if near else ""


def _find_owners(name: str) -> dict[str, list[str]]:
    """Returns the tasks that have an option, and the commands of those tasks that accept it."""
    owners = {}
    for task in registry.task_names(None):
        field = registry.get_options_class(task).model_fields.get(name)
        if field is not None:
            owners[task] = field_metadata(field)["commands"]
    return owners


def _option_names(task: str, command: Command) -> set[str]:
    """Returns the names of the options that a command uses for a task, without generic ones."""
    fields = registry.get_options_class(task).model_fields
    return {name for name, field in fields.items() if command in field_metadata(field)["commands"]}


def field_metadata(field: FieldInfo) -> dict[str, Any]:
    """Returns the `panel`, `choices`, and `commands` of a field that `option` declared."""
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    return extra
