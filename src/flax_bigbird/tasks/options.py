"""Typed options: one definition for the command line, YAML files, and Python.

An options class is a frozen pydantic model. Its fields are declared with `option`, which adds the
help text, the panel of the help, and the commands that use the option. Everything that is wrong
with a value or a name is raised as an `OptionError`.
"""

import difflib
import functools
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

import pydantic
from pydantic.fields import FieldInfo

from flax_bigbird.data.errors import OptionError
from flax_bigbird.tasks import registry

Command = Literal["train", "evaluate", "predict"]
# typing.Self cannot be checked at run time.
OptionsT = TypeVar("OptionsT", bound="Options")
TaskOptionsT = TypeVar("TaskOptionsT", bound="TaskOptions")

COMMANDS: tuple[Command, ...] = ("train", "evaluate", "predict")

REQUIRED: Any = ...
"""The default of an option that must be given."""

DATA, MODEL, TASK = "Data", "Model", "Task"
BATCHES, OPTIMIZATION, RUN = "Batches", "Optimization", "Run"

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


def option(
    default: Any,
    *,
    help: str,
    panel: str,
    ge: int | float | None = None,
    le: int | float | None = None,
    choices: Sequence[str] | None = None,
    commands: Sequence[Command] = COMMANDS,
) -> Any:
    """Declares a field of an options class.

    Args:
      default: The default value, or `REQUIRED`. Lists and dictionaries are copied.
      help: One sentence for the help of the command line.
      panel: The group of options in the help.
      ge: The smallest value allowed.
      le: The largest value allowed.
      choices: The values allowed.
      commands: The commands that use the option. The others refuse it.
    """
    extra = {
        "panel": panel,
        "choices": list(choices) if choices else None,
        "commands": list(commands),
    }
    return pydantic.Field(default, description=help, ge=ge, le=le, json_schema_extra=extra)


class Options(pydantic.BaseModel):
    """The base of all options classes: immutable values that are checked when they are given.

    Types are strict: `True` is not an int and `"3"` is not a float, but an int may be given for a
    float.

    Raises:
      OptionError: if a name is unknown or a value is not allowed.
    """

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    task: ClassVar[str | None] = None
    """The task that the options belong to, if they belong to one."""
    command: ClassVar[Command | None] = None
    """The command that the options belong to, if they belong to one."""

    def __init__(self, **values: Any):
        check_option_names(values, option_fields(type(self)), task=self.task, command=self.command)
        try:
            super().__init__(**values)
        except pydantic.ValidationError as error:
            raise _option_error(type(self), error) from error

    @pydantic.model_validator(mode="after")
    def _check_choices(self) -> "Options":
        for name, field in type(self).model_fields.items():
            choices, value = field_metadata(field)["choices"], getattr(self, name)
            if choices and value is not None and value not in choices:
                raise OptionError(
                    f"{name} must be one of {', '.join(choices)}; got {value!r}: "
                    f"{nearest(str(value), choices) or 'choose one of them'}"
                )
        return self

    def replace(self: OptionsT, **changes: Any) -> OptionsT:
        """Returns a copy with some values changed, which is checked as a new one is."""
        return type(self)(**self.model_dump(exclude_unset=True) | changes)

    def as_dict(self) -> dict[str, Any]:
        """Returns the options as plain values, in the order of their definition."""
        used = option_fields(type(self))
        return {name: value for name, value in self.model_dump().items() if name in used}


class TaskOptions(Options):
    """The options that every task has. The options class of a task adds its own."""

    max_length: int | None = option(
        None,
        help="The maximum number of tokens of an input; longer documents are truncated or split "
        "into windows. By default, it is the length of the model's position embeddings "
        "(4096 for a new model).",
        panel=BATCHES,
        ge=8,
    )
    tokens_per_batch: int = option(
        16384,
        help="The number of tokens per batch: the batch size times the padded length.",
        panel=BATCHES,
        ge=8,
    )
    min_bucket_length: int = option(
        128,
        help="Inputs are padded to this length, or to its doubles up to max_length.",
        panel=BATCHES,
        ge=8,
    )
    dtype: str = option(
        "float32",
        help="The dtype of the computation.",
        panel=MODEL,
        choices=("float32", "bfloat16"),
    )

    @pydantic.model_validator(mode="after")
    def _check_tokens_per_batch(self) -> "TaskOptions":
        if self.max_length is not None and self.tokens_per_batch < self.max_length:
            raise OptionError(
                f"tokens_per_batch must hold one document of max_length={self.max_length} tokens; "
                f"got {self.tokens_per_batch}: raise it, or lower max_length"
            )
        return self

    def with_max_length(self: TaskOptionsT, positions: int) -> TaskOptionsT:
        """Returns these options with a `max_length`, which is `positions` if none was given."""
        return self if self.max_length else self.replace(max_length=positions)

    @property
    def length(self) -> int:
        """`max_length`, for options that have one."""
        if self.max_length is None:
            raise ValueError("max_length must be resolved; got None: call with_max_length first")
        return self.max_length

    @property
    def bucket_lengths(self) -> tuple[int, ...]:
        """The lengths that inputs are padded to, in tokens, in ascending order."""
        lengths, length = [], min(self.min_bucket_length, self.length)
        while length < self.length:
            lengths.append(length)
            length *= 2
        return (*lengths, self.length)


def field_metadata(field: FieldInfo) -> dict[str, Any]:
    """Returns the `panel`, `choices`, and `commands` of a field that `option` declared."""
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    return extra


def option_fields(
    options_class: type[Options], command: Command | None = None
) -> dict[str, FieldInfo]:
    """Returns the fields of an options class that a command uses.

    Args:
      options_class: The class.
      command: The command; by default, that of the class. None stands for every command.
    """
    command = command or options_class.command
    fields = options_class.model_fields
    if command is None:
        return dict(fields)
    return {name: f for name, f in fields.items() if command in field_metadata(f)["commands"]}


@functools.cache
def command_options(task: str, command: Command, *bases: type[Options]) -> type[Options]:
    """Returns the options class of a command for a task.

    It has the fields of `bases` and those of the task that the command uses.

    Raises:
      OptionError: if there is no task of this name.
    """
    name = f"{task.title().replace('-', '')}{command.title()}Options"
    namespace = {"task": task, "command": command, "__module__": __name__}
    kinds = (*bases, registry.get_options_class(task))
    return types.new_class(name, kinds, exec_body=lambda body: body.update(namespace))


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
    """Translates the options that a run saved to the present names and values.

    Options of other tasks than the run's, which used to be saved too, are left out.

    Args:
      values: The content of the run's `options.yaml`.
    """
    values = dict(values)
    if isinstance(recompute := values.get("gradient_checkpointing"), bool):
        kept = values.pop("keep_attention", False)
        mode = "attention" if kept else "full"
        values["gradient_checkpointing"] = mode if recompute else "none"
    if "mode" in values:
        values["mode"] = _OLD_MODES.get(values["mode"], values["mode"])
    values = {RENAMED.get(name, name): value for name, value in values.items()}
    task = values.get("task")
    if task not in registry.TASKS:
        return values
    own = registry.get_options_class(task).model_fields
    others = {
        name
        for other in registry.task_names()
        for name in registry.get_options_class(other).model_fields
    }
    foreign = others - set(own) - {"seed"}
    return {name: value for name, value in values.items() if name not in foreign}


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns "did you mean X?" for the most similar of the known names, or ""."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {near[0]}?" if near else ""


def _find_owners(name: str) -> dict[str, list[str]]:
    """Returns the tasks that have an option of this name, and the commands that use it there."""
    owners = {}
    for task in registry.task_names():
        field = registry.get_options_class(task).model_fields.get(name)
        if field is not None:
            owners[task] = field_metadata(field)["commands"]
    return owners


def _option_error(options_class: type[Options], error: pydantic.ValidationError) -> OptionError:
    """Returns what is wrong according to pydantic as a rule, the received value, and a remedy."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, OptionError):
        return cause
    name, value = str(first["loc"][0]), first["input"]
    if first["type"] == "missing":
        return OptionError(f"{name} must be given; got none: add it")
    field = options_class.model_fields[name]
    if first["type"] in ("greater_than_equal", "less_than_equal", "finite_number"):
        return OptionError(f"{name} must be {_range(field)}; got {value:g}: change it")
    where = " in it" if len(first["loc"]) > 1 else ""
    type_name = _type_name(field)
    return OptionError(f"{name} must be of type {type_name}; got {value!r}{where}: change it")


def _range(field: FieldInfo) -> str:
    """Returns the values that a field allows, in words."""
    low = next((limit.ge for limit in field.metadata if hasattr(limit, "ge")), None)
    high = next((limit.le for limit in field.metadata if hasattr(limit, "le")), None)
    if low is not None and high is not None:
        return f"between {low:g} and {high:g}"
    if low is not None:
        return f"at least {low:g}"
    return f"at most {high:g}" if high is not None else "finite"


def _type_name(field: FieldInfo) -> str:
    """Returns the type of a field as users read it, without `None`."""
    hint = field.annotation
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return " or ".join(
        kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
        for kind in kinds
        if kind is not types.NoneType
    )
