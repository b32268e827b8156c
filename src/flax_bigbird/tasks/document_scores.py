"""Combines the logits of the windows of a document into the logits of the document."""

import numpy as np
from scipy import special

from flax_bigbird.tasks.sequence_labels import MULTI_LABEL, REGRESSION


def combine_windows(
    logits: np.ndarray,
    num_tokens: np.ndarray,
    document: np.ndarray,
    *,
    problem_type: str,
    pooling: str,
) -> np.ndarray:
    """Returns the logits of documents from those of their windows.

    With pooling "mean", a logit is a linear function of the mean over the tokens of a window. The
    mean weighted by numbers of tokens, `sum(n_w * logits_w) / sum(n_w)`, is therefore the logit of
    the mean over all tokens of the windows. With pooling "cls", probabilities are averaged over
    the windows, and so are the values of a regression.

    Args:
      logits: `[windows, labels]`.
      num_tokens: `[windows]`, the number of tokens of each window, without padding.
      document: `[windows]`, the index of each window's document, in ascending order.
      problem_type: The kind of labels.
      pooling: The `classifier_pooling` of the model's configuration.

    Returns:
      `[documents, labels]`, in float64.
    """
    logits = logits.astype(np.float64)
    if pooling == "mean":
        return document_means(logits, document, num_tokens)
    if problem_type == REGRESSION:
        return document_means(logits, document)
    with np.errstate(invalid="ignore"):  # logits that are not finite; predictors report them
        if problem_type == MULTI_LABEL:
            yes, no = special.log_expit(logits), special.log_expit(-logits)
            return document_log_means(yes, document) - document_log_means(no, document)
        return document_log_means(special.log_softmax(logits, axis=-1), document)


def document_means(
    values: np.ndarray, document: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Returns the mean of each document over its windows.

    Args:
      values: `[windows, ...]`.
      document: `[windows]`, the index of each window's document.
      weights: `[windows]`, the weights of the windows; equal by default.

    Returns:
      `[documents, ...]`, in float64.
    """
    weights = np.ones(len(document)) if weights is None else weights.astype(np.float64)
    trailing = [1] * (values.ndim - 1)
    total = np.zeros((int(document.max()) + 1, *values.shape[1:]))
    np.add.at(total, document, values * weights.reshape(-1, *trailing))
    return total / np.bincount(document, weights).reshape(-1, *trailing)


def document_log_means(log_values: np.ndarray, document: np.ndarray) -> np.ndarray:
    """Returns the logarithm of the mean of each document, from the logarithms of its windows.

    Probabilities that are 0 or 1 in floating point have finite logarithms.

    Args:
      log_values: `[windows, labels]`.
      document: `[windows]`, the index of each window's document.

    Returns:
      `[documents, labels]`.
    """
    largest = np.full((int(document.max()) + 1, log_values.shape[1]), -np.inf)
    np.maximum.at(largest, document, log_values)
    return np.log(document_means(np.exp(log_values - largest[document]), document)) + largest


def probabilities(logits: np.ndarray, problem_type: str) -> np.ndarray:
    """Returns the probability of each class, or of each label of a set, `[..., labels]`."""
    if problem_type == MULTI_LABEL:
        return special.expit(logits)
    with np.errstate(invalid="ignore"):  # logits that are not finite; predictors report them
        return special.softmax(logits, axis=-1)
