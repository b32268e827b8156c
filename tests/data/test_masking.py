"""Masking: the fraction of targets, what the model sees, whole words, and reproducibility."""

from collections.abc import Iterable

import numpy as np
import pytest

from flax_bigbird.data.masking import Masking, max_targets
from flax_bigbird.data.vocabulary import save_vocabulary, train_vocabulary
from flax_bigbird.nn.losses import IGNORED_LABEL

V, MASK, CLS, SEP = 50, 4, 2, 3


def masking(probability=0.15, whole_word=False, word_starts: Iterable[int] = range(5, V)):
    is_special, starts_word = np.zeros(V, bool), np.zeros(V, bool)
    is_special[:5] = True
    starts_word[list(word_starts)] = True
    return Masking(probability, whole_word, MASK, is_special, starts_word, np.arange(5, V))


def example(length, seed=0):
    body = np.random.default_rng(seed).integers(5, V, length - 2)
    return np.concatenate([[CLS], body, [SEP]]).astype(np.int32)


def targets_of(masked):
    used = masked.labels != IGNORED_LABEL
    return masked.positions[used], masked.labels[used]


@pytest.mark.parametrize("whole_word", [False, True])
def test_targets_and_what_the_model_sees(whole_word):
    """15% of the tokens are targets: 80% [MASK], 10% random, 10% visible; no other is changed."""
    ids = example(20_002)
    masked = masking(whole_word=whole_word)(ids, 3000, np.random.default_rng(0))
    positions, labels = targets_of(masked)
    assert len(positions) == 3000
    assert (np.diff(positions) > 0).all()
    np.testing.assert_array_equal(labels, ids[positions])
    others = np.delete(np.arange(len(ids)), positions)
    np.testing.assert_array_equal(masked.input_ids[others], ids[others])
    seen = masked.input_ids[positions]
    assert abs((seen == MASK).mean() - 0.8) < 0.03
    # A random token is the target itself once in 45.
    assert abs((seen == labels).mean() - (0.1 + 0.1 / 45)) < 0.03
    assert not np.isin(positions, [0, len(ids) - 1]).any()


def test_the_probability_holds_for_short_examples():
    """There is at least one target and at most the limit; the rest has position 0."""
    for length, wanted in ((3, 1), (9, 1), (22, 3), (102, 15)):
        masked = masking()(example(length), 40, np.random.default_rng(1))
        assert len(targets_of(masked)[0]) == wanted
        assert (masked.positions[wanted:] == 0).all()
    assert len(targets_of(masking()(example(1002), 40, np.random.default_rng(1)))[0]) == 40


def test_an_example_of_special_tokens_has_no_targets():
    masked = masking()(np.array([CLS, SEP], np.int32), 3, np.random.default_rng(0))
    assert (masked.labels == IGNORED_LABEL).all()


def test_all_tokens_of_a_word_are_masked_together():
    """Tokens 5 to 24 start words, and the others continue them."""
    mask = masking(whole_word=True, word_starts=range(5, 25))
    ids = example(2002)
    positions, _ = targets_of(mask(ids, 300, np.random.default_rng(3)))
    word = np.cumsum(mask.starts_word[ids] | (np.arange(len(ids)) == 1))
    masked_words = set(word[positions])
    assert set(positions) == {p for p in range(1, len(ids) - 1) if word[p] in masked_words}
    assert 280 <= len(positions) <= 300


def test_a_word_longer_than_the_limit_is_masked_in_part():
    mask = masking(whole_word=True, word_starts=[5])
    ids = np.array([CLS, 5, *[30] * 98, SEP], np.int32)
    positions, _ = targets_of(mask(ids, 15, np.random.default_rng(0)))
    assert len(positions) == 15


def test_the_same_generator_gives_the_same_targets():
    ids = example(200)
    first, again, other = (
        masking()(ids, 30, np.random.default_rng(seed)).positions for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_the_vocabulary_of_a_tokenizer(tmp_path):
    text = "a whole sentence of words, and another one; they are told again and again. " * 20
    tokenizer = save_vocabulary(train_vocabulary([text], 36), tmp_path, 64)
    mask = Masking.from_tokenizer(tokenizer, 0.15, True, 64)
    assert mask.is_special[tokenizer.all_special_ids].all()
    assert mask.is_special.sum() == len(tokenizer.all_special_ids)
    assert mask.ordinary_ids.max() < len(tokenizer)
    ids = tokenizer("a whole sentence of words")["input_ids"]
    assert mask.starts_word[ids].sum() == 5


def test_max_targets():
    assert [max_targets(length, 0.15) for length in (4, 128, 4096)] == [1, 19, 614]
