"""Regularized linear classifiers and regressions, with the regularization chosen on the data."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from flax_bigbird.tasks.sequence_labels import MULTI_LABEL, REGRESSION

INVERSE_STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""The values of `LogisticRegression(C=...)` to choose from, for features of unit variance."""
RIDGE_STRENGTHS = tuple(10.0**power for power in range(-2, 6))
NUM_FOLDS = 5
MAX_LABELS_OF_CHOICE = 16  # The labels of a set by which the regularization is chosen.
ABSENT_LOGIT = -10.0  # of a class or label that the data do not have


class LinearFit(NamedTuple):
    """A linear function of features, `features @ kernel + bias`.

    Attributes:
      kernel: `[D, outputs]`.
      bias: `[outputs]`.
      strength: The regularization that was chosen: scikit-learn's `C`, or the `alpha` of a ridge
        regression.
    """

    kernel: np.ndarray
    bias: np.ndarray
    strength: float


def fit_linear(
    features: np.ndarray,
    labels: np.ndarray,
    problem_type: str,
    num_labels: int,
    *,
    seed: int = 0,
    class_weight: str | None = None,
) -> LinearFit:
    """Fits a logistic regression (one per label of a set) or a ridge regression.

    The strength of the regularization is the one with the lowest loss in cross-validation.

    Args:
      features: `[n, D]`.
      labels: `[n]`, class indices or values; `[n, num_labels]` of 0 and 1 for sets of labels.
      problem_type: The kind of labels.
      num_labels: The number of outputs.
      seed: The seed of the folds.
      class_weight: "balanced" weighs classes inversely to their frequencies.
    """
    center, scale = features.mean(0), features.std(0)
    scale = np.where(scale > 1e-6 * max(1e-30, float(scale.max(initial=0.0))), scale, np.inf)
    x = (features - center) / scale
    if problem_type == REGRESSION:
        fit = _fit_ridge(x, labels)
    elif problem_type == MULTI_LABEL:
        fit = _fit_labels(x, labels, seed)
    else:
        fit = _fit_classes(x, labels.astype(int), num_labels, seed, class_weight)
    kernel = fit.kernel / scale[:, None]
    return LinearFit(kernel, fit.bias - center @ kernel, fit.strength)


def stratified_folds(labels: np.ndarray, seed: int) -> np.ndarray:
    """Returns the fold of each example, `[n]`; the examples of a class are spread over the folds.

    Args:
      labels: `[n]`, class indices.
      seed: The seed of the random order.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), int)
    folds[order] = np.arange(len(labels)) % NUM_FOLDS
    return folds


def _fit_classes(
    x: np.ndarray, labels: np.ndarray, num_labels: int, seed: int, class_weight: str | None
) -> LinearFit:
    folds = stratified_folds(labels, seed)
    losses = np.zeros(len(INVERSE_STRENGTHS))
    for fold in range(NUM_FOLDS):
        fitted, held_out = folds != fold, folds == fold
        if not held_out.any() or not fitted.any():
            continue
        path = _logistic_path(x[fitted], labels[fitted], num_labels, class_weight)
        for index, (kernel, bias) in enumerate(path):
            scores = special.log_softmax(x[held_out] @ kernel + bias, axis=-1)
            losses[index] -= scores[np.arange(len(scores)), labels[held_out]].sum()
    best = int(losses.argmin())
    strengths = INVERSE_STRENGTHS[: best + 1]
    kernel, bias = _logistic_path(x, labels, num_labels, class_weight, strengths)[-1]
    return LinearFit(kernel, bias, INVERSE_STRENGTHS[best])


def _fit_labels(x: np.ndarray, labels: np.ndarray, seed: int) -> LinearFit:
    frequent = np.argsort(-labels.sum(0), kind="stable")[:MAX_LABELS_OF_CHOICE]
    losses = np.zeros(len(INVERSE_STRENGTHS))
    for label in frequent:
        own = labels[:, label].astype(int)
        folds = stratified_folds(own, seed)
        for fold in range(NUM_FOLDS):
            fitted, held_out = folds != fold, folds == fold
            if not held_out.any() or not fitted.any():
                continue
            for index, (kernel, bias) in enumerate(_logistic_path(x[fitted], own[fitted], 1)):
                logits = (x[held_out] @ kernel + bias)[:, 0]
                signed = np.where(own[held_out] > 0, logits, -logits)
                losses[index] -= special.log_expit(signed).sum()
    best = int(losses.argmin())
    strengths = INVERSE_STRENGTHS[best : best + 1]
    fits = [_logistic_path(x, own.astype(int), 1, strengths=strengths)[0] for own in labels.T]
    kernels, biases = zip(*fits, strict=True)
    return LinearFit(np.hstack(kernels), np.concatenate(biases), INVERSE_STRENGTHS[best])


def _fit_ridge(x: np.ndarray, targets: np.ndarray) -> LinearFit:
    from sklearn.linear_model import RidgeCV

    model: Any = RidgeCV(alphas=RIDGE_STRENGTHS).fit(x, targets)
    return LinearFit(model.coef_[:, None], np.atleast_1d(model.intercept_), float(model.alpha_))


def _logistic_path(
    x: np.ndarray,
    labels: np.ndarray,
    num_outputs: int,
    class_weight: str | None = None,
    strengths: Sequence[float] = INVERSE_STRENGTHS,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the kernel and the bias for each strength of regularization, from the strongest on.

    With one output, it is the logit of class 1. Classes without examples get a low bias.
    """
    present = np.unique(labels)
    if len(present) < 2:
        bias = np.full(num_outputs, ABSENT_LOGIT)
        bias[present if num_outputs > 1 else slice(0, int(present[0]))] = -ABSENT_LOGIT
        return [(np.zeros((x.shape[1], num_outputs)), bias)] * len(strengths)
    from sklearn.linear_model import LogisticRegression

    model: Any = LogisticRegression(
        C=1.0, max_iter=1000, tol=1e-4, warm_start=True, class_weight=class_weight
    )
    path = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that has not quite converged is a start as good
        for strength in strengths:
            model.set_params(C=strength).fit(x, labels)
            kernel, bias = model.coef_.T.copy(), model.intercept_.copy()
            if num_outputs > 1 and len(present) == 2:  # one logit: half for each of the two
                kernel, bias = np.hstack([-kernel, kernel]) / 2, np.hstack([-bias, bias]) / 2
            if num_outputs > len(present):
                kernel, bias = _with_absent_classes(kernel, bias, present, num_outputs)
            path.append((kernel, bias))
    return path


def _with_absent_classes(
    kernel: np.ndarray, bias: np.ndarray, present: np.ndarray, num_outputs: int
) -> tuple[np.ndarray, np.ndarray]:
    all_kernels = np.zeros((len(kernel), num_outputs))
    all_biases = np.full(num_outputs, ABSENT_LOGIT)
    all_kernels[:, present], all_biases[present] = kernel, bias
    return all_kernels, all_biases
