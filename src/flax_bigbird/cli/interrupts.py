"""Ctrl-C that comes when the work asks for it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def held_interrupt() -> Iterator[Callable[[], bool]]:
    """Holds Ctrl-C back: yields a function that says whether it was pressed; twice acts at once.

    Raised wherever it happens to come, it may fall into a callback (of JAX, of an import) and be
    lost there.
    """
    pressed: list[int] = []

    def hold(number: int, frame: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may set handlers
        return
    before = signal.signal(signal.SIGINT, hold)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
