"""The parts of documents that next-sentence prediction pairs."""

import itertools

import numpy as np

from flax_bigbird.tasks.next_sentence import choose_other_document, split_in_parts


def test_documents_are_split_into_two_parts_or_more():
    assert list(split_in_parts(list(range(15)), 20)) == []
    assert list(split_in_parts(list(range(16)), 20)) == [list(range(8)), list(range(8, 16))]
    parts = list(split_in_parts(list(range(70)), 20))
    assert list(itertools.chain(*parts)) == list(range(70))
    assert [len(part) for part in parts] == [20, 20, 20, 10]


def test_the_other_text_is_of_another_document():
    documents = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    for index in range(8):
        other = choose_other_document(index, documents)
        assert documents[other] != documents[index]
        assert other == choose_other_document(index, documents)
