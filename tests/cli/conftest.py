"""Commands run in the tests' own process keep no compiled programs in the user's home."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture(autouse=True, scope="package")
def _cache_of_their_own(tmp_path_factory):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()  # the folder is opened once and kept open otherwise
