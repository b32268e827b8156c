"""Strict dtypes, and compiled programs on disk: many runs here compile the same small programs."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

_SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
_FOLDER = "jax_compilation_cache_dir"


@pytest.fixture(autouse=True, scope="package")
def _compilation_cache(tmp_path_factory):
    """A cache for this process, and another for the workers it starts, some of which are killed."""
    base = tmp_path_factory.getbasetemp()
    before = {name: getattr(jax.config, name) for name in (*_SETTINGS, _FOLDER)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _SETTINGS.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        jax.config.update(_FOLDER, str(base / "compiled"))
        patch.setenv(_FOLDER.upper(), str(base / "compiled-by-workers"))
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # otherwise, the directory stays open


@pytest.fixture(autouse=True)
def _strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield
