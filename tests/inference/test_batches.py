"""Batches of windows: what they hold, and when they are dispatched and fetched."""

import numpy as np
import pytest

from flax_bigbird.inference.batches import MAX_RUNNING, WindowBatches


class Device:
    """Doubles the values of a batch when they are fetched, and records what happens."""

    def __init__(self):
        self.events: list[str] = []
        self.sizes: list[tuple[int, ...]] = []
        self.num_running = 0

    def step(self, batch):
        self.events.append("dispatch")
        self.sizes.append(batch["input_ids"].shape)
        self.num_running += 1
        assert self.num_running <= MAX_RUNNING
        return {"doubled": Output(self, 2 * batch["input_ids"])}


class Output:
    def __init__(self, device, values):
        self.device, self.values = device, values

    def __array__(self, dtype=None, copy=None):
        self.device.events.append("fetch")
        self.device.num_running -= 1
        return self.values


@pytest.fixture
def device(monkeypatch):
    def device_get(outputs):
        return {name: np.asarray(value) for name, value in outputs.items()}

    monkeypatch.setattr("flax_bigbird.inference.batches.jax.device_get", device_get)
    return Device()


def append(batches, value, length):
    batches.append({"input_ids": np.full(length, value, np.int32)})


def test_outputs_have_the_order_of_the_windows(device):
    batches = WindowBatches(device.step, lambda length: 8 // length, lambda count, full: full)
    lengths = [2, 4, 2, 2, 4, 8, 2, 2, 4]
    for value, length in enumerate(lengths):
        append(batches, value, length)
    outputs = batches.finish()
    for value, (length, output) in enumerate(zip(lengths, outputs, strict=True)):
        np.testing.assert_array_equal(output["doubled"], np.full(length, 2 * value))
    # Three full batches, and one for each of the lengths of the windows that are left over.
    assert device.sizes == [(2, 4), (1, 8), (4, 2), (4, 2), (2, 4)]


def test_the_last_batch_is_filled_up(device):
    batches = WindowBatches(device.step, lambda length: 8, lambda count, full: 4)
    for value in range(3):
        append(batches, value, 2)
    assert [output["doubled"][0] for output in batches.finish()] == [0, 2, 4]
    assert device.sizes == [(4, 2)]


def test_a_batch_is_dispatched_before_the_one_before_it_is_fetched(device):
    """Rows are encoded between the dispatch of a batch and the fetch of its outputs."""
    batches = WindowBatches(device.step, lambda length: 2, lambda count, full: full)
    for value in range(6):
        device.events.append("encode")
        append(batches, value, 2)
    batches.finish()
    assert device.events == [
        *("encode", "encode", "dispatch"),
        *("encode", "encode", "dispatch", "fetch"),
        *("encode", "encode", "dispatch", "fetch"),
        "fetch",
    ]
