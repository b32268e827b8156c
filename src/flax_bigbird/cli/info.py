"""`bigbird info`: versions, devices, and which attention implementations are available."""

import importlib.metadata
import platform

from flax_bigbird._version import __version__
from flax_bigbird.cli.compilation import enable_compilation_cache

_PACKAGES = ("jax", "jaxlib", "flax", "transformers", "safetensors", "sentencepiece")


def package_version(name: str) -> str:
    """Returns the installed version of a package, or "not installed"."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def lines() -> list[str]:
    """Returns the report, one fact per line. This initializes JAX's devices."""
    import jax

    from flax_bigbird.attention import (
        available_full_implementations,
        available_implementations,
    )

    versions = [f"flax-bigbird {__version__}", f"python {platform.python_version()}"]
    versions += [f"{name} {package_version(name)}" for name in _PACKAGES]
    devices = [f"device {device.id}: {device.device_kind}" for device in jax.devices()]
    implementations = {
        "attention": available_implementations(),
        "full attention": available_full_implementations(),
    }
    attention = [
        f"{kind} {name}: " + (f"not available: {reason}" if reason else "available")
        for kind, reasons in implementations.items()
        for name, reason in reasons.items()
    ]
    directory = enable_compilation_cache()
    cache = f"compiled programs: {directory or 'not cached (there is no writable directory)'}"
    return [*versions, *devices, *attention, cache]
