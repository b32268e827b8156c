"""Metrics of rankings: of all documents by vectors, and of the candidates of each query.

Where documents have equal scores, a relevant one ranks behind those that are not relevant, so that
a model that gives all documents the same score gains nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from flax_bigbird.checkpoint.embedding_layers import Normalize
from flax_bigbird.tasks.metrics import correlations

NUM_RANKS = 10
"""How many of the first documents count in nDCG and MRR."""

RECALL_RANKS = (1, 10, 100)
RELEVANT = 0.5
"""The label from which a document is relevant."""

_MAX_SCORES = 2**24  # that are in memory at once


def retrieval_metrics(
    queries: np.ndarray, documents: np.ndarray, relevant: list[np.ndarray]
) -> dict[str, float]:
    """Returns nDCG@10, MRR@10 and recall@k of an exact search through all documents by cosine.

    recall@k is left out if there are no more than k documents.

    Args:
      queries: `[Q, D]`, vectors.
      documents: `[N, D]`, vectors.
      relevant: For each query, the indices of the documents that are relevant, at least one.
    """
    rows = zip(iterate_cosines(queries, documents), relevant, strict=True)
    ranks = [relevant_ranks(cosines, indices) for cosines, indices in rows]
    return {
        f"ndcg_at_{NUM_RANKS}": float(np.mean([binary_ndcg(rank, NUM_RANKS) for rank in ranks])),
        f"mrr_at_{NUM_RANKS}": float(np.mean([_reciprocal_rank(rank) for rank in ranks])),
    } | {
        f"recall_at_{k}": float(np.mean([(rank <= k).mean() for rank in ranks]))
        for k in RECALL_RANKS
        if k < len(documents)
    }


def iterate_cosines(queries: np.ndarray, documents: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the cosines of each query with all documents, `[N]`, without holding them all.

    Args:
      queries: `[Q, D]`, vectors.
      documents: `[N, D]`, vectors.
    """
    queries, documents = Normalize()(queries), Normalize()(documents)
    step = max(1, _MAX_SCORES // len(documents))
    for start in range(0, len(queries), step):
        yield from queries[start : start + step] @ documents.T


def relevant_ranks(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Returns the ranks of the relevant documents, in ascending order; the first rank is 1.

    Args:
      scores: `[N]`, the scores of all documents.
      relevant: `[R]`, the indices of the relevant documents.
    """
    own = np.sort(scores[relevant])[::-1]
    others = np.sort(np.delete(scores, relevant))
    num_before = len(others) - np.searchsorted(others, own, side="left")
    return num_before + np.arange(1, len(own) + 1)


def binary_ndcg(ranks: np.ndarray, k: int) -> float:
    """Returns nDCG@k of documents that are relevant or not.

    Args:
      ranks: `[R]`, the ranks of all relevant documents.
      k: How many documents count.
    """
    ideal = np.arange(1, min(len(ranks), k) + 1)
    return float((1 / np.log2(1 + ranks[ranks <= k])).sum() / (1 / np.log2(1 + ideal)).sum())


def graded_ndcg(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Returns nDCG@k of documents whose labels are their gains.

    Args:
      scores: `[N]`, the scores of all documents.
      labels: `[N]`, their labels, at least one of which is positive.
      k: How many documents count.
    """
    discounts = 1 / np.log2(2 + np.arange(min(k, len(labels))))
    found = labels[np.lexsort((labels, -scores))][:k]
    ideal = np.sort(labels)[::-1][:k]
    return float((discounts * found).sum() / (discounts * ideal).sum())


def retrieval_metric_names(num_documents: int | None) -> dict[str, bool]:
    """Returns the metrics of `retrieval_metrics`, of which a greater value is better.

    Args:
      num_documents: The number of documents; None if it is not known.
    """
    ranks = (k for k in RECALL_RANKS if num_documents is None or k < num_documents)
    names = (f"ndcg_at_{NUM_RANKS}", f"mrr_at_{NUM_RANKS}", *(f"recall_at_{k}" for k in ranks))
    return dict.fromkeys(names, True)


def candidate_metric_names(
    rows: Iterable[tuple[str, Sequence[float]]] | None,
) -> dict[str, bool]:
    """Returns the metrics of `candidate_metrics`, of which a greater value is better.

    Args:
      rows: The query and the labels of each row, one of which is relevant at least; None if they
        are not known.
    """
    rankings = retrieval_metric_names(NUM_RANKS)  # with recall at fewer ranks than that
    names = {"average_precision": True, **rankings, "spearman": True}
    if rows is None:
        return names
    labels: set[float] = set()
    relevant: defaultdict[str, set[bool]] = defaultdict(set)
    for query, values in rows:
        labels.update(values)
        relevant[query].update(value >= RELEVANT for value in values)
    if not any(len(kinds) == 2 for kinds in relevant.values()):
        for name in rankings:
            del names[name]
    if len(labels) <= 2:
        del names["spearman"]
    return names


def candidate_metrics(
    scores: np.ndarray, labels: np.ndarray, query_ids: np.ndarray
) -> dict[str, float]:
    """Returns the metrics of scores of pairs of a query and a document.

    nDCG@10, MRR@10 and recall@k are means over the queries with a relevant document and another
    one, and left out if there are none. A document is relevant if its label is at least 0.5; nDCG
    uses the labels as they are. `average_precision` is that of all pairs, where pairs with equal
    scores count as one step, as in scikit-learn. `spearman`, the rank correlation of scores and
    labels, is added if there are more than two different labels.

    Args:
      scores: `[P]`, the scores of all pairs.
      labels: `[P]`, the labels of the pairs.
      query_ids: `[P]`, the queries of the pairs.
    """
    import sklearn.metrics

    ndcg, reciprocal, recall = [], [], []
    order = np.argsort(query_ids, kind="stable")
    starts = np.flatnonzero(np.diff(query_ids[order])) + 1
    for group in np.split(order, starts):
        relevant = np.flatnonzero(labels[group] >= RELEVANT)
        if not 0 < len(relevant) < len(group):
            continue
        ndcg.append(graded_ndcg(scores[group], labels[group], NUM_RANKS))
        ranks = relevant_ranks(scores[group], relevant)
        reciprocal.append(_reciprocal_rank(ranks))
        recall.append([(ranks <= k).mean() for k in RECALL_RANKS if k < NUM_RANKS])
    metrics: dict[str, float] = {}
    if ndcg:
        metrics = {
            f"ndcg_at_{NUM_RANKS}": float(np.mean(ndcg)),
            f"mrr_at_{NUM_RANKS}": float(np.mean(reciprocal)),
        }
        means = np.mean(recall, axis=0)
        metrics |= {f"recall_at_{k}": float(m) for k, m in zip(RECALL_RANKS, means, strict=False)}
    is_relevant = labels >= RELEVANT
    if is_relevant.any():
        precision = sklearn.metrics.average_precision_score(is_relevant, scores)
        metrics["average_precision"] = float(precision)
    if len(np.unique(labels)) > 2:
        metrics["spearman"] = correlations(scores, labels)["spearman"]
    return metrics


def _reciprocal_rank(ranks: np.ndarray) -> float:
    return 1 / float(ranks[0]) if ranks[0] <= NUM_RANKS else 0.0
