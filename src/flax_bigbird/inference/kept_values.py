"""The columns of the input that an output repeats, with values that JSON can hold."""

import datetime
import decimal
import math
from collections.abc import Container, Sequence
from typing import Any

from flax_bigbird.data.columns import find_surrogate
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.readers.rows import FileRow
from flax_bigbird.data.types import Row

MAX_DEPTH = 32
"""How deeply lists and objects may be nested in each other. Readers of Parquet have such limits."""


def kept_values(row: FileRow, keep: Sequence[str]) -> Row:
    """Returns the values of the kept columns of a row, see `json_value`."""
    return {name: json_value(row.get(name), name, row.origin) for name in keep}


def without_clashes(values: Row, kept: Container[str]) -> Row:
    """Returns values with the prefix `predicted_` before the names that kept columns have."""
    return {f"predicted_{k}" if k in kept else k: value for k, value in values.items()}


def json_value(value: Any, column: str, origin: str, depth: int = 0) -> Any:
    """Returns a value as JSON can represent it.

    Dates and times become ISO 8601 texts, decimals become texts, and NaN and infinity become null.

    Args:
      value: The value, as a reader yields it.
      column: The name of its column, for messages.
      origin: The file and line of its row, for messages.
      depth: The number of lists and objects that the value is in.

    Raises:
      DataError: if JSON cannot hold the value, or if it is nested more than `MAX_DEPTH` deep.
    """
    if depth > MAX_DEPTH:
        raise DataError(
            f"kept columns must hold lists and objects that are nested at most {MAX_DEPTH} deep; "
            f"those of {origin} in column {column!r} are deeper: leave it out of keep"
        )
    if isinstance(value, str):
        if surrogate := find_surrogate(value):
            raise DataError(
                f"kept columns must hold Unicode text; {origin} holds the lone surrogate "
                f"{surrogate} in column {column!r}: correct it, or leave the column out of keep"
            )
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, list | tuple):
        return [json_value(item, column, origin, depth + 1) for item in value]
    if isinstance(value, dict):
        return {
            json_value(str(key), column, origin): json_value(item, column, origin, depth + 1)
            for key, item in value.items()
        }
    raise DataError(
        "kept columns must hold texts, numbers, booleans, dates, or lists and objects of them; "
        f"{origin} holds {type(value).__name__} in column {column!r}: leave it out of keep"
    )
