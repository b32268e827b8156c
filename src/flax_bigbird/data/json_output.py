"""Writes JSON that every parser reads: NaN and infinity, which JSON lacks, become null."""

import json
import math
from typing import Any


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Returns a value as JSON, in which null stands for NaN and infinity.

    Args:
      value: A value of dictionaries, lists, tuples, texts, numbers, booleans and None.
      indent: The number of spaces by which each level is indented; None writes a single line.
    """
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
