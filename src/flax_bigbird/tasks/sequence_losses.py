"""The losses of sequence classification, and the weights of its examples."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_bigbird.data.errors import OptionError
from flax_bigbird.nn.losses import classification_losses
from flax_bigbird.tasks.sequence_labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL


def example_losses(logits: Any, labels: Any, problem_type: str) -> Any:
    """Returns the loss of each example, `[B]`.

    It is the cross-entropy of classes, the mean binary cross-entropy of the labels of a set, or the
    squared error of a value.

    Args:
      logits: `[B, num_labels]`.
      labels: `[B]`, class indices or values; `[B, num_labels]` of 0 and 1 for sets of labels.
      problem_type: The kind of labels.
    """
    if problem_type == REGRESSION:
        return (logits[:, 0] - labels) ** 2
    if problem_type == MULTI_LABEL:
        signed = jnp.where(labels > 0, logits, -logits)
        return -jax.nn.log_sigmoid(signed).mean(-1)
    return classification_losses(logits, labels)


def smooth_losses(losses: Any, logits: Any, smoothing: float) -> Any:
    """Returns the cross-entropies of classes with label smoothing, `[B]`.

    Args:
      losses: `[B]`, the cross-entropies without it.
      logits: `[B, num_labels]`.
      smoothing: The probability that the targets share equally among all classes.
    """
    uniform = -jax.nn.log_softmax(logits).mean(-1)
    return (1 - smoothing) * losses + smoothing * uniform


def balanced_weights(labels: Sequence[int]) -> list[float]:
    """Returns the weight of each example, `num_examples / (num_classes * count of its class)`.

    Args:
      labels: The class index of each example. Classes without examples do not count.
    """
    indices = np.asarray(labels)
    counts = np.bincount(indices)
    return (len(indices) / (np.count_nonzero(counts) * counts[indices])).tolist()


def check_loss_options(options: Any, kind: str) -> None:
    """Raises `OptionError` if an option of the loss of classes is given for another problem."""
    for name, default in (("label_smoothing_factor", 0.0), ("class_weights", "none")):
        value = getattr(options, name)
        if value != default and kind != SINGLE_LABEL:
            raise OptionError(
                f"{name} belongs to problem_type {SINGLE_LABEL}; got {value!r} for {kind}: leave "
                "it out"
            )
