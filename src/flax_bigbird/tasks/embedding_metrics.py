"""Metrics of embedding models: of a search through all documents, and of scored pairs."""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import special

from flax_bigbird.checkpoint.embedding_layers import Normalize
from flax_bigbird.tasks.metrics import CORRELATIONS, correlations
from flax_bigbird.tasks.ranking_metrics import (
    iterate_cosines,
    retrieval_metric_names,
    retrieval_metrics,
)

CORRELATIONS_OF_PAIRS = {name: CORRELATIONS[name] for name in ("spearman", "pearson")}


def embedding_metric_names(
    is_scored: bool | None, num_documents: int | None, dims: Iterable[int]
) -> dict[str, bool]:
    """Returns the metrics of a search or of scored pairs, and whether a greater value is better.

    Args:
      is_scored: Whether the examples are pairs with scores; None if it is not known.
      num_documents: The number of different documents; None if it is not known.
      dims: The numbers of first dimensions that are measured besides all of them.
    """
    searches = {} if is_scored else retrieval_metric_names(num_documents)
    names = searches | ({} if is_scored is False else CORRELATIONS_OF_PAIRS) | {"loss": False}
    suffixes = ["", *(suffix_of_dim(dim) for dim in sorted(dims, reverse=True))]
    return {f"{name}{suffix}": names[name] for suffix in suffixes for name in names}


def suffix_of_dim(dim: int) -> str:
    """Returns what the names of metrics of the first `dim` dimensions end with."""
    return f"_dim_{dim}"


def search_metrics(
    queries: np.ndarray,
    documents: np.ndarray,
    query_ids: np.ndarray,
    document_ids: Sequence[Sequence[int]],
    temperature: float,
) -> dict[str, float]:
    """Returns the metrics of an exact search for each query through all documents of a split.

    The loss is InfoNCE with all of these documents as negatives. Equal queries and equal documents
    count once; the documents of all rows with a query are relevant to it.

    Args:
      queries: `[N, D]`, a vector for each example.
      documents: `[N, C, D]`, the vectors of its documents, the first of which is relevant.
      query_ids: `[N]`, equal for equal queries.
      document_ids: For each example, the ids of those of its documents that exist, which are equal
        for equal documents.
      temperature: The number that the cosines are divided by.
    """
    first_place: dict[int, tuple[int, int]] = {}
    for row, ids in enumerate(document_ids):
        for column, identity in enumerate(ids):
            first_place.setdefault(identity, (row, column))
    rows, columns = np.array(list(first_place.values())).T
    position = {identity: index for index, identity in enumerate(first_place)}
    relevant: dict[int, list[int]] = {}
    for query, ids in zip(query_ids.tolist(), document_ids, strict=True):
        relevant.setdefault(query, []).append(position[ids[0]])
    _, first_queries = np.unique(query_ids, return_index=True)
    first_queries.sort()
    distinct = [np.unique(relevant[query]) for query in query_ids[first_queries].tolist()]
    vectors, index = queries[first_queries], documents[rows, columns]
    loss = search_loss(vectors, index, distinct, temperature)
    return {"loss": loss} | retrieval_metrics(vectors, index, distinct)


def search_loss(
    queries: np.ndarray, documents: np.ndarray, relevant: list[np.ndarray], temperature: float
) -> float:
    """Returns InfoNCE of each query and each of its documents, with all others as negatives.

    Args:
      queries: `[Q, D]`.
      documents: `[N, D]`.
      relevant: For each query, the indices of the documents that are relevant.
      temperature: The number that the cosines are divided by.
    """
    losses = []
    for cosines, own in zip(iterate_cosines(queries, documents), relevant, strict=True):
        row = cosines / temperature
        others = special.logsumexp(np.delete(row, own)) if len(own) < len(row) else -np.inf
        losses.append(np.mean(np.logaddexp(others, row[own]) - row[own]))
    return float(np.mean(losses))


def pair_metrics(
    first: np.ndarray, second: np.ndarray, scores: np.ndarray, loss: str, temperature: float
) -> dict[str, float]:
    """Returns the loss, and the correlations of the cosines of pairs with their scores.

    Args:
      first: `[N, D]`, a vector of each pair.
      second: `[N, D]`, the other one.
      scores: `[N]`.
      loss: The loss, `cosent` or `cosine_similarity`.
      temperature: The number that the differences of cosines are divided by in `cosent`.
    """
    cosines = (Normalize()(first) * Normalize()(second)).sum(-1)
    if loss == "cosine_similarity":
        value = float(((cosines - scores) ** 2).mean())
    else:
        value = 0.0  # the logarithm of the 1 in the loss
        for cosine, score in zip(cosines, scores, strict=True):
            terms = (cosine - cosines[score < scores]) / temperature
            value = float(np.logaddexp(value, special.logsumexp(terms))) if len(terms) else value
    return {"loss": value} | correlations(cosines, scores)
