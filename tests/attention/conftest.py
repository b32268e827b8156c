"""Stricter than the rest: attention is plain arrays, so no dtype may widen by itself."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _strict_dtypes():
    with jax.numpy_dtype_promotion("strict"):
        yield
