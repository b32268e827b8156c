"""Limits the default learning rate so that the first steps do no harm to a fitted head.

A head that was fitted to the features of a model has large weights where the features differ
little between examples. Small changes of the layers below then change the loss a lot, and steps of
AdamW, which have the same size whatever the gradient, overshoot.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_bigbird.train.arguments import DEFAULT_LEARNING_RATE
from flax_bigbird.train.layerwise_decay import layer_scales

MAX_RELATIVE_DECREASE = 0.25
"""The largest fraction of the loss by which a step may lower it, according to the gradient."""
NUM_BATCHES = 4

GradientFn = Callable[[Any, Any], tuple[Any, Any, Any]]


def limit_learning_rate(
    gradient_fn: GradientFn,
    params: Any,
    batches: Iterable[Any],
    layerwise_lr_decay: float = 1.0,
) -> float:
    """Returns `DEFAULT_LEARNING_RATE`, or less where such steps would be too long.

    The first step of AdamW is `-learning_rate * sign(g)` for the gradient g of a batch, by which
    the loss L falls by `learning_rate * ||g||_1` to first order. As L cannot fall below 0, this is
    to be at most a fraction of it, as in Polyak's step size:

        learning_rate <= MAX_RELATIVE_DECREASE * mean(L) / mean(||g||_1)

    Args:
      gradient_fn: A function of parameters and a batch, which returns the gradient of the summed
        loss, the summed loss, and the number of targets.
      params: The parameters, with the fitted head.
      batches: Training batches.
      layerwise_lr_decay: The factor of the learning rate from one layer to the one below.
    """
    scales = layer_scales(params, layerwise_lr_decay)
    losses, decreases = [], []
    for batch in batches:
        gradient, value, num_targets = gradient_fn(params, batch)
        norms = jax.tree.map(
            lambda g, s: s * jnp.abs(g).astype(jnp.float32).sum(), gradient, scales
        )
        count = max(1.0, float(num_targets))
        losses.append(float(value) / count)
        decreases.append(float(sum(jax.tree.leaves(norms))) / count)
    limit = MAX_RELATIVE_DECREASE * np.mean(losses) / max(np.mean(decreases), 1e-30)
    return float(min(DEFAULT_LEARNING_RATE, limit)) if np.isfinite(limit) else DEFAULT_LEARNING_RATE
