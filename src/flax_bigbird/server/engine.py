"""The engine: threads for tokenization, the queue, and the thread of the device."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from flax_bigbird._messages import pluralize
from flax_bigbird.server.batches import BatchQueue, Entry, Group
from flax_bigbird.server.device import DeviceThread, OnBatch
from flax_bigbird.server.errors import RequestError, too_large
from flax_bigbird.server.settings import ServerSettings
from flax_bigbird.server.tickets import Ticket

T = TypeVar("T")

_request_deadline: contextvars.ContextVar[float] = contextvars.ContextVar("request_deadline")
"""When the request of the running task is given up, by the clock of the event loop."""


class Unit(NamedTuple):
    """One piece of work for the device: a window, for example."""

    group: Group
    payload: Any


class Engine:
    """Computes units of work, with limits on how many wait.

    Args:
      settings: The options of the server.
      slice_tokens: The number of tokens after whose work a batch lets others pass.
      on_batch: Called after each batch, with the batch and its seconds.
    """

    def __init__(self, settings: ServerSettings, slice_tokens: int | None, on_batch: OnBatch):
        self._settings = settings
        self.queue = BatchQueue(settings.max_wait_ms / 1000)
        self._device = DeviceThread(self.queue, slice_tokens, on_batch)
        self._pool = concurrent.futures.ThreadPoolExecutor(
            settings.num_tokenization_workers, "tokenizer"
        )
        # Compilation takes seconds, for which no request that needs none has to wait.
        self._compiler = concurrent.futures.ThreadPoolExecutor(1, "compiler")
        self.num_requests = 0
        self.is_draining = False

    def start(self) -> None:
        """Starts the thread of the device."""
        self._device.start()

    def stop(self) -> None:
        """Finishes everything that waits, and ends the threads."""
        self.queue.close()
        if self._device.is_alive():
            self._device.join()
        self._pool.shutdown()
        self._compiler.shutdown()

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a request while it is worked on.

        Raises:
          RequestError: if too many are, or if the server is about to end.
        """
        if self.is_draining:
            raise RequestError("unhealthy", "the server is shutting down", retry_after=1)
        if self.num_requests >= self._settings.max_concurrent_requests:
            raise self._overloaded(f"the server works on {pluralize(self.num_requests, 'request')}")
        self.num_requests += 1
        try:
            yield
        finally:
            self.num_requests -= 1

    @contextlib.contextmanager
    def time_limit(self) -> Iterator[None]:
        """Gives `request_timeout` to all that the block awaits of this engine, together."""
        seconds = self._settings.request_timeout
        token = _request_deadline.set(asyncio.get_running_loop().time() + seconds)
        try:
            yield
        finally:
            _request_deadline.reset(token)

    async def in_pool(self, function: Callable[..., T], *arguments: Any) -> T:
        """Calls a function in a thread, outside of the event loop.

        Raises:
          RequestError: if the time is up. The function is then not called any more, unless it has
            begun.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(self._deadline()):
                return await loop.run_in_executor(self._pool, function, *arguments)
        except TimeoutError:
            raise self._unfinished("the threads that read texts were busy") from None

    async def in_compiler(self, function: Callable[..., T], *arguments: Any) -> T:
        """Calls a function that compiles a program in a thread of its own."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._compiler, function, *arguments)

    async def compute(self, units: Sequence[Unit]) -> list[Any]:
        """Returns the output of each unit.

        Raises:
          RequestError: if the queue is full, the time is up, or the device fails.
        """
        deadline = self._deadline()
        tokens = sum(unit.group.tokens for unit in units)
        limit = self._settings.max_queue_tokens
        if tokens > limit:
            raise too_large(
                f"a request must have at most {limit:,} tokens, with padding; got {tokens:,}: "
                "divide it"
            )
        if self.queue.tokens + tokens > limit:
            raise self._overloaded(
                pluralize(
                    self.queue.tokens, "token waits for the device", "tokens wait for the device"
                )
            )
        ticket = Ticket(len(units))
        by_group: dict[Any, tuple[Group, list[Entry]]] = {}
        for slot, unit in enumerate(units):
            _, entries = by_group.setdefault(unit.group.key, (unit.group, []))
            entries.append(Entry(ticket, slot, unit.payload))
        self._check_wait([group for group, _ in by_group.values()])
        for group, entries in by_group.values():
            self.queue.put(group, entries)
        try:
            async with asyncio.timeout_at(deadline):
                return await ticket.wait()
        except TimeoutError:
            raise self._timed_out(ticket) from None
        except (RuntimeError, ValueError) as error:  # of XLA and JAX
            raise RequestError("backend", "the computation failed; see the server's log") from error

    def _check_wait(self, groups: Sequence[Group]) -> None:
        """Raises `RequestError` for work with which the device would not begin in time."""
        seconds = max(map(self.queue.seconds_before, groups), default=0.0)
        if seconds > max(0.0, self._deadline() - asyncio.get_running_loop().time()):
            raise self._overloaded(f"about {seconds:.0f} s of work wait for the device")

    def retry_after(self) -> int:
        """Returns after how many seconds a client should try again."""
        return max(1, math.ceil(self.queue.seconds_of_work() / 2))

    def _overloaded(self, state: str) -> RequestError:
        return RequestError(
            "overloaded", f"the model is overloaded: {state}", retry_after=self.retry_after()
        )

    def _timed_out(self, ticket: Ticket) -> RequestError:
        seconds = self._settings.request_timeout
        begun = ticket.started_at
        if begun is not None and time.monotonic() - begun > seconds / 2:  # it waited for less
            return RequestError("timeout", f"the computation took more than {seconds:g} s")
        return self._unfinished("the device was busy")

    def _unfinished(self, reason: str) -> RequestError:
        seconds = self._settings.request_timeout
        return RequestError(
            "overloaded",
            f"{reason}: the request was not finished within {seconds:g} s",
            status=503,
            retry_after=self.retry_after(),
        )

    def _deadline(self) -> float:
        """Returns when the present request is given up, by the clock of the event loop."""
        now = asyncio.get_running_loop().time()
        return _request_deadline.get(now + self._settings.request_timeout)
