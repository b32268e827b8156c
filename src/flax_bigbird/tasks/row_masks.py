"""Losses of batches that were filled with copies of rows, so that the devices divide them.

`flax_bigbird.data.types.ROW_MASK` says which rows count. A task whose loss counts them only sets
`Task.masks_rows`.
"""

from typing import Any

import jax.numpy as jnp

from flax_bigbird.data.types import ROW_MASK, Arrays
from flax_bigbird.nn.losses import IGNORED_LABEL
from flax_bigbird.tasks.base import Loss, Task


def mean_over_rows(losses: Any, batch: Arrays, weights: Any = None) -> Loss:
    """Returns the mean of the losses of the rows that count.

    Args:
      losses: `[B]`.
      batch: The batch.
      weights: `[B]`, by which the mean is weighted; by default, all weights are 1.
    """
    mask = batch.get(ROW_MASK)
    if mask is None and weights is None:
        return Loss(losses.mean(), losses.shape[0])
    if mask is not None:
        mask = jnp.asarray(mask, losses.dtype)
        weights = mask if weights is None else weights * mask
    total = weights.sum()
    return Loss((losses * weights).sum() / jnp.maximum(total, 1e-9), total)


def labels_of_rows(batch: Arrays) -> Any:
    """Returns the `labels` of a batch, with `IGNORED_LABEL` in rows that do not count."""
    labels, mask = batch["labels"], batch.get(ROW_MASK)
    if mask is None:
        return labels
    return jnp.where(mask.reshape(-1, *([1] * (labels.ndim - 1))), labels, IGNORED_LABEL)


def loss_masks_rows(task: type[Task]) -> bool:
    """Returns whether the loss of a task leaves out rows, as the class that defines it says."""
    owner = next(cls for cls in task.__mro__ if "loss" in vars(cls))
    return bool(vars(owner).get("masks_rows", False))
