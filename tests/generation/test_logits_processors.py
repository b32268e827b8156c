"""Every logits processor, on scores that were computed by hand."""

import jax.numpy as jnp
import numpy as np

from flax_bigbird.generation import logits_processors as processors
from flax_bigbird.generation.logits_processors import History

FORBIDDEN = -np.inf


def history(*rows: list[int], first: int | list[int] = 0, used: int | None = None) -> History:
    """Returns rows of tokens that begin at `first`, the first `used` slots of them used."""
    tokens = jnp.asarray(rows)
    slot = tokens.shape[1] if used is None else used
    firsts = jnp.full(len(rows), first) if isinstance(first, int) else jnp.asarray(first)
    return History(tokens, firsts, jnp.asarray(slot), jnp.asarray(0), jnp.asarray(9))


def assert_same(got, want):
    np.testing.assert_allclose(np.asarray(got), np.asarray(want, np.float32), rtol=1e-6)


def test_repetition():
    """A token is penalized once; padding and unused slots are not."""
    scores = jnp.asarray([[2.0, -2.0, 4.0, -4.0, 6.0]])
    past = history([4, 0, 1, 0, 2], first=1, used=4)
    assert_same(processors.penalize_repetition(scores, past, 2.0), [[1, -4, 4, -4, 6]])


def test_ngrams():
    scores = jnp.zeros((2, 5))
    past = history([1, 2, 3, 1, 2, 4], [3, 3, 3, 3, 3, 3], used=5)
    # "1 2" was followed by 3; "3 3" by 3.
    assert_same(processors.forbid_repeated_ngrams(scores, past, 3), [[0, 0, 0, FORBIDDEN, 0]] * 2)
    # "2" was followed by 3.
    assert_same(
        processors.forbid_repeated_ngrams(scores, past, 2),
        [[0, 0, 0, FORBIDDEN, 0], [0, 0, 0, FORBIDDEN, 0]],
    )
    assert_same(
        processors.forbid_repeated_ngrams(scores, past, 1),
        [[0, FORBIDDEN, FORBIDDEN, FORBIDDEN, 0], [0, 0, 0, FORBIDDEN, 0]],
    )


def test_ngrams_do_not_reach_into_padding():
    scores = jnp.zeros((1, 5))
    for first, banned in ((0, 3), (1, None), (2, None)):
        past = history([1, 2, 3, 1, 2], first=first)
        want = np.zeros((1, 5))
        if banned is not None:
            want[0, banned] = FORBIDDEN
        assert_same(processors.forbid_repeated_ngrams(scores, past, 3), want)


def test_words():
    scores = jnp.zeros((2, 5))
    past = history([1, 2], [2, 2])
    assert_same(processors.forbid_word(scores, past, (3,)), [[0, 0, 0, FORBIDDEN, 0]] * 2)
    assert_same(processors.forbid_word(scores, past, (1, 2, 4)), [[0, 0, 0, 0, FORBIDDEN], [0] * 5])
    longer = history([1, 2], [1, 2], first=[0, 1])  # the second prompt begins with 2
    assert_same(
        processors.forbid_word(scores, longer, (1, 2, 4)), [[0, 0, 0, 0, FORBIDDEN], [0] * 5]
    )
    assert_same(processors.forbid_word(scores, past, (3, 1, 2, 4)), np.zeros((2, 5)))


def test_top_k_top_p_and_min_p():
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
