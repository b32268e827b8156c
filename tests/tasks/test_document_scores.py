"""The scores of documents in several windows, against formulas."""

import numpy as np
import pytest
from scipy import special

from flax_bigbird.tasks.document_scores import combine_windows, probabilities
from flax_bigbird.tasks.sequence_labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL

DOCUMENT = np.array([0, 0, 0, 1, 2, 2])
NUM_TOKENS = np.array([7, 7, 3, 1, 20, 4])
KINDS = [SINGLE_LABEL, MULTI_LABEL, REGRESSION]


def combine(logits, kind, pooling):
    return combine_windows(logits, NUM_TOKENS, DOCUMENT, problem_type=kind, pooling=pooling)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_mean_pooling_reads_the_mean_over_all_tokens(kind, seed):
    """The logits of a document are those of the mean over the tokens of all of its windows."""
    generator = np.random.default_rng(seed)
    tokens = [generator.standard_normal((count, 5)) for count in NUM_TOKENS]
    kernel, bias = generator.standard_normal((5, 3)), generator.standard_normal(3)
    logits = np.stack([window.mean(0) @ kernel + bias for window in tokens]).astype(np.float32)
    expected = [
        np.concatenate([tokens[w] for w in np.flatnonzero(d == DOCUMENT)]).mean(0) @ kernel + bias
        for d in range(3)
    ]
    np.testing.assert_allclose(combine(logits, kind, "mean"), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_token_averages_windows(kind):
    logits = np.random.default_rng(0).standard_normal((6, 3)) * 3
    function = {SINGLE_LABEL: lambda x: special.softmax(x, -1), MULTI_LABEL: special.expit}
    scores = function.get(kind, lambda x: x)
    expected = [scores(logits)[d == DOCUMENT].mean(0) for d in range(3)]
    np.testing.assert_allclose(scores(combine(logits, kind, "cls")), expected, rtol=1e-9)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_one_window_keeps_its_scores(pooling):
    logits = np.random.default_rng(1).standard_normal((1, 4))
    for kind in (SINGLE_LABEL, MULTI_LABEL):
        document, count = np.zeros(1, int), np.array([9])
        combined = combine_windows(logits, count, document, problem_type=kind, pooling=pooling)
        np.testing.assert_allclose(
            probabilities(combined, kind), probabilities(logits, kind), rtol=1e-9
        )


@pytest.mark.parametrize("kind", [SINGLE_LABEL, MULTI_LABEL])
def test_certain_windows_have_finite_logits(kind):
    """Probabilities of 0 and 1 in floating point."""
    logits = np.tile([900.0, -900.0, 40.0], (6, 1))
    combined = combine(logits, kind, "cls")
    assert np.isfinite(combined).all()
    np.testing.assert_allclose(probabilities(combined, kind), probabilities(logits[:3], kind))
    if kind == MULTI_LABEL:
        np.testing.assert_allclose(combined, logits[:3])
