"""Each rule on scores worked out by hand."""

import jax.numpy as jnp
import numpy as np

from flax_bigbird.generation import processors
from flax_bigbird.generation.processors import History

NO = -np.inf


def history(*rows, first=0, written=None):
    tokens = jnp.asarray(rows)
    slot = tokens.shape[1] if written is None else written
    firsts = jnp.full(len(rows), first) if isinstance(first, int) else jnp.asarray(first)
    return History(tokens, firsts, jnp.asarray(slot), jnp.asarray(0), jnp.asarray(9))


def same(got, want):
    np.testing.assert_allclose(np.asarray(got), np.asarray(want, np.float32), rtol=1e-6)


def test_repetition():
    """Once, however often a token stands there; not for padding, nor for what is not written."""
    scores = jnp.asarray([[2.0, -2.0, 4.0, -4.0, 6.0]])
    past = history([4, 0, 1, 0, 2], first=1, written=4)
    same(processors.penalise_repetition(scores, past, 2.0), [[1, -4, 4, -4, 6]])


def test_ngrams():
    scores = jnp.zeros((2, 5))
    past = history([1, 2, 3, 1, 2, 4], [3, 3, 3, 3, 3, 3], written=5)
    # "1 2" was followed by 3; "3 3" by 3.
    same(processors.forbid_repeated_ngrams(scores, past, 3), [[0, 0, 0, NO, 0]] * 2)
    # "2" was followed by 3.
    same(processors.forbid_repeated_ngrams(scores, past, 2), [[0, 0, 0, NO, 0], [0, 0, 0, NO, 0]])
    same(processors.forbid_repeated_ngrams(scores, past, 1), [[0, NO, NO, NO, 0], [0, 0, 0, NO, 0]])


def test_ngrams_do_not_reach_into_padding():
    scores = jnp.zeros((1, 5))
    for first, banned in ((0, 3), (1, None), (2, None)):
        past = history([1, 2, 3, 1, 2], first=first)
        want = np.zeros((1, 5))
        if banned is not None:
            want[0, banned] = NO
        same(processors.forbid_repeated_ngrams(scores, past, 3), want)


def test_words():
    scores = jnp.zeros((2, 5))
    past = history([1, 2], [2, 2])
    same(processors.forbid_word(scores, past, (3,)), [[0, 0, 0, NO, 0]] * 2)
    same(processors.forbid_word(scores, past, (1, 2, 4)), [[0, 0, 0, 0, NO], [0] * 5])
    longer = history([1, 2], [1, 2], first=[0, 1])  # the second prompt begins with 2
    same(processors.forbid_word(scores, longer, (1, 2, 4)), [[0, 0, 0, 0, NO], [0] * 5])
    same(processors.forbid_word(scores, past, (3, 1, 2, 4)), np.zeros((2, 5)))


def test_kept_sets():
    scores = jnp.log(jnp.asarray([[0.1, 0.4, 0.2, 0.05, 0.25]]))

    def kept(out):
        return np.flatnonzero(np.isfinite(out[0])).tolist()

    assert kept(processors.keep_top_k(scores, 2)) == [1, 4]
    assert kept(processors.keep_top_p(scores, 0.39)) == [1]
    assert kept(processors.keep_top_p(scores, 0.41)) == [1, 4]
    assert kept(processors.keep_top_p(scores, 0.86)) == [0, 1, 2, 4]
    assert kept(processors.keep_top_p(scores, 1e-9)) == [1]
    assert kept(processors.keep_min_p(scores, 0.49)) == [1, 2, 4]
    ties = jnp.asarray([[1.0, 3.0, 3.0, 3.0, 0.0]])
    assert kept(processors.keep_top_k(ties, 2)) == [1, 2, 3]
