"""The vectors of the queries and documents of a batch, and the loss that follows from them."""

from typing import Any

import jax
import jax.numpy as jnp

from flax_bigbird.data.types import ROW_MASK, Arrays
from flax_bigbird.nn.contrastive_losses import (
    cosent_loss,
    multiple_negatives_ranking_loss,
    normalize,
)
from flax_bigbird.tasks.embedding_windows import pool_tokens
from flax_bigbird.tasks.row_masks import mean_over_rows

INPUTS = ("query_input_ids", "query_attention_mask", "input_ids", "attention_mask")
"""The arrays of a batch that the model reads."""


def embed_rows(
    model: Any, params: Any, rows: Arrays, key: Any, pooling_mode: str, **call: Any
) -> tuple[Any, Any]:
    """Returns the vectors of queries `[B, D]` and of their documents `[B, C, D]`, in float32.

    Args:
      model: The model.
      params: Its parameters.
      rows: The arrays of a batch, or of rows of it.
      key: The key of dropout, or None.
      pooling_mode: One of `POOLING_MODES`.
      **call: Further arguments of the model, such as `train`.
    """
    query_ids, query_mask, ids, mask = (jnp.asarray(rows[name]) for name in INPUTS)
    shape, length = ids.shape[:-1], ids.shape[-1]
    inputs = [(query_ids, query_mask), (ids.reshape(-1, length), mask.reshape(-1, length))]
    vectors = []
    for index, (token_ids, token_mask) in enumerate(inputs):
        rng = {} if key is None else {"dropout_rng": jax.random.fold_in(key, index)}
        output = model(token_ids, token_mask, params=params, **rng, **call)
        states = output.last_hidden_state.astype(jnp.float32)
        vectors.append(pool_tokens(states, token_mask, pooling_mode))
    return vectors[0], vectors[1].reshape(*shape, -1)


def batch_loss(queries: Any, documents: Any, batch: Arrays, loss: str, options: Any) -> Any:
    """Returns the loss of a batch.

    Args:
      queries: `[B, D]`.
      documents: `[B, C, D]`.
      batch: The arrays of the batch, with the scores, or with ids that are equal for equal texts.
        Rows that `ROW_MASK` leaves out are no negatives, either.
      loss: One of `EMBEDDING_LOSSES`.
      options: The options, with the temperature.
    """
    mask = batch.get(ROW_MASK)
    mask = None if mask is None else jnp.asarray(mask)
    if loss != "multiple_negatives_ranking":
        cosines = (normalize(queries) * normalize(documents[:, 0])).sum(-1)
        if loss == "cosine_similarity":
            return mean_over_rows((cosines - batch["score"]) ** 2, batch).mean
        return cosent_loss(cosines, batch["score"], temperature=options.temperature, mask=mask)
    ids, query_ids, exists = (
        jnp.asarray(batch[name]) for name in ("document_ids", "query_id", "exists")
    )
    excluded = ~exists[None] | (ids[None] == ids[:, None, :1])
    # The documents of other rows with the same query are relevant, too.
    same_query = query_ids[:, None] == query_ids
    excluded = excluded.at[..., 0].set(excluded[..., 0] | same_query)
    return multiple_negatives_ranking_loss(
        queries,
        documents,
        excluded,
        temperature=options.temperature,
        symmetric=options.symmetric,
        mask=mask,
    )
