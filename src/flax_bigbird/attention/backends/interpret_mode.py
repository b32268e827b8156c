"""Whether the accelerators' kernels are interpreted, so that they run on any device."""

import contextlib
from collections.abc import Iterator

_on = False


def on() -> bool:
    """Whether kernels that are traced now are interpreted."""
    return _on


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """In it "gpu" and "tpu" run on this device: slowly, for tests. Not for several threads."""
    global _on
    before, _on = _on, True
    try:
        yield
    finally:
        _on = before
