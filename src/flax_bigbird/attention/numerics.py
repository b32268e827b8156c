"""The masked softmax, the zeroing of masked tokens, and the constants for masked scores."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

Dimension = Any
"""An integer, or a symbolic dimension of `jax.export`, whose class is not public."""

MASKED_SCORE = -1e30  # replaces the score of a key that a query does not read
MIN_ROW_MAX = -1e20  # lower bound of a row's maximum: the weights of a row that reads nothing are 0


def masked_softmax(
    scores: Float[Array, "*S"],
    weights: Bool[Array | np.ndarray, "..."] | Num[Array | np.ndarray, "..."],
    axis: int | tuple[int, ...] = -1,
) -> Float[Array, "*S"]:
    """Computes a softmax in which each entry is weighted by its multiplicity.

        p[s] = w[s] e^z[s] / sum_s w[s] e^z[s]

    Args:
      scores: The scores z. Where the weight is 0 they may hold anything, NaN included.
      weights: The weights w: booleans, or multiplicities of 0 and more. They broadcast to `scores`.
      axis: The axis or axes that the sum runs over.

    Returns:
      The probabilities, exactly 0 where the weight is 0. A row whose weights are all 0 is 0.
    """
    read = weights if weights.dtype == jnp.bool_ else weights > 0
    if weights.dtype != jnp.bool_:
        scores = scores + jnp.log(jnp.where(read, weights, 1).astype(scores.dtype))
    scores = jnp.where(read, scores, jnp.finfo(scores.dtype).min)
    return jnp.where(read, jax.nn.softmax(scores, axis=axis), 0)


def softmax_parts(
    scores: Float[Array, "*S"],
) -> tuple[Float[Array, "*S"], Float[Array, "..."], Float[Array, "..."]]:
    """Computes the parts of a softmax over the last axis, some of whose keys may be elsewhere.

    Args:
      scores: The scores; `MASKED_SCORE` for a key that is not read.

    Returns:
      `(weights, total, row_max)`: e^(score - max), their sum, which is 0 for a row that reads
      nothing, and the maximum of the row. Gradients take the maximum for a constant, on which the
      softmax does not depend.
    """
    row_max = jax.lax.stop_gradient(jnp.maximum(scores.max(-1), MIN_ROW_MAX))
    weights = jnp.exp(scores - row_max[..., None])
    return weights, weights.sum(-1), row_max


def zero_masked(
    x: Float[Array, "B T N H"], mask: Bool[Array | np.ndarray, "B T"] | None
) -> Float[Array, "B T N H"]:
    """Replaces the values of masked tokens by 0, so that not even NaN or inf reaches a result.

    A weight of 0 is not enough, because 0 times NaN is NaN, in the output and in the gradients.

    Args:
      x: Queries, keys, values or outputs.
      mask: False at the tokens to clear; None clears nothing.
    """
    return x if mask is None else jnp.where(mask[:, :, None, None], x, jnp.zeros((), x.dtype))
