"""Typed options: one dataclass for flags, YAML and Python."""

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from flax_bigbird.tasks.errors import OptionError

LARGE = 2**53

DATA, MODEL, TASK = "Data", "Model", "Task"
STEPS, RUN = "Length and batches", "Run"


def option(default: Any, help: str, group: str, **more: Any) -> Any:
    """A field with its help text and the group it is shown in; mutable defaults are copied.

    Args:
      more: `choices`, the values allowed; `between`, the least and the largest.
    """
    metadata = {"help": help, "group": group, **more}
    if default is dataclasses.MISSING:
        return field(metadata=metadata)
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Checks every field against its annotation, `choices` and `between`.

    Raises:
      OptionError: a value that is not allowed.
    """

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            _check_type(spec.name, value, hints(type(self))[spec.name])
            choices, between = (spec.metadata.get(key) for key in ("choices", "between"))
            if choices and value is not None and value not in choices:
                raise OptionError(
                    f"{spec.name} must be one of {', '.join(choices)}; got {value!r}: "
                    f"{nearest(str(value), choices) or 'choose one of them'}"
                )
            if between and value is not None and not between[0] <= value <= between[1]:
                low, high = between
                limits = f"between {low:g} and {high:g}" if high < LARGE else f"at least {low:g}"
                raise OptionError(f"{spec.name} must be {limits}; got {value:g}: change it")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as YAML holds them."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class RowOptions(Options):
    """How rows become inputs of a model, in training, evaluation and prediction alike."""

    text_column: str = option("text", "Column of the text.", DATA)
    text_pair_column: str | None = option(None, "Column of a second text.", DATA)
    words_column: str = option("tokens", "Column of lists of words, for tags.", DATA)
    choices_column: str = option("choices", "Column of lists of texts to choose from.", DATA)

    whole_documents: bool = option(
        False,
        "Classification: documents longer than max_length are read in windows that cover them, "
        "their scores averaged; else they are cut.",
        TASK,
    )
    stride: int = option(
        256,
        "Question answering: tokens that neighbouring windows of a context share.",
        TASK,
        between=(0, LARGE),
    )
    longest_answer: int = option(
        30, "Question answering: pieces of an answer.", TASK, between=(1, LARGE)
    )

    max_length: int | None = option(
        None,
        "Tokens a document, longer ones are cut or windowed; default: the model's position table, "
        "4096 of a new one.",
        STEPS,
        between=(8, LARGE),
    )
    tokens_per_batch: int = option(
        16384,
        "Tokens a step, before accumulation: rows times the length of their bucket.",
        STEPS,
        between=(8, LARGE),
    )
    smallest_bucket: int = option(
        128,
        "Lengths are padded to this, or to its doubles up to max_length.",
        STEPS,
        between=(8, LARGE),
    )

    def with_length(self, positions: int) -> typing.Self:
        """These options with a `max_length`: `positions` where none was given."""
        return self if self.max_length else dataclasses.replace(self, max_length=positions)

    @property
    def length(self) -> int:
        """`max_length`, of options that have one."""
        assert self.max_length is not None, "with_length comes first"
        return self.max_length

    @property
    def buckets(self) -> tuple[int, ...]:
        """The lengths that documents are padded to, in tokens, ascending."""
        lengths, length = [], min(self.smallest_bucket, self.length)
        while length < self.length:
            lengths.append(length)
            length *= 2
        return (*lengths, self.length)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.whole_documents and self.text_pair_column:
            raise OptionError(
                "whole_documents reads windows of one text; got text_pair_column="
                f"{self.text_pair_column!r} beside it: leave one of them out"
            )
        if self.max_length is None:
            return
        if self.tokens_per_batch < self.max_length:
            raise OptionError(
                f"tokens_per_batch must hold one document of max_length={self.max_length} tokens; "
                f"got {self.tokens_per_batch}: raise it, or lower max_length"
            )


@dataclass(frozen=True, kw_only=True)
class AnswerOptions(RowOptions):
    """How rows become inputs, and what shapes an answer."""

    new_tokens: int = option(64, "Continuations: pieces at most.", TASK, between=(1, LARGE))
    temperature: float = option(
        0.0, "Continuations: of the draw; 0 takes the likeliest piece.", TASK, between=(0, 100)
    )
    seed: int = option(0, "Continuations: of the draw.", TASK, between=(0, 2**31 - 1))


def check_stride(options: RowOptions) -> None:
    """Raises where windows of a context would hardly move on."""
    if options.stride >= options.length // 2:
        raise OptionError(
            f"stride must be less than half of max_length={options.length}; got "
            f"{options.stride}: lower it"
        )


@functools.cache
def hints(kind: type) -> dict[str, Any]:
    """The annotations of a dataclass of options, resolved."""
    return typing.get_type_hints(kind)


def kinds(hint: Any) -> tuple[Any, ...]:
    """The types that an annotation allows."""
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def check_names(found: Iterable[str], known: Iterable[str], what: str, remedy: str) -> None:
    """Raises `OptionError` for a name that is not known, with the nearest that is."""
    known = sorted(known)
    for name in found:
        if name not in known:
            raise OptionError(f"{what}; got {name!r}: {nearest(name, known) or remedy}")


def nearest(name: str, known: Iterable[str]) -> str:
    """ "did you mean X?", or nothing."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {near[0]}?" if near else ""


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Raises unless `value` is what the annotation says; a whole number passes for a float."""
    for kind in kinds(hint):
        origin = typing.get_origin(kind) or kind
        inner = typing.get_args(kind)[0] if origin is list else None
        if origin is float and type(value) in (int, float):
            return
        fits = type(value) is origin  # True is no int here
        if fits and (inner is None or all(type(item) is inner for item in value)):
            return
    names = [getattr(kind, "__name__", str(kind)) for kind in kinds(hint) if kind is not type(None)]
    raise OptionError(f"{name} must be of type {' or '.join(names)}; got {value!r}: change it")
