"""`Ticket`: collects the outputs of one request from the device's thread for the event loop."""

import asyncio
import time
from typing import Any


class Ticket:
    """Waits for a number of outputs.

    The device calls `start`, `deliver` and `fail` from its thread; everything else belongs to the
    event loop.

    Attributes:
      is_cancelled: Whether nobody waits any longer, so that nothing more is to be computed.
      started_at: When the device began to work on it, by `time.monotonic`; None before.
    """

    def __init__(self, num_outputs: int):
        self.is_cancelled = False
        self.started_at: float | None = None
        self._outputs: list[Any] = [None] * num_outputs
        self._num_missing = num_outputs
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[list[Any]] = self._loop.create_future()
        if not num_outputs:
            self._future.set_result([])

    async def wait(self) -> list[Any]:
        """Returns the outputs; if the caller is cancelled, the rest is not computed."""
        try:
            return await self._future
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise

    def start(self) -> None:
        """Called when the device begins with a part of the request."""
        if self.started_at is None:
            self.started_at = time.monotonic()

    def deliver(self, slot: int, output: Any) -> None:
        """Takes one output."""
        self._outputs[slot] = output
        self._num_missing -= 1
        if not self._num_missing:
            self._call(self._finish, None)

    def fail(self, error: Exception) -> None:
        """Takes the error of a batch, after which the other parts are not computed."""
        self.is_cancelled = True
        self._call(self._finish, error)

    def _call(self, function: Any, *arguments: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _finish(self, error: Exception | None) -> None:
        if self._future.done():
            return
        if error is None:
            self._future.set_result(self._outputs)
        else:
            self._future.set_exception(error)
