"""Which pieces are hidden: shares, whole words, repeatable."""

import numpy as np
import pytest

from flax_bigbird.train.losses import IGNORED
from flax_bigbird.train.masking import Masking, places

V, MASK, CLS, SEP = 50, 4, 2, 3


def masking(rate=0.15, whole_words=False, first_pieces=range(5, V)):
    special, starts = np.zeros(V, bool), np.zeros(V, bool)
    special[:5] = True
    starts[list(first_pieces)] = True
    return Masking(rate, whole_words, MASK, special, starts, np.arange(5, V))


def document(length, seed=0):
    body = np.random.default_rng(seed).integers(5, V, length - 2)
    return np.concatenate([[CLS], body, [SEP]]).astype(np.int32)


def targets_of(made):
    used = made.labels != IGNORED
    return made.positions[used], made.labels[used]


@pytest.mark.parametrize("whole_words", [False, True])
def test_targets_and_what_is_seen_there(whole_words):
    """15% of the pieces; 80% [MASK], 10% another, 10% themselves; nothing else is touched."""
    ids = document(20_002)
    made = masking(whole_words=whole_words)(ids, 3000, np.random.default_rng(0))
    positions, labels = targets_of(made)
    assert len(positions) == 3000
    assert (np.diff(positions) > 0).all()
    np.testing.assert_array_equal(labels, ids[positions])
    others = np.delete(np.arange(len(ids)), positions)
    np.testing.assert_array_equal(made.ids[others], ids[others])
    seen = made.ids[positions]
    assert abs((seen == MASK).mean() - 0.8) < 0.03
    # A random piece is the piece itself once in 45.
    assert abs((seen == labels).mean() - (0.1 + 0.1 / 45)) < 0.03
    assert not np.isin(positions, [0, len(ids) - 1]).any()


def test_the_rate_holds_for_short_documents():
    """At least one target, at most the limit, unused places are empty."""
    for length, wanted in ((3, 1), (9, 1), (22, 3), (102, 15)):
        made = masking()(document(length), 40, np.random.default_rng(1))
        assert len(targets_of(made)[0]) == wanted
        assert (made.positions[wanted:] == 0).all()
    assert len(targets_of(masking()(document(1002), 40, np.random.default_rng(1)))[0]) == 40


def test_a_document_without_ordinary_pieces_has_no_targets():
    made = masking()(np.array([CLS, SEP], np.int32), 3, np.random.default_rng(0))
    assert (made.labels == IGNORED).all()


def test_whole_words_are_hidden_whole():
    """Pieces 5 to 24 begin words, the others go on with them."""
    chooser = masking(whole_words=True, first_pieces=range(5, 25))
    ids = document(2002)
    positions, _ = targets_of(chooser(ids, 300, np.random.default_rng(3)))
    word = np.cumsum(chooser.starts[ids] | (np.arange(len(ids)) == 1))
    hidden = set(word[positions])
    assert set(positions) == {p for p in range(1, len(ids) - 1) if word[p] in hidden}
    assert 280 <= len(positions) <= 300


def test_a_word_longer_than_all_that_may_be_hidden_is_hidden_in_part():
    chooser = masking(whole_words=True, first_pieces=[5])
    ids = np.array([CLS, 5, *[30] * 98, SEP], np.int32)
    positions, _ = targets_of(chooser(ids, 15, np.random.default_rng(0)))
    assert len(positions) == 15


def test_repeatable_and_different():
    ids = document(200)
    first, again, other = (
        masking()(ids, 30, np.random.default_rng(seed)).positions for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_of_a_tokenizer(tmp_path):
    from flax_bigbird.train import vocabulary

    text = "a whole sentence of words, and another one; they are told again and again. " * 20
    made = vocabulary.train_vocabulary([text], 36)
    tokenizer = vocabulary.save_vocabulary(made, tmp_path, 64)
    chooser = Masking.of(tokenizer, 0.15, True, 64)
    assert chooser.special[tokenizer.all_special_ids].all()
    assert chooser.special.sum() == len(tokenizer.all_special_ids)
    assert chooser.ordinary.max() < len(tokenizer)
    ids = tokenizer("a whole sentence of words")["input_ids"]
    assert chooser.starts[ids].sum() == 5


def test_places():
    assert [places(length, 0.15) for length in (4, 128, 4096)] == [1, 19, 614]
