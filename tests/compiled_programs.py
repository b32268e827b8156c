"""Keeps compiled programs on disk for tests that compile the same small programs many times."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

_FOLDER = "jax_compilation_cache_dir"
_SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


@contextlib.contextmanager
def kept_on_disk(folder: Path) -> Iterator[None]:
    """Turns JAX's compilation cache on for this process, and for the processes it starts.

    Those have a cache of their own, because some of them are killed.
    """
    before = {name: getattr(jax.config, name) for name in (*_SETTINGS, _FOLDER)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _SETTINGS.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        jax.config.update(_FOLDER, str(folder / "compiled"))
        patch.setenv(_FOLDER.upper(), str(folder / "compiled-by-workers"))
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # otherwise, the directory stays open
