"""The thread that owns the device: takes batches from the queue and computes them."""

import logging
import threading
import time
from collections.abc import Callable

from flax_bigbird.server.batches import Batch, BatchQueue
from flax_bigbird.server.logs import describe

logger = logging.getLogger("flax_bigbird.server")

OnBatch = Callable[[Batch, float], None]


class DeviceThread(threading.Thread):
    """Computes one batch at a time.

    Between two slices of a batch, one shorter batch may pass it, so that a long
    document delays a short one by the time of a slice at most.

    Args:
      queue: The queue.
      slice_tokens: The maximum number of tokens of a batch that passes another one.
      on_batch: Called with each batch, and the seconds that it took.
    """

    def __init__(self, queue: BatchQueue, slice_tokens: int | None, on_batch: OnBatch):
        super().__init__(name="device", daemon=True)
        self._queue, self._slice_tokens, self._on_batch = queue, slice_tokens, on_batch

    def run(self) -> None:
        """Computes batches until the queue is closed and empty."""
        while True:
            batch = self._queue.take()
            if batch is None:
                return
            self._compute(batch, may_be_passed=self._slice_tokens is not None)

    def _compute(self, batch: Batch, *, may_be_passed: bool) -> float:
        """Computes a batch and delivers the outputs; returns the seconds, with those of others."""
        begun = time.monotonic()
        passed = 0.0
        entries = [entry for entry in batch.entries if not entry.receiver.is_cancelled]
        if not entries:
            return 0.0
        for entry in entries:
            entry.receiver.start()
        try:
            run = batch.group.begin([entry.payload for entry in entries], batch.size)
            while not run.is_done:
                run.advance()
                if run.is_done:
                    break
                if all(entry.receiver.is_cancelled for entry in entries):
                    return time.monotonic() - begun
                if may_be_passed:
                    passed += self._let_one_pass()
            outputs = run.outputs()
        except Exception as error:  # one broken batch must not end the server
            logger.error("a batch failed", extra={"fields": describe(error)})
            for entry in entries:
                entry.receiver.fail(error)
            return time.monotonic() - begun
        for entry, output in zip(entries, outputs, strict=True):
            entry.receiver.deliver(entry.slot, output)
        total = time.monotonic() - begun
        self._queue.measured(batch.tokens, total - passed)
        self._on_batch(batch, total - passed)
        return total

    def _let_one_pass(self) -> float:
        shorter = self._queue.take_shorter(self._slice_tokens or 0)
        return 0.0 if shorter is None else self._compute(shorter, may_be_passed=False)
