"""The queue in front of the device: groups windows of one shape into batches.

The batch that runs next is the one that is due first. A batch is due a multiple of its own time
after its oldest entry arrived, so that short requests pass long ones, but no request starves: those
that arrive after a long one is due run after it.
"""

import bisect
import collections
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

MAX_BATCH_SIZE = 256
SIZE_RATIO = 4  # between the batch sizes that are compiled
MIN_FILLED_FRACTION = 0.75  # of a batch that is filled up rather than split
PATIENCE = 2.0  # times its own time, after which a batch is due
INITIAL_TOKENS_PER_SECOND = 5_000.0  # until the first batch is measured


def batch_sizes(length: int, max_batch_tokens: int) -> tuple[int, ...]:
    """Returns the batch sizes that windows of a length have, in ascending order.

    Args:
      length: The padded length of a window, in tokens.
      max_batch_tokens: The maximum number of tokens of a batch; a single window may have more.
    """
    largest = max(1, min(MAX_BATCH_SIZE, max_batch_tokens // length))
    sizes, size = [], 1
    while size < largest:
        sizes.append(size)
        size *= SIZE_RATIO
    return (*sizes, largest)


def choose_batch_size(num_waiting: int, sizes: Sequence[int]) -> int:
    """Returns the size of the next batch.

    It is the largest size that is full, or a larger one of which at most a quarter is padding.
    """
    larger = next((size for size in sizes if size > num_waiting), None)
    if larger is not None and num_waiting >= MIN_FILLED_FRACTION * larger:
        return larger
    return max(size for size in sizes if size <= num_waiting)


@runtime_checkable
class Receiver(Protocol):
    """Takes the results of the entries of one request; its methods are called by the device."""

    is_cancelled: bool

    def start(self) -> None: ...
    def deliver(self, slot: int, output: Any) -> None: ...
    def fail(self, error: Exception) -> None: ...


@runtime_checkable
class Run(Protocol):
    """A batch that is being computed."""

    @property
    def is_done(self) -> bool: ...
    def advance(self) -> None: ...
    def outputs(self) -> list[Any]: ...


@dataclasses.dataclass(frozen=True)
class Group:
    """What entries have in common that can be in one batch.

    Attributes:
      key: Identifies the group; groups of one key are equal.
      model: The name of the model, for metrics.
      tokens: The cost of an entry, in tokens.
      sizes: The batch sizes, in ascending order.
      begin: Begins the computation of a batch: the payloads of the entries, and the batch size.
    """

    key: Any
    model: str
    tokens: int
    sizes: tuple[int, ...]
    begin: Callable[[list[Any], int], Run]


@dataclasses.dataclass
class Entry:
    """One window, or another unit of work, that waits for the device."""

    receiver: Receiver
    slot: int
    payload: Any
    queued_at: float = 0.0


@dataclasses.dataclass(frozen=True)
class Batch:
    """Entries that are computed together, filled up to `size`."""

    group: Group
    entries: list[Entry]
    size: int

    @property
    def tokens(self) -> int:
        """The number of tokens of the batch, with padding."""
        return self.group.tokens * self.size


class BatchQueue:
    """A thread-safe queue of entries, from which batches are taken.

    Args:
      max_wait: The seconds that a batch which is not full waits for further entries.
      clock: Returns the time in seconds.
    """

    def __init__(self, max_wait: float, clock: Callable[[], float] = time.monotonic):
        self._max_wait, self._clock = max_wait, clock
        self._waiting: dict[Any, tuple[Group, collections.deque[Entry]]] = {}
        self._condition = threading.Condition()
        self._is_closed = False
        self.tokens = 0
        self.tokens_per_second = INITIAL_TOKENS_PER_SECOND
        self._is_measured = False

    def put(self, group: Group, entries: Sequence[Entry]) -> None:
        """Adds entries of one group."""
        with self._condition:
            now = self._clock()
            _, waiting = self._waiting.setdefault(group.key, (group, collections.deque()))
            for entry in entries:
                entry.queued_at = now
                waiting.append(entry)
            self.tokens += group.tokens * len(entries)
            self._condition.notify()

    def close(self) -> None:
        """Makes `take` return None once the queue is empty, and batches no longer wait."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()

    def take(self) -> Batch | None:
        """Waits for a batch, and returns it; None if the queue is closed and empty."""
        with self._condition:
            while True:
                self._drop_cancelled()
                batch = self._best_batch(None)
                if batch is not None:
                    return batch
                if self._is_closed and not self._waiting:
                    return None
                self._condition.wait(self._seconds_to_wait())

    def take_shorter(self, max_tokens: int) -> Batch | None:
        """Returns a batch of at most `max_tokens` tokens at once; None if there is none."""
        with self._condition:
            self._drop_cancelled()
            return self._best_batch(max_tokens)

    def measured(self, tokens: int, seconds: float) -> None:
        """Updates the measured speed after a batch."""
        if seconds > 0:
            weight = 0.1 if self._is_measured else 1.0
            self.tokens_per_second += weight * (tokens / seconds - self.tokens_per_second)
            self._is_measured = True

    def seconds_of_work(self) -> float:
        """Returns in about how many seconds everything that waits is computed."""
        return self._seconds(self.tokens)

    def seconds_before(self, group: Group) -> float:
        """Returns after about how many seconds the device would begin with a new entry.

        What is due later than the new entry does not count.
        """
        with self._condition:
            due = self._clock() + self._patience(group, group.sizes[-1])
            tokens = 0
            for other, waiting in self._waiting.values():
                latest = due - self._patience(other, other.sizes[-1])
                count = bisect.bisect_right(waiting, latest, key=lambda entry: entry.queued_at)
                tokens += other.tokens * count
        return self._seconds(tokens)

    def _patience(self, group: Group, size: int) -> float:
        """Returns after how many seconds in the queue a batch is due."""
        return PATIENCE * self._seconds(group.tokens * size)

    def _seconds(self, tokens: int) -> float:
        """Returns in about how many seconds the device computes tokens."""
        return tokens / max(self.tokens_per_second, 1.0)

    def _seconds_to_wait(self) -> float | None:
        if not self._waiting:
            return None
        oldest = min(waiting[0].queued_at for _, waiting in self._waiting.values())
        return max(0.0, oldest + self._max_wait - self._clock())

    def _best_batch(self, max_tokens: int | None) -> Batch | None:
        now = self._clock()
        best: tuple[float, Any] | None = None
        for key, (group, waiting) in self._waiting.items():
            size = choose_batch_size(len(waiting), self._sizes(group, max_tokens) or (0,))
            waited = now - waiting[0].queued_at
            is_formed = size == group.sizes[-1] or waited >= self._max_wait or self._is_closed
            if size and (is_formed or max_tokens is not None):
                due = waiting[0].queued_at + self._patience(group, size)
                if best is None or due < best[0]:
                    best = due, key
        return None if best is None else self._pop(best[1], max_tokens)

    @staticmethod
    def _sizes(group: Group, max_tokens: int | None) -> tuple[int, ...]:
        if max_tokens is None:
            return group.sizes
        return tuple(size for size in group.sizes if size * group.tokens <= max_tokens)

    def _pop(self, key: Any, max_tokens: int | None) -> Batch:
        group, waiting = self._waiting[key]
        size = choose_batch_size(len(waiting), self._sizes(group, max_tokens))
        entries = [waiting.popleft() for _ in range(min(size, len(waiting)))]
        self.tokens -= group.tokens * len(entries)
        if not waiting:
            del self._waiting[key]
        return Batch(group, entries, size)

    def _drop_cancelled(self) -> None:
        """Removes the entries whose client left, or whose time is up."""
        for key, (group, waiting) in list(self._waiting.items()):
            if any(entry.receiver.is_cancelled for entry in waiting):
                kept = [entry for entry in waiting if not entry.receiver.is_cancelled]
                self.tokens -= group.tokens * (len(waiting) - len(kept))
                waiting.clear()
                waiting.extend(kept)
            if not waiting:
                del self._waiting[key]
