"""Turns the values of a column into an Arrow array of the type that the column must have."""

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from flax_bigbird.data.errors import DataError

if TYPE_CHECKING:
    from pyarrow import Array, DataType
else:
    Array = DataType = Any

ColumnKind = Literal["text", "texts", "text_or_texts", "label", "labels", "answers", "any"]
"""What a column holds: a text, a list of texts, either of them, a label (a text, a number or a list
of them), a list of labels, the answers of SQuAD, or anything."""

_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
# An integer of more digits is no float, because some of them would be lost.
_FLOAT = re.compile(r"-?(?:(0|[1-9]\d{0,17})|(0|[1-9]\d*)(\.\d+|(\.\d+)?[eE][+-]?\d{1,2}))")
_ANSWERS = "answers must hold the lists text and answer_start, as in SQuAD"


class ColumnBuilder:
    """Collects the values of a column and converts them.

    Texts are not changed. The type of labels follows from all values: in JSON and Parquet
    it is that of the values; in CSV, they are integers or floats if all of them are written as
    such, without leading zeros, and otherwise texts.

    Attributes:
      type: The Arrow type of the values so far; None if they do not determine it yet.
    """

    def __init__(self, name: str, kind: ColumnKind, is_csv: bool):
        self.name, self._kind, self._is_csv = name, kind, is_csv
        self._values: list[Any] = []
        self._origins: list[str] = []
        self.type: DataType | None = _fixed_type(kind)

    def append(self, value: Any, origin: str) -> None:
        """Checks a value and adds it.

        Raises:
          DataError: if the value cannot be used. The message names its origin.
        """
        try:
            self._values.append(None if value is None else _CHECKS[self._kind](value))
        except _WrongValue as error:
            raise DataError(
                error.message.format(column=repr(self.name), origin=origin, got=_shorten(value))
            ) from None
        self._origins.append(origin)

    def flush(self) -> Array:
        """Returns the values as an array, and clears them. It may change `type`.

        Raises:
          DataError: if the values do not have one type. The message names the first that differs.
        """
        import pyarrow

        if self.type is None or self._kind in ("text_or_texts", "label", "labels", "any"):
            self.type = self._joint_type()
        values = self._values
        if self._is_csv and self._kind in ("label", "any"):
            convert: dict[DataType, Callable[[Any], Any]] = {
                pyarrow.int64(): int,
                pyarrow.float64(): float,
            }
            if self.type in convert:
                values = [v if v is None else convert[self.type](v) for v in values]
        array = pyarrow.array(values, self.type)
        self._values, self._origins = [], []
        return array

    def _joint_type(self) -> "DataType":
        import pyarrow

        known = pyarrow.null() if self.type is None else self.type
        if self._is_csv:
            return self._joint_csv_type(known)
        try:
            return _unify(known, _infer_type(self._values))
        except _TYPE_ERRORS as error:
            # Find the first value that differs.
            for index, value in enumerate(self._values):
                try:
                    known = _unify(known, _infer_type([value]))
                except _TYPE_ERRORS:
                    kind = _TYPE_NAMES.get(str(known), str(known))
                    others = "" if kind == "null" else f", and the rows before it hold {kind}"
                    raise DataError(
                        f"column {self.name!r} must hold values of one type, and integers of at "
                        f"most 64 bits; {self._origins[index]} holds {_shorten(value)}{others}: "
                        "correct it"
                    ) from error
            raise DataError(
                f"column {self.name!r} must hold values of one type; those from "
                f"{self._origins[0]} to {self._origins[-1]} have several ({error}): correct them"
            ) from error

    def _joint_csv_type(self, known: "DataType") -> "DataType":
        import pyarrow

        integer, number, text = pyarrow.int64(), pyarrow.float64(), pyarrow.string()
        if known == text or self._kind == "text_or_texts":
            return text
        values = [value for value in self._values if value is not None]
        if not values:
            return known
        if known != number and all(map(_INTEGER.fullmatch, values)):
            return integer
        return number if all(map(_FLOAT.fullmatch, values)) else text


def find_surrogate(text: str) -> str | None:
    """Returns the first lone surrogate of a text, which no encoding can hold; None without one."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"\\u{ord(text[error.start]):04x} at character {error.start + 1}"
    return None


class _WrongValue(Exception):
    """Raised for a value that its column must not hold.

    Attributes:
      message: The message, with the fields `{column}`, `{origin}` and `{got}`.
    """

    def __init__(self, message: str):
        super().__init__(message)
        self.message = message


def _check_text(value: Any) -> str:
    if not isinstance(value, str):
        raise _WrongValue(
            "column {column} must hold texts; {origin} holds {got}: make it a text, or name "
            "another column"
        )
    return _check_unicode(value)


def _check_unicode(text: str) -> str:
    if surrogate := find_surrogate(text):
        raise _WrongValue(
            "column {column} must hold Unicode text; {origin} holds the lone surrogate "
            + surrogate.replace("{", "{{").replace("}", "}}")
            + ": remove it, or write the whole pair"
        )
    return text


def _check_texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise _WrongValue(
            "column {column} must hold lists of texts; {origin} holds {got}: correct it, or name "
            "another column"
        )
    for index, item in enumerate(value, 1):
        if not isinstance(item, str):
            raise _WrongValue(
                "column {column} must hold lists of texts; {origin} holds "
                + f"{_brace(item)} as item {index}: correct it"
            )
        _check_unicode(item)
    return value


def _check_label(value: Any) -> Any:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str):
            _check_unicode(item)
        elif item is None or (isinstance(item, float) and not math.isfinite(item)):
            raise _WrongValue(
                "column {column} must hold names or finite numbers; {origin} holds {got}: correct "
                "it, or remove the row"
            )
        elif isinstance(item, int) and not -(2**63) <= item < 2**63:
            raise _WrongValue(
                "column {column} must hold integers of at most 64 bits; {origin} holds {got}: "
                "write it as a text"
            )
        elif not isinstance(item, int | float):
            raise _WrongValue(
                "column {column} must hold names, numbers, or lists of them; {origin} holds {got}: "
                "correct it, or name another column"
            )
    return value


def _check_labels(value: Any) -> Any:
    if not isinstance(value, list):
        raise _WrongValue(
            "column {column} must hold lists; {origin} holds {got}: correct it, or name another "
            "column"
        )
    return _check_label(value)


def answers_as_lists(value: Any) -> Any:
    """Returns a list of answers, as in SQuAD's own files, as one dictionary of lists.

    Other values are returned as they are. `answer_start` is left out if no answer has one.
    """
    if not isinstance(value, list) or not all(isinstance(answer, dict) for answer in value):
        return value
    if not all("text" in answer for answer in value):
        return value
    lists = {"text": [answer["text"] for answer in value]}
    if any("answer_start" in answer for answer in value):
        lists["answer_start"] = [answer.get("answer_start") for answer in value]
    return lists


def _check_answers(value: Any) -> dict[str, list[Any]]:
    value = answers_as_lists(value)
    if not isinstance(value, dict) or "text" not in value:
        raise _WrongValue(_ANSWERS + "; {origin} has {got}: correct it")
    texts, starts = (
        item if isinstance(item, list) else [item]
        for item in (value["text"], value.get("answer_start", []))
    )
    if "answer_start" not in value or starts == [None]:  # which evaluation does not need
        starts = []
    if not all(isinstance(text, str) for text in texts):
        raise _WrongValue(
            _ANSWERS + "; {origin} has a text that is not a string, {got}: correct it"
        )
    for text in texts:
        _check_unicode(text)
    is_whole = [
        isinstance(start, int | float) and not isinstance(start, bool) and start == start // 1
        for start in starts
    ]
    if not all(is_whole) or (starts and len(starts) != len(texts)):
        raise _WrongValue(
            _ANSWERS + ", one whole number for each text; {origin} has {got}: correct it"
        )
    return {"text": texts, "answer_start": [int(start) for start in starts]}


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "text": _check_text,
    "texts": _check_texts,
    "text_or_texts": lambda value: (_check_texts if isinstance(value, list) else _check_text)(
        value
    ),
    "label": _check_label,
    "labels": _check_labels,
    "answers": _check_answers,
    "any": lambda value: _check_unicode(value) if isinstance(value, str) else value,
}
_TYPE_ERRORS = (ValueError, TypeError, OverflowError, NotImplementedError)
_TYPE_NAMES = {"string": "texts", "int64": "integers", "double": "numbers", "bool": "booleans"}


def _fixed_type(kind: ColumnKind) -> "DataType | None":
    import pyarrow

    text = pyarrow.string()
    answers = [("text", pyarrow.list_(text)), ("answer_start", pyarrow.list_(pyarrow.int64()))]
    return {
        "text": text,
        "texts": pyarrow.list_(text),
        "answers": pyarrow.struct(answers),
    }.get(kind)


def _infer_type(values: Sequence[Any]) -> "DataType":
    import pyarrow

    kind = pyarrow.infer_type(values)
    pyarrow.array(values, kind)  # raises an error if the type cannot hold the values
    return kind


def _unify(first: "DataType", second: "DataType") -> "DataType":
    """Returns a type that holds the values of both types; only numeric types may differ."""
    import pyarrow

    if first.equals(second):
        return first
    types = [pyarrow.schema([("x", kind)]) for kind in (first, second)]
    return pyarrow.unify_schemas(types, promote_options="permissive").field("x").type


def _shorten(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _brace(value: Any) -> str:
    """Returns a shortened value, escaped for a format string."""
    return _shorten(value).replace("{", "{{").replace("}", "}}")
