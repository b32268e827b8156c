"""Commands that run in the process of the tests cache no programs in the user's home."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture(autouse=True, scope="package")
def _temporary_compilation_cache(tmp_path_factory):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()  # otherwise, the directory stays open
