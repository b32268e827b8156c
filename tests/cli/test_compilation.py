"""The compilation cache of the commands: a second process compiles nothing again."""

import os
import subprocess
import sys

import jax
import pytest

from flax_bigbird.cli import compilation

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from flax_bigbird.attention import bigbird_pattern, block_sparse_attention
from flax_bigbird.cli.compilation import enable_compilation_cache

assert enable_compilation_cache() is not None
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
pattern = bigbird_pattern(12, 4, extra_first=1)
q = jnp.asarray(np.random.default_rng(0).normal(size=(1, 48, 2, 4)), jnp.float32)
attend = jax.jit(lambda q: block_sparse_attention(q, q, q, pattern) * 2)
print(hits.count("/jax/compilation_cache/cache_hits"), float(attend(q).sum()))
print(hits.count("/jax/compilation_cache/cache_hits"))
"""


def run(tmp_path) -> tuple[int, str]:
    """Cache hits of the compiled attention, and its result."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    first, last = done.stdout.split("\n")[:2]
    return int(last) - int(first.split()[0]), first.split()[1]


def test_a_second_process_loads_the_programs(tmp_path):
    """The program that calls the native kernel is loaded too, and computes the same."""
    cold_hits, cold = run(tmp_path)
    files = list((tmp_path / "flax-bigbird" / "compiled").rglob("*"))
    warm_hits, warm = run(tmp_path)
    assert files
    assert cold_hits == 0
    assert warm_hits > 0
    assert warm == cold


@pytest.fixture
def settings():
    """Restores the settings of JAX after the test."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_a_configured_directory_is_left_alone(settings, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert compilation.enable_compilation_cache() == tmp_path / "mine"
    configured = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    assert configured == str(tmp_path / "mine")


def test_without_a_writable_directory_there_is_no_cache(settings, tmp_path, monkeypatch):
    """A file is where the directory would be: commands run without a cache."""
    jax.config.update("jax_compilation_cache_dir", None)
    (tmp_path / "flax-bigbird").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compilation.enable_compilation_cache() is None
    configured = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    assert configured is None
