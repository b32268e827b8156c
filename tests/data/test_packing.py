"""Packing: which documents are in a row together."""

import numpy as np
import pytest

from flax_bigbird.data.batching import assign_buckets
from flax_bigbird.data.packing import first_fit_decreasing, pack_examples


@pytest.mark.parametrize("seed", range(5))
def test_rows_hold_every_document_once_and_are_nearly_full(seed):
    sizes = np.random.default_rng(seed).integers(1, 12, 500)
    rows = first_fit_decreasing(sizes, 16)
    assert sorted(np.concatenate(rows)) == list(range(500))
    filled = [sizes[row].sum() for row in rows]
    assert max(filled) <= 16
    assert len(rows) <= 1.02 * np.ceil(sizes.sum() / 16)


def test_documents_of_the_size_of_a_row_are_alone():
    rows = first_fit_decreasing(np.array([4, 1, 4, 3]), 4)
    assert sorted(map(tuple, rows)) == [(0,), (2,), (3, 1)]


def test_without_short_documents_nothing_is_packed():
    lengths = np.array([64, 60, 57])
    buckets = assign_buckets(lengths, [32, 64], 64)
    packed = pack_examples([{}] * 3, lengths, buckets, 64, 1, block_size=8, max_blocks=None)
    assert packed.packed_rows == []
    assert packed.buckets == buckets


def test_documents_are_packed_up_to_the_maximum_number_of_blocks():
    lengths = np.array([8, 60, 17, 30])  # 1, 8, 3, and 4 blocks
    documents = [{"length": int(length)} for length in lengths]
    buckets = assign_buckets(lengths, [32, 64], 64)
    packed = pack_examples(documents, lengths, buckets, 64, 2, block_size=8, max_blocks=3)
    assert packed.packed_rows == [[2, 0]]
    assert packed[4] == {"documents": [{"length": 17}, {"length": 8}]}
    assert packed[3] == {"length": 30}
    assert len(packed) == 5
    assert [(b.length, b.indices.tolist(), b.batch_size) for b in packed.buckets] == [
        (32, [3], 2),
        (64, [1], 1),
        (64, [4], 2),
    ]
