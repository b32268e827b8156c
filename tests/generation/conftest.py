"""Strict dtype promotion: no operation may change a dtype implicitly."""

import jax
import pytest


@pytest.fixture
def standard_dtype_promotion():
    """Turns strict promotion off where other libraries promote: Flax in half precision, optax."""


@pytest.fixture(autouse=True)
def _strict_dtype_promotion(request):
    is_strict = "standard_dtype_promotion" not in request.fixturenames
    with jax.numpy_dtype_promotion("strict" if is_strict else "standard"):
        yield
