"""Flags made from a dataclass of options."""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import typer

from flax_bigbird.tasks.errors import OptionError
from flax_bigbird.tasks.options import hints

SHORT = {"output_dir": "-o", "output": "-o", "config": "-c"}


def with_flags(
    function: Callable[..., None],
    name: str,
    arguments: Sequence[inspect.Parameter],
    kind: type,
    without: Collection[str] = (),
) -> Callable[..., None]:
    """`function` with one flag an option of `kind`, as typer reads it; None means not given.

    Args:
      arguments: what comes before the flags.
      without: options that are no flags.
    """
    parameters = list(arguments)
    for spec in dataclasses.fields(kind):
        if spec.name in without:
            continue
        annotation, meta = hints(kind)[spec.name], spec.metadata
        text = meta["help"] + _choices(meta) + _default(spec)
        parameters.append(flag(spec.name, _cli_kind(annotation), text, meta["group"]))

    def wrapped(**values: Any) -> None:
        function(**values)

    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__doc__ = function.__doc__
    wrapped.__name__ = name
    return wrapped


def argument(name: str, kind: Any, text: str, metavar: str | None = None) -> inspect.Parameter:
    """A positional argument."""
    made = typer.Argument(help=text, metavar=metavar, show_default=False)
    return inspect.Parameter(
        name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        annotation=typing.Annotated[kind, made],
    )


def flag(name: str, kind: Any, text: str, group: str) -> inspect.Parameter:
    """A flag that need not be given."""
    dashed = name.replace("_", "-")
    names = [f"--{dashed}/--no-{dashed}" if kind == bool | None else f"--{dashed}"]
    if name in SHORT:
        names.append(SHORT[name])
    made = typer.Option(*names, help=text, rich_help_panel=group, show_default=False)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=typing.Annotated[kind, made],
    )


def given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were given, pairs as mappings.

    Raises:
      OptionError: a pair without a value.
    """
    found = {name: value for name, value in flags.items() if value not in (None, [])}
    if "model_config" in found:
        found["model_config"] = _pairs(found["model_config"])
    return found


def _pairs(texts: list[str]) -> dict[str, Any]:
    """`["num_hidden_layers=2"]` as a mapping, values as YAML reads them."""
    import yaml

    found = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise OptionError(f"model_config must be key=value; got {text!r}: add the value")
        found[key.strip()] = yaml.safe_load(value)
    return found


def _cli_kind(kind: Any) -> Any:
    """The type of a flag: texts for lists and mappings, else the option's own, or None."""
    if kind is list or typing.get_origin(kind) in (list, dict):
        return list[str] | None
    return kind if isinstance(kind, types.UnionType) else kind | None


def _choices(meta: Mapping[str, Any]) -> str:
    return f" One of {', '.join(meta['choices'])}." if meta.get("choices") else ""


def _default(spec: dataclasses.Field[Any]) -> str:
    value = spec.default
    if value is dataclasses.MISSING or value is None:
        return ""
    return f" [{'on' if value is True else 'off' if value is False else value}]"
