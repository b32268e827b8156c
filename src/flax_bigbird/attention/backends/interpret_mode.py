"""A switch that interprets the Pallas kernels, so that they run on any device."""

import contextlib
from collections.abc import Iterator

_enabled = False


def is_enabled() -> bool:
    """Returns whether kernels that are traced now are interpreted."""
    return _enabled


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Interprets "triton" and "mosaic_tpu" on this device inside the `with` block.

    This is slow, meant for tests, and not thread-safe.
    """
    global _enabled
    previous, _enabled = _enabled, True
    try:
        yield
    finally:
        _enabled = previous
