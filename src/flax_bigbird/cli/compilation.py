"""JAX's persistent compilation cache for the commands, so that a second run starts faster."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """Returns `$XDG_CACHE_HOME/flax-bigbird/compiled`, by default below `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "flax-bigbird" / "compiled"


def enable_compilation_cache() -> Path | None:
    """Enables the persistent compilation cache.

    A cache that `JAX_COMPILATION_CACHE_DIR` or the process has configured is not changed.

    Returns:
      The directory of the cache; None if it cannot be written, in which case programs are not
      cached.
    """
    import jax

    if configured := jax.config.values["jax_compilation_cache_dir"]:
        return Path(configured)
    directory = cache_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(directory, os.W_OK | os.X_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # Programs that compile faster than this (by default 1 s) are not cached.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    return directory
