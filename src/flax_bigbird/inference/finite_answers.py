"""Checks that the answers of a model are numbers."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from flax_bigbird.data.errors import DataError
from flax_bigbird.data.types import Arrays, Row


def check_finite(answer: Row, outputs: list[Arrays], row: Row) -> None:
    """Checks that an answer and the outputs of the model behind it are numbers.

    Raises:
      DataError: if an output is NaN, or a number of the answer is NaN or infinite.
    """
    has_nan = any(
        jnp.issubdtype(value.dtype, jnp.floating) and np.isnan(value).any()
        for output in outputs
        for value in map(np.asarray, output.values())
    )
    if has_nan or not _is_finite(answer):
        raise DataError(
            f"scores must be finite numbers; the model returned NaN or infinity for "
            f"{str(row)[:60]}: look for such values in the model's parameters, or set "
            "dtype=float32 if they are too large for another dtype"
        )


def _is_finite(value: Any) -> bool:
    """Returns whether all floats in nested dictionaries and lists are finite."""
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    if isinstance(value, np.ndarray):
        return bool(np.isfinite(value).all())
    return not isinstance(value, float) or math.isfinite(value)
