"""Typed options: one definition for the command line, YAML files, and Python.

An options class is a frozen pydantic model. Its fields are declared with `option`, which adds the
help text, the panel of the help, and the commands that use the option. Everything that is wrong
with a value or a name is raised as an `OptionError`.
"""

import functools
import types
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import pydantic
from pydantic.fields import FieldInfo

from flax_bigbird.data.errors import OptionError
from flax_bigbird.parallel.mesh_options import parse_mesh
from flax_bigbird.tasks import registry
from flax_bigbird.tasks.option_errors import option_error
from flax_bigbird.tasks.option_names import Command, check_option_names, field_metadata, nearest

# typing.Self cannot be checked at run time.
OptionsT = TypeVar("OptionsT", bound="Options")
TaskOptionsT = TypeVar("TaskOptionsT", bound="TaskOptions")

COMMANDS: tuple[Command, ...] = ("train", "evaluate", "predict", "embed")

DATA_FILES = (
    "JSON, CSV, TSV, Parquet, CoNLL or FASTA files (also as .gz, .bz2 or .zst, but for Parquet), "
    "SQuAD's own files, or directories of text files"
)
"""The files that all commands read, for help texts."""

REQUIRED: Any = ...
"""The default of an option that must be given."""

MAX_TOKENS_PER_BATCH = 2**24
"""A limit that no accelerator reaches. Larger batches would only exhaust the memory."""

DATA, MODEL, TASK = "Data", "Model", "Task"
BATCHES, OPTIMIZATION, DEVICES, RUN = "Batches", "Optimization", "Devices", "Run"


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
            raise option_error(type(self), error) from error

    @pydantic.model_validator(mode="after")
    def _check_choices(self) -> "Options":
        for name, field in type(self).model_fields.items():
            choices, value = field_metadata(field)["choices"], getattr(self, name)
            if choices and value is not None and value not in choices:
                raise OptionError(
                    f"must be one of {', '.join(choices)}; got {value!r}: "
                    f"{nearest(str(value), choices) or 'choose one of them'}",
                    option=name,
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

    separator: str | None = option(
        None,
        help="The character between the fields of CSV files. By default, it is a comma, or a "
        "semicolon or else a tab, whichever the first line has, and a tab in TSV files.",
        panel=DATA,
    )
    file_format: str | None = option(
        None,
        help="The format of the files. By default, it follows from their names, as in rows.jsonl "
        "or rows.conll.gz. Rows of JSON are lines, an array, or SQuAD's own format.",
        panel=DATA,
        choices=("json", "csv", "parquet", "text", "conll", "fasta"),
    )
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
        help="The number of tokens per batch: the batch size times the padded length. Training "
        "splits a batch over all devices; otherwise, each device along data and fsdp has its own.",
        panel=BATCHES,
        ge=8,
        le=MAX_TOKENS_PER_BATCH,
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
    mesh: str | None = option(
        None,
        help="How the devices share the work: data (other examples), fsdp (other examples, and a "
        "part of all parameters), sequence (other tokens), tensor (other attention heads), as in "
        "data=2,fsdp=4. By default, it is data over all devices.",
        panel=DEVICES,
    )

    @pydantic.model_validator(mode="after")
    def _check_mesh(self) -> "TaskOptions":
        parse_mesh(self.mesh)
        return self

    @pydantic.model_validator(mode="after")
    def _check_separator(self) -> "TaskOptions":
        separator = self.separator
        if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
            raise OptionError(
                f"must be one character that is no quote or line end; got {separator!r}: "
                "give one such as ;",
                option="separator",
            )
        return self

    @pydantic.model_validator(mode="after")
    def _check_options_of_files(self) -> "TaskOptions":
        has_files = not getattr(self, "dataset", None) or getattr(self, "validation_files", None)
        for name in ("separator", "file_format"):
            value = getattr(self, name)
            if value is not None and not has_files:
                raise OptionError(
                    f"{name} is an option of files; got {value!r} for a dataset: leave it out"
                )
        return self

    @pydantic.model_validator(mode="after")
    def _check_tokens_per_batch(self) -> "TaskOptions":
        if self.max_length is not None and self.tokens_per_batch < self.max_length:
            raise OptionError(
                f"must hold one document of max_length={self.max_length} tokens; "
                f"got {self.tokens_per_batch}: raise it, or lower max_length",
                option="tokens_per_batch",
            )
        return self

    def with_max_length(self: TaskOptionsT, positions: int) -> TaskOptionsT:
        """Returns these options with a `max_length`, which is `positions` if none was given.

        A batch then holds at least one example, unless `tokens_per_batch` was given.
        """
        if self.max_length:
            return self
        if "tokens_per_batch" in self.model_fields_set or self.tokens_per_batch >= positions:
            return self.replace(max_length=positions)
        return self.replace(max_length=positions, tokens_per_batch=positions)

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

    def bucket_length(self, num_tokens: int) -> int:
        """Returns the length that an input of `num_tokens` tokens is padded to."""
        return next(length for length in self.bucket_lengths if length >= num_tokens)


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
