"""Defers Ctrl-C until the current step is done."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Defers Ctrl-C, and yields a function that returns whether it was pressed.

    A second Ctrl-C takes effect at once. Without this, KeyboardInterrupt could be raised inside a
    callback (of JAX, or of an import) and be lost there.
    """
    pressed: list[int] = []

    def defer(signal_number: int, frame: FrameType | None) -> None:
        del frame
        if pressed:
            raise KeyboardInterrupt
        pressed.append(signal_number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # Only the main thread may set signal handlers.
        return
    previous = signal.signal(signal.SIGINT, defer)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, previous)
