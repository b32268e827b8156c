"""Runs windows in batches, while further rows are still being encoded."""

import collections
from collections.abc import Callable
from typing import Any

import jax

from flax_bigbird.data.batching import stack
from flax_bigbird.data.types import Arrays

# A batch is dispatched before the results of the one before it are fetched, so that the device has
# work at all times, but no more than two batches of outputs are on it.
MAX_RUNNING = 2


class WindowBatches:
    """Collects windows, and runs each batch as soon as it is full.

    Windows of one shape share batches, in their order. JAX returns before a batch is computed, so
    that the caller encodes the windows of the next batch in the meantime.
    """

    def __init__(
        self,
        step: Callable[[Arrays], Any],
        batch_size: Callable[[int], int],
        filled_size: Callable[[int, int], int],
    ):
        """Prepares for the windows of a chunk of rows.

        Args:
          step: Computes the outputs of a batch.
          batch_size: Returns the number of windows of a full batch for their length in tokens.
          filled_size: Returns the number of windows that a batch is filled up to, for the number
            that it has and that of a full batch.
        """
        self._step, self._batch_size, self._filled_size = step, batch_size, filled_size
        self._waiting: dict[Any, list[tuple[int, Arrays]]] = {}
        self._running: collections.deque[tuple[list[int], Any]] = collections.deque()
        self._outputs: list[Arrays] = []

    def append(self, arrays: Arrays) -> None:
        """Adds the arrays of a window, padded to their bucket length."""
        shape = tuple((name, value.shape) for name, value in sorted(arrays.items()))
        waiting = self._waiting.setdefault(shape, [])
        waiting.append((len(self._outputs), arrays))
        self._outputs.append({})
        if len(waiting) == self._batch_size(arrays["input_ids"].shape[-1]):
            self._run(self._waiting.pop(shape))

    def finish(self) -> list[Arrays]:
        """Runs the batches that are not full, and returns the outputs of all windows in order."""
        for shape in sorted(self._waiting):
            self._run(self._waiting[shape])
        while self._running:
            self._fetch()
        return self._outputs

    def _run(self, windows: list[tuple[int, Arrays]]) -> None:
        """Dispatches a batch, filled up so that each shape is compiled once."""
        examples = [arrays for _, arrays in windows]
        full = self._batch_size(examples[0]["input_ids"].shape[-1])
        examples += [examples[0]] * (self._filled_size(len(examples), full) - len(examples))
        self._running.append(([index for index, _ in windows], self._step(stack(examples))))
        if len(self._running) >= MAX_RUNNING:
            self._fetch()

    def _fetch(self) -> None:
        """Waits for the outputs of the batch that was dispatched first."""
        indices, outputs = self._running.popleft()
        fetched = jax.device_get(outputs)
        for slot, index in enumerate(indices):
            self._outputs[index] = {name: value[slot] for name, value in fetched.items()}
