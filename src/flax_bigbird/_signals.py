"""Defers the signals that ask a process to stop, so that work can be saved first."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

# Ctrl-C; what schedulers, containers and `kill` send; and what SLURM's --signal usually sends.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)


class SignalDeferral:
    """Remembers the first signal that asked the process to stop; see `deferred_signals`.

    Attributes:
      received: The signal; None if there was none.
    """

    def __init__(self, message: str = ""):
        self.received: signal.Signals | None = None
        self._message = message

    def __call__(self) -> bool:
        """Returns whether a signal has arrived."""
        return self.received is not None

    @property
    def reason(self) -> str:
        """What stopped the process: "interrupted" by Ctrl-C, or "stopped by" another signal."""
        is_ctrl_c = self.received in (None, signal.SIGINT)
        return "interrupted" if is_ctrl_c else f"stopped by {self.received.name}"  # type: ignore

    @property
    def exit_code(self) -> int:
        """The exit code by shell convention: 128 plus the number of the signal."""
        return 128 + (signal.SIGINT if self.received is None else self.received)

    def _defer(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        for other in STOP_SIGNALS:
            if other != signal.SIGINT:  # the second one ends the process, wherever it is
                signal.signal(other, signal.SIG_DFL)
        if self._message:
            with contextlib.suppress(OSError):  # print() is not safe inside a signal handler
                text = f"\n{signal.Signals(number).name}: {self._message}\n"
                os.write(sys.__stderr__.fileno(), text.encode())  # type: ignore[union-attr]


@contextlib.contextmanager
def deferred_signals(message: str = "") -> Iterator[SignalDeferral]:
    """Defers Ctrl-C, SIGTERM and SIGUSR1, and yields an object that says whether one arrived.

        with deferred_signals() as is_stopped:
            predict_files(classify, ["new.jsonl"], "answers.jsonl", should_stop=is_stopped)

    SIGTERM is what schedulers, containers and `kill` send, and SIGUSR1 is what SLURM sends with
    `--signal=USR1@60`. A second signal ends the process at once. At the end, the former handlers
    are restored. A signal that is ignored stays ignored, and in another thread than the main one,
    where Python allows no handlers, all signals keep their effect.

    Without this, `KeyboardInterrupt` could be raised inside a callback (of JAX, or of an import)
    and be lost there, and SIGTERM would lose everything since the last save.

    Args:
      message: What is written to standard error, after the name of the signal, when one arrives.

    Yields:
      A `SignalDeferral`: a function that returns whether a signal arrived, with attributes that say
      which.
    """
    deferral = SignalDeferral(message)
    with kept_handlers() as previous:
        for number, handler in previous.items():
            if handler is not signal.SIG_IGN:  # such as SIGINT of a process in the background
                signal.signal(number, deferral._defer)
        yield deferral


@contextlib.contextmanager
def kept_handlers() -> Iterator[dict[int, Any]]:
    """Yields the handlers of `STOP_SIGNALS`, and restores them at the end, also in C.

    In another thread than the main one, where Python allows no handlers, there are none.
    """
    is_main = threading.current_thread() is threading.main_thread()
    previous = {number: signal.getsignal(number) for number in STOP_SIGNALS if is_main}
    try:
        yield previous
    finally:
        for number, handler in previous.items():
            if handler is not None:  # None is a handler that was not set from Python
                signal.signal(number, handler)
