"""Builds command-line flags from the fields of options classes.

Flags are strings; `parse_flags` converts them to the types of the options, and the options class
checks the values. An invalid value thus has the same message on the command line, in YAML files,
and in Python.
"""

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import typer
from pydantic.fields import FieldInfo
from rich.markup import escape

from flax_bigbird.data.errors import OptionError
from flax_bigbird.tasks.option_names import RENAMED, Command, check_option_names, field_metadata
from flax_bigbird.tasks.options import BATCHES, DATA, DEVICES, MODEL, OPTIMIZATION, RUN, TASK
from flax_bigbird.tasks.registry import get_options_class, task_names

PANELS = (DATA, MODEL, TASK, BATCHES, OPTIMIZATION, DEVICES, RUN)
SHORT_FLAGS = {"output_dir": "-o", "output": "-o", "config": "-c"}
MAX_METAVAR_LENGTH = 40  # Longer choices are listed in the help instead.
METAVARS = {int: "INTEGER", float: "FLOAT", str: "TEXT", list: "TEXT", dict: "KEY=VALUE"}


def command_from_parameters(
    function: Callable[..., None], parameters: Iterable[inspect.Parameter]
) -> Callable[..., None]:
    """Returns `function` with the signature from which typer builds arguments and flags."""

    def command(**values: Any) -> None:
        function(**values)

    command.__signature__ = inspect.Signature(list(parameters))  # type: ignore[attr-defined]
    command.__doc__ = function.__doc__
    return command


def argument(name: str, kind: Any, help: str, *, required: bool = True) -> inspect.Parameter:
    """Returns a positional argument; an optional one that is not given is None."""
    declared = typer.Argument(help=help, show_default=False)
    return inspect.Parameter(
        name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=inspect.Parameter.empty if required else None,
        annotation=typing.Annotated[kind, declared],
    )


def flag(
    name: str, kind: Any, help: str, panel: str, metavar: str | None = None
) -> inspect.Parameter:
    """Returns a flag whose value is None if it is not given.

    Args:
      name: The name of the parameter; the flag has dashes instead of underscores.
      kind: `bool`, `str`, or `list[str]`.
      help: The help, with rich's markup.
      panel: The group of the flag in the help.
      metavar: The placeholder of the value in the help.
    """
    dashed = name.replace("_", "-")
    names = [f"--{dashed}/--no-{dashed}" if kind is bool else f"--{dashed}"]
    if name in SHORT_FLAGS:
        names.append(SHORT_FLAGS[name])
    declared = typer.Option(
        *names, help=help, rich_help_panel=panel, show_default=False, metavar=metavar
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=typing.Annotated[kind | None, declared],
    )


def in_panel_order(flags: Iterable[inspect.Parameter]) -> list[inspect.Parameter]:
    """Returns flags in the order of their panels, and otherwise in the order given."""

    def panel_index(parameter: inspect.Parameter) -> int:
        (declared,) = parameter.annotation.__metadata__
        panel = declared.rich_help_panel
        return PANELS.index(panel) if panel in PANELS else len(PANELS)

    return sorted(flags, key=panel_index)


def field_flag(
    name: str, field: FieldInfo, *, panel: str | None = None, suffix: str = ""
) -> inspect.Parameter:
    """Returns the flag of a field.

    Args:
      name: The name of the field.
      field: The field, declared with `flax_bigbird.tasks.options.option`.
      panel: The group of the flag in the help; by default, that of the field.
      suffix: A sentence to add to the help.
    """
    metadata, kind = field_metadata(field), _value_type(field)
    repeat = "The flag may be given more than once." if kind in (list, dict) else ""
    choices = metadata["choices"] or ()
    too_long = sum(map(len, choices)) > MAX_METAVAR_LENGTH
    listed = f"One of {', '.join(choices)}." if too_long else ""
    text = escape(" ".join(filter(None, (field.description, listed, repeat, suffix))))
    for remark in (_range(field), _default(field)):
        text += f" [dim]{escape(f'[{remark}]')}[/dim]" if remark else ""
    metavar = f"[{'|'.join(choices)}]" if choices and not too_long else METAVARS.get(kind)
    flag_type = bool if kind is bool else list[str] if kind in (list, dict) else str
    return flag(name, flag_type, text, panel or metadata["panel"], metavar)


def parse_flags(flags: Mapping[str, Any], fields: Mapping[str, FieldInfo]) -> dict[str, Any]:
    """Returns the flags that were given, with values of the types of their options.

    A text that is not a number of the option's type is returned unchanged, so that the options
    class rejects it.

    Raises:
      OptionError: if a `key=value` pair has no value, or one that is not YAML.
    """
    given = {name: value for name, value in flags.items() if value not in (None, [])}
    for name, value in given.items():
        kind = _value_type(fields[name]) if name in fields else None
        if kind is dict:
            given[name] = _parse_pairs(name, value)
        elif kind in (int, float) and isinstance(value, str):
            given[name] = _parse_number(kind, value)
        elif kind is list and _item_type(fields[name]) is int:
            given[name] = [_parse_number(int, item) for item in value]
    return given


def _parse_number(kind: type, value: str) -> Any:
    """Returns a text as a number; unchanged if it is none of this type."""
    try:
        return kind(value)
    except ValueError:
        return value


def explain_unknown_flag(flag: str, command: Command, task: str | None = None) -> str:
    """Explains a flag that belongs to another task or to an earlier version.

    Args:
      flag: The flag, as the user wrote it.
      command: The command.
      task: The task, if the command belongs to one.

    Returns:
      The explanation; "" if no task and no earlier version has the flag.
    """
    name = flag.lstrip("-").removeprefix("no-").replace("-", "_")
    owners = [t for t in task_names(None) if name in get_options_class(t).model_fields]
    if name not in RENAMED and not owners:
        return ""
    known = {RENAMED[name]} if name in RENAMED else ()
    if task is None and owners:
        task = owners[0]
    try:
        check_option_names([name], known, task=task, command=command)
    except OptionError as error:
        return str(error)
    return ""


def _value_type(field: FieldInfo) -> Any:
    """Returns the type of a field's value: `bool`, `int`, `float`, `str`, `list` or `dict`."""
    hint = field.annotation
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kind = next(kind for kind in kinds if kind is not types.NoneType)
    return typing.get_origin(kind) or kind


def _item_type(field: FieldInfo) -> Any:
    """Returns the type of the items of a field that is a list."""
    return next(iter(typing.get_args(field.annotation)), None)


def _parse_pairs(name: str, texts: Iterable[str]) -> dict[str, Any]:
    """Parses texts such as "num_hidden_layers=2" into a dictionary, with values parsed as YAML."""
    from flax_bigbird.train.option_files import parse_number, parse_yaml

    pairs = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise OptionError(f"must be key=value; got {text!r}: add the value", option=name)
        try:
            pairs[key.strip()] = parse_number(parse_yaml(value))
        except ValueError as error:
            raise OptionError(
                f"must be key=value with a value in YAML; got {text!r} ({error}): close its "
                "brackets and quotes, or put the value in quotes",
                option=name,
            ) from error
    return pairs


def _range(field: FieldInfo) -> str:
    low = next((limit.ge for limit in field.metadata if hasattr(limit, "ge")), None)
    high = next((limit.le for limit in field.metadata if hasattr(limit, "le")), None)
    if low is not None and high is not None:
        return f"range: {low} to {high}"
    return f"min: {low}" if low is not None else f"max: {high}" if high is not None else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.default
    if default is None or default in ([], {}):
        return ""
    return f"default: {'on' if default is True else 'off' if default is False else default}"
