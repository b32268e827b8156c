"""Buckets, order, state."""

import numpy as np
import pytest

datasets = pytest.importorskip("datasets")

from flax_bigbird.train import pipeline  # noqa: E402

LENGTHS = [3, 8, 9, 16, 17, 30, 5, 12, 40, 64, 2]
BUCKETS = (8, 16, 64)


def rows():
    return datasets.Dataset.from_dict(
        {"input_ids": [[n] * length for n, length in enumerate(LENGTHS)], "length": LENGTHS}
    )


def collate(row, length, generator):
    ids = np.zeros(length, np.int32)
    ids[: len(row["input_ids"])] = row["input_ids"]
    return {"input_ids": ids, "number": np.int32(row["input_ids"][0]), "luck": generator.random()}


def buckets(tokens=64):
    return pipeline.into_buckets(LENGTHS, BUCKETS, tokens)


def test_each_row_lies_in_the_smallest_bucket_that_holds_it():
    found = {bucket.length: [LENGTHS[n] for n in bucket.rows] for bucket in buckets()}
    assert found == {8: [3, 8, 5, 2], 16: [9, 16, 12], 64: [17, 30, 40, 64]}
    assert [bucket.batch for bucket in buckets()] == [8, 4, 1]


def test_padding_share():
    padded = 4 * 8 + 3 * 16 + 4 * 64
    assert pipeline.padding_share(LENGTHS, buckets()) == 1 - sum(LENGTHS) / padded


def stream(seed=0, count=24, state=None):
    batches = iter(pipeline.training_batches(rows(), buckets(16), collate, seed))
    if state is not None:
        batches.set_state(state)
    return batches, [next(batches) for _ in range(count)]


def numbers(batches):
    return [n for batch in batches for n in batch["number"]]


def test_every_row_comes_equally_often():
    """In three passes, however long a row is."""
    count = round(3 * pipeline.batches_per_epoch(buckets(16)))
    _, batches = stream(count=count)
    times = np.bincount(numbers(batches), minlength=len(LENGTHS))
    assert times.min() >= 2
    assert times.max() <= 4
    assert abs(times.sum() - 3 * len(LENGTHS)) <= 2


def test_passes_differ_and_seeds_too():
    _, batches = stream()
    long = [b["number"][0] for b in batches if b["input_ids"].shape[1] == 64]
    assert len({tuple(long[i : i + 4]) for i in range(0, len(long) - 3, 4)}) > 1
    assert numbers(stream(seed=1)[1]) != numbers(batches)


def test_what_is_random_in_a_row_differs_from_pass_to_pass_and_row_to_row():
    luck = [x for batch in stream()[1] for x in batch["luck"]]
    assert len(set(luck)) == len(luck)


def test_resumed_streams_go_on_as_if_never_broken():
    _, whole = stream(count=24)
    first, _ = stream(count=10)
    _, rest = stream(count=14, state=first.get_state())
    for got, want in zip(rest, whole[10:], strict=True):
        for key in want:
            np.testing.assert_array_equal(got[key], want[key])


def test_evaluation_sees_every_row_once():
    made = list(pipeline.evaluation_batches(rows(), buckets(), collate, 0))
    assert sorted(np.concatenate([n for n, _ in made])) == list(range(len(LENGTHS)))
    for which, batch in made:
        np.testing.assert_array_equal(batch["number"][: len(which)], which)
        assert len(batch["number"]) in {8, 4, 1}
    again = list(pipeline.evaluation_batches(rows(), buckets(), collate, 0))
    np.testing.assert_array_equal(made[0][1]["luck"], again[0][1]["luck"])
