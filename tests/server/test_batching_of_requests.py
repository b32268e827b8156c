"""Tests which batches the queue forms, and in which order."""

import dataclasses

import numpy as np
import pytest

from flax_bigbird.server.batches import (
    BatchQueue,
    Entry,
    Group,
    batch_sizes,
    choose_batch_size,
)


class Clock:
    """A clock that tests set."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclasses.dataclass
class Waiter:
    """A receiver of which only the cancellation matters."""

    is_cancelled: bool = False

    def start(self):
        raise AssertionError("the queue starts nothing")

    def deliver(self, slot, output):
        raise AssertionError("the queue delivers nothing")

    def fail(self, error):
        raise AssertionError("the queue fails nothing")


def begin(payloads, size):
    raise AssertionError("the queue computes nothing")


def group(tokens: int, sizes: tuple[int, ...] = (1, 4)) -> Group:
    return Group(tokens, "model", tokens, sizes, begin)


def entries(count: int, waiter: Waiter | None = None) -> list[Entry]:
    return [Entry(waiter or Waiter(), slot, slot) for slot in range(count)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock) -> BatchQueue:
    return BatchQueue(0.003, clock)


@pytest.mark.parametrize(
    ("length", "max_tokens", "sizes"),
    [(128, 4096, (1, 4, 16, 32)), (512, 2048, (1, 4)), (4096, 4096, (1,)), (4096, 100, (1,))],
)
def test_batch_sizes(length, max_tokens, sizes):
    assert batch_sizes(length, max_tokens) == sizes


def test_batches_are_filled_up_only_if_little_is_wasted():
    sizes = (1, 4, 16)
    chosen = {n: choose_batch_size(n, sizes) for n in (1, 2, 3, 4, 11, 12, 16, 40)}
    assert chosen == {1: 1, 2: 1, 3: 4, 4: 4, 11: 4, 12: 16, 16: 16, 40: 16}


def test_a_full_batch_is_taken_at_once_and_a_part_of_one_waits(queue, clock):
    queue.put(group(64), entries(5))
    batch = queue.take()
    assert [entry.slot for entry in batch.entries] == [0, 1, 2, 3]
    assert batch.tokens == 256
    assert queue.tokens == 64
    assert queue._best_batch(None) is None  # the fifth may get company
    clock.now += 0.003
    assert [entry.slot for entry in queue.take().entries] == [4]
    assert queue.tokens == 0


def test_short_requests_pass_long_ones_that_have_waited_as_long(queue, clock):
    queue.put(group(4096, (1,)), entries(1))
    queue.put(group(128, (1,)), entries(1))
    assert [queue.take().group.tokens for _ in range(2)] == [128, 4096]


def test_no_request_starves(queue, clock):
    """A long request runs in time, although more short ones arrive than can be computed."""
    queue.put(group(4096, (1,)), entries(1))
    cost = 128 / queue.tokens_per_second
    for _ in range(200):
        queue.put(group(128, (1,)), entries(2))
        clock.now += cost
        if queue.take().group.tokens == 4096:
            break
    else:
        pytest.fail("the long request was not taken")
    # It is due after twice its own time, when twice as many short ones wait as were computed.
    assert clock.now <= 4 * 4096 / queue.tokens_per_second


def test_the_wait_of_a_request_is_for_what_is_due_before_it(queue, clock):
    """A short request does not wait for long ones that arrived just before it."""
    queue.measured(1000, 1.0)
    short, long = group(128, (1,)), group(4096, (1,))
    assert queue.seconds_before(long) == 0
    queue.put(long, entries(10))
    assert queue.seconds_before(short) == 0
    assert queue.seconds_before(long) == pytest.approx(40.96)
    clock.now += 2 * (4.096 - 0.128)  # now they are due
    assert queue.seconds_before(short) == pytest.approx(40.96)


def test_only_short_batches_pass_a_running_one(queue, clock):
    queue.put(group(4096, (1,)), entries(1))
    assert queue.take_shorter(512) is None
    queue.put(group(128, (1, 4, 16)), entries(20))
    batch = queue.take_shorter(512)
    assert (batch.size, batch.tokens) == (4, 512)


def test_the_requests_of_clients_that_left_are_not_computed(queue, clock):
    gone, present = Waiter(), Waiter()
    queue.put(group(64, (1,)), entries(2, gone))
    queue.put(group(64, (1,)), entries(1, present))
    gone.is_cancelled = True
    assert queue.take().entries[0].receiver is present
    assert queue.tokens == 0
    queue.close()
    assert queue.take() is None


def test_a_closed_queue_is_emptied_without_waiting(queue, clock):
    queue.put(group(64), entries(2))
    queue.close()
    assert [len(queue.take().entries) for _ in range(2)] == [1, 1]
    assert queue.take() is None


def test_every_entry_is_taken_once(clock):
    """Whatever arrives when, no entry is lost or taken twice."""
    seed = np.random.SeedSequence().entropy
    generator = np.random.default_rng(seed)
    queue = BatchQueue(0.003, clock)
    groups = [group(tokens, batch_sizes(tokens, 256)) for tokens in (16, 64, 256)]
    waiting, taken, number = 0, [], 0
    for _ in range(300):
        clock.now += float(generator.exponential(0.002))
        count = int(generator.integers(0, 4))
        arrived = [Entry(Waiter(), number + i, None) for i in range(count)]
        number += count
        if arrived:
            queue.put(groups[generator.integers(3)], arrived)
        waiting += count
        batch = queue.take_shorter(int(generator.choice([16, 64, 256])))
        if batch is not None:
            taken += [entry.slot for entry in batch.entries]
    queue.close()
    while (batch := queue.take()) is not None:
        taken += [entry.slot for entry in batch.entries]
    assert sorted(taken) == list(range(number)), f"seed {seed}"
    assert queue.tokens == 0
