"""Tests the device's thread with work that takes no device: passing, failing, and leaving."""

import asyncio
import dataclasses
import logging

import pytest

from flax_bigbird.server.batches import Batch, Entry, Group
from flax_bigbird.server.engine import Engine, Unit
from flax_bigbird.server.errors import RequestError
from flax_bigbird.server.settings import ServerSettings


@dataclasses.dataclass
class Steps:
    """A run of some steps, which records when each begins."""

    log: list
    payloads: list
    remaining: int
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.remaining == 0

    def advance(self):
        self.log.append(self.payloads[0])
        if self.error is not None:
            raise self.error
        self.remaining -= 1

    def outputs(self):
        return [f"answer to {payload}" for payload in self.payloads]


class Device:
    """Groups whose batches are recorded in the order in which they run."""

    def __init__(self, slice_tokens: int | None = 64, **settings):
        self.log: list = []
        self.engine = Engine(ServerSettings(**settings), slice_tokens, lambda batch, seconds: None)

    def unit(self, name: str, tokens: int, steps: int = 1, error: Exception | None = None) -> Unit:
        group = Group(name, "model", tokens, (1,), lambda p, size: Steps(self.log, p, steps, error))
        return Unit(group, name)

    def run(self, work) -> None:
        """Runs a coroutine function with the engine, which starts once it has queued its work."""

        async def with_engine():
            task = asyncio.ensure_future(work())
            await asyncio.sleep(0.01)
            self.engine.start()
            return await task

        try:
            asyncio.run(with_engine())
        finally:
            self.engine.stop()


@pytest.mark.parametrize("slice_tokens", [None, 64])
def test_passing_is_limited_to_one_batch_per_slice(slice_tokens):
    """The long batch runs first; each of its pauses lets one short batch pass, if it has any."""
    device = Device(slice_tokens)
    queue = device.engine.queue
    long, shorts = device.unit("long", 1024, steps=4), [device.unit(f"s{n}", 64) for n in range(5)]

    class Waiter:
        is_cancelled = False

        def start(self): ...
        def deliver(self, slot, output): ...
        def fail(self, error): ...

    for unit in shorts:
        queue.put(unit.group, [Entry(Waiter(), 0, unit.payload)])
    batch = Batch(long.group, [Entry(Waiter(), 0, "long")], 1)
    device.engine._device._compute(batch, may_be_passed=slice_tokens is not None)
    passed = ["long", "s0", "long", "s1", "long", "s2", "long"]
    assert device.log == (passed if slice_tokens else ["long"] * 4)


def test_a_batch_that_fails_fails_its_requests_only(caplog):
    device = Device()

    async def work():
        with pytest.raises(RequestError, match="the computation failed") as caught:
            await device.engine.compute([device.unit("bad", 8, error=ValueError("secret"))])
        assert caught.value.status == 424
        assert await device.engine.compute([device.unit("good", 8)]) == ["answer to good"]

    logging.getLogger("flax_bigbird.server").propagate = True
    device.run(work)
    assert "a batch failed" in caplog.text
    assert "secret" not in caplog.text
    assert "advance" in caplog.records[0].fields["where"]


def test_times_and_limits():
    device = Device(request_timeout=0.1, max_queue_tokens=100)

    async def work():
        with pytest.raises(RequestError, match="at most 100 tokens") as large:
            await device.engine.compute([device.unit("large", 101)])
        with pytest.raises(RequestError, match="the device was busy") as late:
            await device.engine.compute([device.unit("late", 60)])
        assert (large.value.status, late.value.status) == (413, 503)
        assert late.value.retry_after
        waiting = asyncio.ensure_future(device.engine.compute([device.unit("first", 60)]))
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="wait for the device") as full:
            await device.engine.compute([device.unit("second", 60)])
        assert (full.value.status, full.value.kind) == (429, "overloaded")
        waiting.cancel()

    async def without_device():
        await work()

    asyncio.run(without_device())


@pytest.mark.parametrize(("seconds_of_computation", "status"), [(0.05, 503), (0.8, 504)])
def test_a_late_request_says_whether_it_waited_or_was_computed(seconds_of_computation, status):
    device = Device(request_timeout=1)
    unit = device.unit("late", 8, steps=1000)

    async def work():
        computed = asyncio.ensure_future(device.engine.compute([unit]))
        await asyncio.sleep(1 - seconds_of_computation)
        batch = device.engine.queue.take()
        assert batch is not None
        batch.entries[0].receiver.start()  # and never delivers
        with pytest.raises(RequestError) as caught:
            await computed
        assert caught.value.status == status

    asyncio.run(work())


def test_a_request_that_would_wait_too_long_is_refused_at_once():
    device = Device(request_timeout=10)
    device.engine.queue.measured(100, 1.0)

    async def work():
        waiting = asyncio.ensure_future(device.engine.compute([device.unit("first", 900)]))
        await asyncio.sleep(0)
        more = asyncio.ensure_future(device.engine.compute([device.unit("second", 900)]))
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="about 18 s of work wait") as refused:
            await device.engine.compute([device.unit("third", 900)])
        assert (refused.value.status, refused.value.retry_after) == (429, 9)
        waiting.cancel()
        more.cancel()

    asyncio.run(work())


def test_requests_are_counted_and_refused_when_the_server_ends():
    engine = Device(max_concurrent_requests=1).engine
    with engine.admitted():
        assert engine.num_requests == 1
        with pytest.raises(RequestError, match="works on 1 request"), engine.admitted():
            pass
    assert engine.num_requests == 0
    engine.is_draining = True
    with pytest.raises(RequestError, match="shutting down"), engine.admitted():
        pass
