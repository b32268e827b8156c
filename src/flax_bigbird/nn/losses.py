"""Cross-entropy losses for language models with large vocabularies.

The head of a masked language model multiplies every hidden state by the whole word embedding, but
only the masked positions, 15% of them, have targets. To compute no other logits, gather the targets
first and ask the model for the logits at their positions:

    targets = gather_targets(labels, limit=640)
    out = model(input_ids, attention_mask, params=params, logits_positions=targets.positions, ...)
    loss = cross_entropy(out.logits, targets.labels)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from flax_bigbird.attention import vary_together

IGNORED_LABEL = -100
"""The label of a position that has no target, as in PyTorch and `transformers`."""


class Targets(NamedTuple):
    """The positions that have labels, and their labels.

    Unused entries have position 0 and the label `IGNORED_LABEL`.

    Attributes:
      positions: `[B, P]`, positions in `0..T-1`.
      labels: `[B, P]`, token ids.
    """

    positions: Int[Array, "B P"]
    labels: Int[Array, "B P"]


def gather_targets(
    labels: Int[Array, "B T"] | Int[np.ndarray, "B T"] | Any, limit: int | None = None
) -> Targets:
    """Gathers the labeled positions of each example in order.

    Args:
      labels: `[B, T]`, token ids, and `IGNORED_LABEL` (-100) where nothing is predicted.
      limit: P, the maximum number of labels per example. By default, and only for labels that are
        not traced, it is the largest number in any example. Pass the same value in the whole run, a
        little above `mlm_probability * T`, so that the training step compiles once.

    Returns:
      The targets. If labels are traced, those beyond the limit are left out.

    Raises:
      ValueError: if labels that are not traced exceed the limit in an example, or if labels are
        traced and there is no limit.
    """
    if np.ndim(labels) != 2:
        raise ValueError(
            f"labels must have shape [batch, tokens]; got {np.shape(labels)}: give one per token"
        )
    if not isinstance(labels, Tracer):
        largest = int((np.asarray(labels) != IGNORED_LABEL).sum(-1).max(initial=0))
        limit = max(largest, 1) if limit is None else limit
        if largest > limit:
            raise ValueError(
                f"an example may have at most limit={limit} labels; got {largest}: raise the limit"
            )
    if limit is None:
        raise ValueError(
            "limit must be given for traced labels; got None: 1.2 * mlm_probability * T is enough"
        )
    labels = jnp.asarray(labels)
    length = labels.shape[1]
    positions = jnp.where(labels != IGNORED_LABEL, jnp.arange(length), length)
    positions = jnp.sort(positions, axis=1)[:, : min(limit, length)]
    used = positions < length
    positions = jnp.where(used, positions, 0).astype(jnp.int32)
    gathered = jnp.take_along_axis(labels, positions, axis=1)
    return Targets(positions, jnp.where(used, gathered, IGNORED_LABEL).astype(jnp.int32))


def cross_entropy(
    logits: Float[Array, "... V"], labels: Int[Array, "..."] | Any
) -> Float[Array, ""]:
    """Returns the mean of `-log softmax(logits)[label]` over the labels, in float32.

    Labels that are `IGNORED_LABEL` do not count. If there are no other labels, the loss is 0.

    Args:
      logits: `[..., V]`.
      labels: `[...]`, token ids or `IGNORED_LABEL`.
    """
    used = labels != IGNORED_LABEL
    return mean_where(negative_log_likelihood(logits, jnp.where(used, labels, 0)), used)


def mean_where(
    losses: Float[Array, "*B"], used: Bool[Array | np.ndarray, "*B"]
) -> Float[Array, ""]:
    """Returns the mean of the losses that count, or 0 if there are none."""
    count = jnp.maximum(used.sum(), 1).astype(losses.dtype)
    return jnp.where(used, losses, 0).sum() / count


def negative_log_likelihood(logits: Array, labels: Array) -> Array:
    """Returns `-log softmax(logits)[label]` of each label, in float32.

    The backward pass needs the exponentials but not the logits, and no scatter, which takes less
    time and memory than the gradient that JAX derives.

    Args:
      logits: `[..., V]`.
      labels: `[...]`, indices in `0..V-1`.
    """
    return _negative_log_likelihood(*vary_together(logits, labels))


@jax.custom_vjp
def _negative_log_likelihood(logits: Array, labels: Array) -> Array:
    return _forward(logits, labels)[0]


def _forward(logits: Array, labels: Array):
    wide = logits if logits.dtype.itemsize >= 4 else logits.astype(jnp.float32)
    largest = wide.max(-1, keepdims=True)
    weights = jnp.exp(wide - largest)
    total = weights.sum(-1)
    at_label = jnp.take_along_axis(wide, labels[..., None], axis=-1)
    losses = jnp.log(total) - (at_label - largest)[..., 0]
    return losses, (weights.astype(logits.dtype), total, labels)


def _backward(saved, d_losses: Array):
    """Computes softmax - one_hot in one elementwise pass."""
    weights, total, labels = saved
    is_label = jnp.arange(weights.shape[-1]) == labels[..., None]
    factor = (d_losses / total).astype(weights.dtype)
    d_logits = weights * factor[..., None]
    return jnp.where(is_label, d_logits - d_losses[..., None].astype(weights.dtype), d_logits), None


_negative_log_likelihood.defvjp(_forward, _backward)


def classification_losses(
    logits: Float[Array, "*B C"], labels: Int[Array, "*B"]
) -> Float[Array, "*B"]:
    """Returns `-log softmax(logits)[label]` for a few classes.

    Args:
      logits: `[..., C]`.
      labels: `[...]`, indices in `0..C-1`.
    """
    log_probabilities = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_probabilities, labels[..., None], axis=-1)[..., 0]
