"""Rows are encoded in several threads, and come in their order."""

import itertools
import threading

import pytest
from tiny_checkpoints import sentence

from flax_bigbird.data.errors import DataError
from flax_bigbird.inference.encoding import NUM_FIRST_ROWS, encode_in_order


def test_rows_are_encoded_at_the_same_time_and_come_in_order():
    barrier = threading.Barrier(3)

    def encode(row):
        if row >= NUM_FIRST_ROWS:
            barrier.wait(timeout=10)  # fails unless three threads arrive
        return 2 * row

    count = NUM_FIRST_ROWS + 9
    pairs = list(encode_in_order(encode, range(count), 3))
    assert pairs == [(row, 2 * row) for row in range(count)]


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("broken", [None, 1, 7])
def test_an_error_follows_the_rows_before_it(num_threads, broken):
    """Whether a row cannot be read or cannot be encoded."""

    def rows():
        yield from range(20)
        raise DataError("row 20 cannot be read")

    def encode(row):
        if row == broken:
            raise DataError(f"row {row} cannot be encoded")
        return row

    pairs = encode_in_order(encode, rows(), num_threads)
    end = 20 if broken is None else broken
    assert [next(pairs) for _ in range(end)] == [(row, row) for row in range(end)]
    with pytest.raises(DataError, match=f"row {end} cannot"):
        next(pairs)


def test_few_rows_are_read_ahead():
    read = itertools.count()
    pairs = encode_in_order(lambda row: row, (next(read) for _ in range(100)), 2)
    for _ in range(NUM_FIRST_ROWS + 1):
        next(pairs)
    pairs.close()
    assert next(read) == NUM_FIRST_ROWS + 4


def test_answers_do_not_depend_on_threads(classify, monkeypatch):
    texts = [sentence(n, 1 + 7 * (n % 5)) for n in range(12)]
    want = classify(texts)
    monkeypatch.setattr("flax_bigbird.inference.predictor.num_encoding_threads", lambda: 3)
    assert classify(texts) == want
    with pytest.raises(DataError, match="row 10: column 'text' must hold a text; got 3"):
        classify([*({"text": text} for text in texts[:9]), {"text": 3}])
