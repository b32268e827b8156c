"""Random inputs that a failing test says how to repeat."""

import os
import secrets
import zlib

import numpy as np
import pytest

SEED = int(os.environ.get("TEST_SEED", secrets.randbits(32)))


@pytest.fixture
def rng(request) -> np.random.Generator:
    """A generator that differs from run to run and from test to test.

    A failing test prints the seed; `TEST_SEED=... pytest ...` repeats its inputs.
    """
    print(f"the random inputs are those of TEST_SEED={SEED}")
    return np.random.default_rng(
        np.random.SeedSequence([SEED, zlib.crc32(request.node.name.encode())])
    )
