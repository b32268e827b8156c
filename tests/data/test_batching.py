"""Buckets, and the order, randomness, and state of the batches of training and evaluation."""

import numpy as np
import pytest

datasets = pytest.importorskip("datasets")

from flax_bigbird.data.batching import (  # noqa: E402
    assign_buckets,
    batches_per_epoch,
    evaluation_batches,
    padding_fraction,
    training_batches,
)

LENGTHS = [3, 8, 9, 16, 17, 30, 5, 12, 40, 64, 2]
BUCKET_LENGTHS = (8, 16, 64)


@pytest.fixture(scope="module")
def examples():
    ids = [[index] * length for index, length in enumerate(LENGTHS)]
    return datasets.Dataset.from_dict({"input_ids": ids, "length": LENGTHS})


def collate(example, length, generator):
    ids = np.zeros(length, np.int32)
    ids[: len(example["input_ids"])] = example["input_ids"]
    index = np.array(example["input_ids"][0], np.int32)
    return {"input_ids": ids, "index": index, "random": np.array(generator.random())}


def buckets(tokens_per_batch=64):
    return assign_buckets(LENGTHS, BUCKET_LENGTHS, tokens_per_batch)


def test_each_example_is_in_the_smallest_bucket_that_holds_it():
    lengths = {bucket.length: [LENGTHS[i] for i in bucket.indices] for bucket in buckets()}
    assert lengths == {8: [3, 8, 5, 2], 16: [9, 16, 12], 64: [17, 30, 40, 64]}
    assert [bucket.batch_size for bucket in buckets()] == [8, 4, 1]


def test_padding_fraction():
    padded = 4 * 8 + 3 * 16 + 4 * 64
    assert padding_fraction(LENGTHS, buckets()) == 1 - sum(LENGTHS) / padded


@pytest.fixture
def stream(examples):
    """A function that returns the iterator of training batches, and the first of them."""

    def take(seed=0, count=24, state=None):
        batches = iter(training_batches(examples, buckets(16), collate, seed))
        if state is not None:
            batches.set_state(state)
        return batches, [next(batches) for _ in range(count)]

    return take


def indices(batches):
    return [index for batch in batches for index in batch["index"]]


def test_every_example_occurs_equally_often(stream):
    """In three epochs, however long an example is."""
    count = round(3 * batches_per_epoch(buckets(16)))
    _, batches = stream(count=count)
    occurrences = np.bincount(indices(batches), minlength=len(LENGTHS))
    assert occurrences.min() >= 2
    assert occurrences.max() <= 4
    assert abs(occurrences.sum() - 3 * len(LENGTHS)) <= 2


def test_epochs_and_seeds_have_different_orders(stream):
    _, batches = stream()
    long = [b["index"][0] for b in batches if b["input_ids"].shape[1] == 64]
    assert len({tuple(long[i : i + 4]) for i in range(0, len(long) - 3, 4)}) > 1
    assert indices(stream(seed=1)[1]) != indices(batches)


def test_randomness_differs_between_epochs_and_examples(stream):
    values = [value for batch in stream()[1] for value in batch["random"]]
    assert len(set(values)) == len(values)


def test_a_resumed_stream_continues_exactly(stream):
    _, whole = stream(count=24)
    first, _ = stream(count=10)
    _, rest = stream(count=14, state=first.get_state())
    for resumed, expected in zip(rest, whole[10:], strict=True):
        for name in expected:
            np.testing.assert_array_equal(resumed[name], expected[name])


def test_evaluation_yields_every_example_once(examples):
    batches = list(evaluation_batches(examples, buckets(), collate, 0))
    assert sorted(np.concatenate([i for i, _ in batches])) == list(range(len(LENGTHS)))
    for batch_indices, batch in batches:
        np.testing.assert_array_equal(batch["index"][: len(batch_indices)], batch_indices)
        assert len(batch["index"]) in {8, 4, 1}
    again = list(evaluation_batches(examples, buckets(), collate, 0))
    np.testing.assert_array_equal(batches[0][1]["random"], again[0][1]["random"])
