"""Keeps compiled programs on disk: training tests compile the same small programs many times."""

import jax
import pytest

_SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_compilation_cache_dir": None,
}


@pytest.fixture(autouse=True, scope="session")
def _compilation_cache(tmp_path_factory):
    """A cache for this process, and another for the workers it starts, some of which are killed."""
    before = {name: getattr(jax.config, name) for name in _SETTINGS}
    folders = {kind: str(tmp_path_factory.mktemp(f"xla-{kind}")) for kind in ("own", "worker")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _SETTINGS.items():
            jax.config.update(name, value if value is not None else folders["own"])
            patch.setenv(name.upper(), str(value if value is not None else folders["worker"]))
        yield
    for name, value in before.items():
        jax.config.update(name, value)
