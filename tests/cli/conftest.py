"""Commands run in the tests' own process keep no compiled programs in the user's home."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="session")
def _cache_of_their_own(tmp_path_factory):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    yield
    jax.config.update("jax_compilation_cache_dir", before)
