"""Makes the reader of the goldens importable, and makes dtype promotion strict."""

import pathlib
import sys

import jax
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "goldens"))
pytest.register_assert_rewrite("parity_tools")


@pytest.fixture(autouse=True)
def _strict_dtype_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield
