"""Whether the Pallas kernels are interpreted, so that they run on any device."""

import contextlib
from collections.abc import Iterator

_enabled = False


def is_enabled() -> bool:
    """Returns whether kernels that are traced now are interpreted."""
    return _enabled


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Runs "triton" and "mosaic_tpu" on this device while it is active: slowly, for tests.

    It is not safe with several threads.
    """
    global _enabled
    before, _enabled = _enabled, True
    try:
        yield
    finally:
        _enabled = before
