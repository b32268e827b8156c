"""Linear classifiers of features: they equal scikit-learn's, for odd data too."""

import numpy as np
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression, Ridge

from flax_bigbird.tasks.linear_classifiers import (
    INVERSE_STRENGTHS,
    RIDGE_STRENGTHS,
    fit_linear,
    stratified_folds,
)
from flax_bigbird.tasks.sequence_labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL


def data(num_classes, n=120, width=6, seed=0):
    """Returns features of unequal scales, one of them constant, around a center per class."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % num_classes
    centers = 2 * generator.standard_normal((num_classes, width))
    features = centers[labels] + generator.standard_normal((n, width))
    return np.hstack([features * 10.0 ** np.arange(-3, 3), np.full((n, 1), 7.0)]), labels


def standardized(features):
    spread = features.std(0)
    return (features - features.mean(0)) / np.where(spread > 0, spread, 1)


@pytest.mark.parametrize("num_classes", [2, 3, 5])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_classes(num_classes, class_weight):
    features, labels = data(num_classes)
    fit = fit_linear(features, labels, SINGLE_LABEL, num_classes, class_weight=class_weight)
    assert fit.strength in INVERSE_STRENGTHS
    x = standardized(features)
    model = LogisticRegression(C=fit.strength, class_weight=class_weight, max_iter=1000)
    expected = model.fit(x, labels).predict_proba(x)
    scores = special.softmax(features @ fit.kernel + fit.bias, axis=-1)
    np.testing.assert_allclose(scores, expected, atol=5e-3)
    assert (scores.argmax(-1) == labels).mean() > 0.9


def test_values():
    features, _ = data(2)
    targets = standardized(features) @ np.arange(7.0) + 3
    fit = fit_linear(features, targets, REGRESSION, 1)
    assert fit.strength in RIDGE_STRENGTHS
    model = Ridge(alpha=fit.strength).fit(standardized(features), targets)
    predicted = (features @ fit.kernel + fit.bias)[:, 0]
    np.testing.assert_allclose(predicted, model.predict(standardized(features)), atol=1e-6)


def test_sets_of_labels():
    """One label that all examples have, one that none has, and two of a class each."""
    features, classes = data(2)
    labels = np.stack([classes, 1 - classes, np.ones(120), np.zeros(120)], 1)
    fit = fit_linear(features, labels, MULTI_LABEL, 4)
    scores = special.expit(features @ fit.kernel + fit.bias)
    assert ((scores > 0.5) == (labels > 0.5)).mean() > 0.97
    assert (scores[:, 2] > 0.99).all()
    assert (scores[:, 3] < 0.01).all()


@pytest.mark.parametrize("labels", [[0, 1], [0, 0, 1], [2, 2, 2], [0, 2, 2, 0, 2], [0, 1, 2, 2]])
def test_few_examples_and_absent_classes(labels):
    features = np.eye(6)[: len(labels)]
    fit = fit_linear(features, np.array(labels), SINGLE_LABEL, 4)
    assert np.isfinite(fit.kernel).all()
    assert fit.kernel.shape == (6, 4)
    scores = special.softmax(features @ fit.kernel + fit.bias, axis=-1)
    absent = [label for label in range(4) if label not in labels]
    assert (scores[:, absent] < 0.01).all()


def test_features_without_information():
    fit = fit_linear(np.ones((10, 3)), np.arange(10) % 2, SINGLE_LABEL, 2)
    np.testing.assert_array_equal(fit.kernel, 0)


def test_the_same_data_and_seed_give_the_same_fit():
    features, labels = data(3)
    first, second = (fit_linear(features, labels, SINGLE_LABEL, 3, seed=4) for _ in range(2))
    np.testing.assert_array_equal(first.kernel, second.kernel)
    np.testing.assert_array_equal(first.bias, second.bias)


def test_folds_spread_every_class():
    labels = np.array([0] * 10 + [1] * 5 + [2])
    folds = stratified_folds(labels, seed=1)
    assert np.bincount(folds[labels == 0]).tolist() == [2] * 5
    assert np.bincount(folds[labels == 1]).tolist() == [1] * 5
