"""Checks the texts that are given to the calls of embedders."""

from collections.abc import Iterable, Iterator
from typing import Any

from flax_bigbird.data.errors import DataError
from flax_bigbird.inference.rows import is_single_row, iterate_items


def as_texts(value: Any) -> tuple[Any, bool]:
    """Returns an iterable of texts, and whether the value is a single text.

    Raises:
      DataError: if it is neither.
    """
    if isinstance(value, str):
        return [value], True
    if value is None or is_single_row(value) or not hasattr(value, "__iter__"):
        raise DataError(
            f"sentences must be a text or several; got {value!r}, of type {type(value).__name__}: "
            "give texts"
        )
    return iterate_items(value), False


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
