"""Losses of embedding models, and gradients of large batches in the memory of small ones."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from flax_bigbird.nn.losses import mean_where

_MASKED = -1e9  # a score that no exponential sees


def normalize(vectors: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Returns vectors of length 1; the gradient at 0 is finite."""
    squared = (vectors * vectors).sum(-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))


def multiple_negatives_ranking_loss(
    queries: Float[Array, "B D"],
    documents: Float[Array, "B C D"],
    excluded: Bool[Array, "B B C"],
    *,
    temperature: float = 0.05,
    symmetric: bool = False,
    mask: Bool[Array, " B"] | None = None,
) -> Float[Array, ""]:
    """Returns InfoNCE: each query must find its document among those of the whole batch.

    The loss of query i is `-log softmax(cosines / temperature)` at document (i, 0); all others of
    the batch are negatives, hard negatives among them. With `symmetric`, each document (i, 0) must
    find its query, too, and the loss is the mean of both.

    Args:
      queries: The vectors of the queries.
      documents: The vectors of the document of each query, and of its hard negatives.
      excluded: For each query, the documents that do not count: those that are missing, and those
        that are relevant although they are not document (i, 0). For that one, it is ignored.
      temperature: The number that the cosines are divided by; the `scale` of
        sentence-transformers is its inverse.
      symmetric: Whether the documents search, too.
      mask: False at rows that do not count, neither their queries nor their documents.
    """
    batch, num_documents, size = documents.shape
    q, d = normalize(queries), normalize(documents.reshape(-1, size))
    scores = jnp.einsum("id,jd->ij", q, d, precision=jax.lax.Precision.HIGHEST) / temperature
    index = jnp.arange(batch)
    own = jnp.zeros((batch, batch, num_documents), bool).at[index, index, 0].set(True)
    hidden = excluded & ~own
    if mask is not None:
        hidden = hidden | ((mask[:, None] != mask)[:, :, None] & ~own)
    masked = jnp.where(hidden.reshape(batch, -1), _MASKED, scores)
    at_own = masked[index, index * num_documents]
    loss = _mean(jax.nn.logsumexp(masked, axis=1) - at_own, mask)
    if not symmetric:
        return loss
    backward = masked[:, ::num_documents]
    return (loss + _mean(jax.nn.logsumexp(backward, axis=0) - at_own, mask)) / 2


def _mean(losses: Float[Array, " B"], mask: Bool[Array, " B"] | None) -> Float[Array, ""]:
    """Returns the mean of the losses that count."""
    return losses.mean() if mask is None else mean_where(losses, mask)


def cosent_loss(
    cosines: Float[Array, " B"],
    scores: Float[Array, " B"],
    *,
    temperature: float = 0.05,
    mask: Bool[Array, " B"] | None = None,
) -> Float[Array, ""]:
    """Returns CoSENT (Su, 2022): the cosines must have the order of the scores.

    It is `log(1 + sum exp((cosine_i - cosine_j) / temperature))` over all pairs of pairs with
    `score_i < score_j`.

    Args:
      cosines: The cosine of the vectors of each pair.
      scores: The score of each pair.
      temperature: The number that the differences are divided by.
      mask: False at pairs that do not count.
    """
    differences = (cosines[:, None] - cosines[None]) / temperature
    counts = scores[:, None] < scores[None]
    if mask is not None:
        counts = counts & mask[:, None] & mask
    terms = jnp.where(counts, differences, _MASKED).reshape(-1)
    return jax.nn.logsumexp(jnp.concatenate([jnp.zeros((1,), terms.dtype), terms]))


def map_mini_batches(
    function: Callable[[Any, Any], Any], batch: Any, key: Any, mini_batch_size: int
) -> Any:
    """Returns `function` of a batch, computed for one mini-batch after the other.

    The backward pass computes each mini-batch anew, with the same key, and adds the gradients up.
    So no more than the activations of one mini-batch are in memory at once, whatever the loss
    that the results are used in: GradCache (arXiv 2101.06983), as in
    `CachedMultipleNegativesRankingLoss` of sentence-transformers. Mini-batch k of n has the rows
    k, n + k, 2 n + k and so on, so that a batch that is split over several devices stays split.

    Args:
      function: A function from rows `[mini_batch_size, ...]` and a key to a tree of arrays with the
        same leading axis.
      batch: A tree of arrays `[B, ...]`. If the mini-batches have more rows, copies of the first
        fill the last one; their results are dropped.
      key: The key of all randomness, or None. Mini-batch k gets `fold_in(key, k)`.
      mini_batch_size: The number of rows of a mini-batch.
    """
    num_rows = jax.tree.leaves(batch)[0].shape[0]
    size = min(mini_batch_size, num_rows)
    count = -(-num_rows // size)
    padding = count * size - num_rows

    def split(x: Array) -> Array:
        x = jnp.concatenate([x, x[:padding]]) if padding else x
        return x.reshape(size, count, *x.shape[1:]).swapaxes(0, 1)

    def join(x: Array) -> Array:
        return x.swapaxes(0, 1).reshape(count * size, *x.shape[2:])[:num_rows]

    def compute(inputs: Any) -> Any:
        index, rows = inputs
        return function(rows, None if key is None else jax.random.fold_in(key, index))

    indices = jnp.arange(count)
    recomputed = jax.checkpoint(compute, prevent_cse=False)  # type: ignore[arg-type]
    results = jax.lax.map(recomputed, (indices, jax.tree.map(split, batch)))
    return jax.tree.map(join, results)
