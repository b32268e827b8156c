"""Checks the arguments that are given to the calls of embedders and rerankers."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.inference.rows import is_single_row, iterate_items


def as_texts(value: Any) -> tuple[Any, bool]:
    """Returns an iterable of texts, and whether the value is a single text.

    Raises:
      DataError: if it is neither.
    """
    if isinstance(value, str):
        return [value], True
    is_scalar = isinstance(value, bytes | bytearray) or getattr(value, "ndim", 1) == 0
    if is_scalar or is_single_row(value) or not hasattr(value, "__iter__"):
        raise DataError(
            f"sentences must be a text or several; got {value!r}, of type {type(value).__name__}: "
            "give texts"
        )
    return iterate_items(value), False


def check_count(name: str, value: Any) -> None:
    """Raises `OptionError` unless an argument is an integer of at least 1."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise OptionError(f"must be an integer; got {value!r}: give one of at least 1", option=name)
    if value < 1:
        raise OptionError(f"must be at least 1; got {value!r}: raise it", option=name)


def checked_texts(texts: Iterable[Any]) -> Iterator[str]:
    """Yields texts.

    Raises:
      DataError: if an item is not a text. The message gives its index.
    """
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(
                f"sentences must be texts; that at index {index} is {str(text)[:60]!r}, of type "
                f"{type(text).__name__}: convert it to a text, or leave it out"
            )
        yield str(text)
