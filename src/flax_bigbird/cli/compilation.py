"""JAX's persistent compilation cache, for commands: a second run compiles nothing again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/flax-bigbird/compiled`, by default under `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "flax-bigbird" / "compiled"


def keep_compiled_programs() -> Path | None:
    """Turns the cache on, and returns its folder.

    `JAX_COMPILATION_CACHE_DIR`, or a folder that the process has set, is left alone. None where
    the folder cannot be written: then programs are compiled again, as without a cache.
    """
    import jax

    if chosen := jax.config.values["jax_compilation_cache_dir"]:
        return Path(chosen)
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK | os.X_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Programs that compile for less than this (by default a second) are not worth a file.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    return folder
