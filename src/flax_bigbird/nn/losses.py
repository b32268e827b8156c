"""Pretraining losses that touch no more of the vocabulary than they must.

A masked-language-model head multiplies every state by the whole word table, and 85% of the logits
are then thrown away. Gather the targets first, and ask the model for their logits alone:

    targets = gather_targets(labels, limit=640)
    out = model(input_ids, attention_mask, params=params, logits_positions=targets.positions, ...)
    loss = cross_entropy(out.logits, targets.labels)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

IGNORED = -100  # the label of a position that is no target, as everywhere in the field


class Targets(NamedTuple):
    """The positions that have labels, and those labels: both `[B, P]`.

    Unused places hold position 0 and the label `IGNORED`.
    """

    positions: Int[Array, "B P"]
    labels: Int[Array, "B P"]


def gather_targets(labels: Int[Array, "B T"] | Any, limit: int | None = None) -> Targets:
    """The labelled positions of each document, in order.

    Args:
      labels: [B, T]; `IGNORED` (-100) where nothing is to be predicted.
      limit: P, places a document. Default, for host arrays: the most that a document has. Give it
        one value for a whole run, a little above mask rate * T, so that steps compile once.

    Returns:
      `Targets`. Traced labels beyond the limit are left out (compare the counts if that matters).

    Raises:
      ValueError: host labels of which a document has more than `limit`; or no limit for traced
        labels.
    """
    if np.ndim(labels) != 2:
        raise ValueError(
            f"labels must have shape [batch, tokens]; got {np.shape(labels)}: give one a token"
        )
    if not isinstance(labels, Tracer):
        most = int((np.asarray(labels) != IGNORED).sum(-1).max(initial=0))
        limit = max(most, 1) if limit is None else limit
        if most > limit:
            raise ValueError(
                f"a document may have at most limit={limit} labels; got {most}: raise the limit"
            )
    if limit is None:
        raise ValueError(
            "limit must be given for traced labels; got None: about 1.2 * mask rate * T leaves room"
        )
    labels = jnp.asarray(labels)
    length = labels.shape[1]
    place = jnp.where(labels != IGNORED, jnp.arange(length), length)
    place = jnp.sort(place, axis=1)[:, : min(limit, length)]
    used = place < length
    positions = jnp.where(used, place, 0).astype(jnp.int32)
    chosen = jnp.take_along_axis(labels, positions, axis=1)
    return Targets(positions, jnp.where(used, chosen, IGNORED).astype(jnp.int32))


def cross_entropy(logits: Float[Array, "... V"], labels: Int[Array, "..."]) -> Float[Array, ""]:
    """Mean of -log softmax(logits)[label] over the labels that are not `IGNORED`, in float32.

    0 where there are none.
    """
    used = labels != IGNORED
    losses = negative_log_likelihood(logits, jnp.where(used, labels, 0))
    return jnp.where(used, losses, 0).sum() / jnp.maximum(used.sum(), 1)


@jax.custom_vjp
def negative_log_likelihood(logits: Array, labels: Array) -> Array:
    return _forward(logits, labels)[0]


def _forward(logits: Array, labels: Array):
    """Keeps the exponentials and not the logits: they are all that the gradient needs."""
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    top = wide.max(-1, keepdims=True)
    weights = jnp.exp(wide - top)
    total = weights.sum(-1)
    at_label = jnp.take_along_axis(wide, labels[..., None], axis=-1)
    losses = jnp.log(total) - (at_label - top)[..., 0]
    return losses, (weights.astype(logits.dtype), total, labels)


def _backward(saved, d_losses: Array):
    """softmax - one_hot in one elementwise pass; the gather's own gradient would be a scatter."""
    weights, total, labels = saved
    is_label = jnp.arange(weights.shape[-1]) == labels[..., None]
    factor = (d_losses / total).astype(weights.dtype)
    d_logits = weights * factor[..., None]
    return jnp.where(is_label, d_logits - d_losses[..., None].astype(weights.dtype), d_logits), None


negative_log_likelihood.defvjp(_forward, _backward)
