"""Metrics of rankings against scikit-learn, SciPy, and values computed by hand."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from flax_bigbird.tasks.embedding_metrics import pair_metrics, search_loss, search_metrics
from flax_bigbird.tasks.ranking_metrics import (
    candidate_metrics,
    relevant_ranks,
    retrieval_metrics,
)

SEEDS = [0, 1]


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def cosines(a, b):
    a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    return a @ b.T


def random_relevance(seed, num_queries, num_documents):
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, 15, num_queries)
    return [np.sort(generator.choice(num_documents, n, replace=False)) for n in counts]


@pytest.mark.parametrize("seed", SEEDS)
def test_searches_have_the_metrics_of_scikit_learn(seed, monkeypatch):
    monkeypatch.setattr("flax_bigbird.tasks.ranking_metrics._MAX_SCORES", 300)  # several chunks
    queries, documents = draw(seed, 20, 6), draw(seed + 9, 120, 6)
    relevant = random_relevance(seed, 20, 120)
    metrics = retrieval_metrics(queries, documents, relevant)
    truth, scores = np.zeros((20, 120)), cosines(queries, documents)
    for row, indices in enumerate(relevant):
        truth[row, indices] = 1
    assert metrics["ndcg_at_10"] == pytest.approx(sklearn.metrics.ndcg_score(truth, scores, k=10))
    order = np.argsort(-scores, axis=1)
    found = np.take_along_axis(truth, order, axis=1)
    for k in (1, 10, 100):
        recall = (found[:, :k].sum(1) / truth.sum(1)).mean()
        assert metrics[f"recall_at_{k}"] == pytest.approx(recall)
    first = found.argmax(1) + 1
    assert metrics["mrr_at_10"] == pytest.approx(np.where(first <= 10, 1 / first, 0).mean())


def test_values_computed_by_hand():
    queries = np.eye(2, dtype=np.float32)
    documents = np.array([[1, 0.1], [0.9, 0.8], [0.1, 1]], np.float32)
    # The first query finds document 1 second; the second one finds document 2 first, 0 last.
    metrics = retrieval_metrics(queries, documents, [np.array([1]), np.array([0, 2])])
    ndcg = (1 / np.log2(3), (1 + 1 / np.log2(4)) / (1 + 1 / np.log2(3)))
    assert metrics == pytest.approx(
        {"ndcg_at_10": np.mean(ndcg), "mrr_at_10": 0.75, "recall_at_1": 0.25}
    )


def test_equal_scores_gain_nothing():
    assert relevant_ranks(np.zeros(5), np.array([1])).tolist() == [5]
    assert relevant_ranks(np.array([0, 2, 1, 1]), np.array([0, 2])).tolist() == [3, 4]
    collapsed = np.ones((30, 4), np.float32)
    metrics = retrieval_metrics(collapsed, collapsed, [np.array([n]) for n in range(30)])
    assert metrics == {"ndcg_at_10": 0, "mrr_at_10": 0, "recall_at_1": 0, "recall_at_10": 0}


def test_equal_scores_of_candidates_gain_nothing():
    """The document with the highest label is the last of those with equal scores."""
    labels, query_ids = np.array([1.0, 0.0, 0.5, 1.0, 0.0]), np.array([0, 0, 0, 1, 1])
    metrics = candidate_metrics(np.zeros(5), labels, query_ids)
    gains = (0.5 / np.log2(3) + 1 / np.log2(4)) / (1 + 0.5 / np.log2(3)), 1 / np.log2(3)
    assert metrics["ndcg_at_10"] == pytest.approx(np.mean(gains))


def test_equal_texts_count_once_in_a_search():
    queries, documents = draw(0, 4, 6), draw(1, 4, 2, 6)
    queries[3] = queries[0]  # query 7 has the documents 1 and 4
    documents[2, 1] = documents[0, 0]
    query_ids = np.array([7, 8, 9, 7])
    document_ids = [[1, 5], [2], [3, 1], [4, 6]]
    metrics = search_metrics(queries, documents, query_ids, document_ids, 0.1)
    places = {1: (0, 0), 5: (0, 1), 2: (1, 0), 3: (2, 0), 4: (3, 0), 6: (3, 1)}
    index = np.stack([documents[place] for place in places.values()])
    relevant = [np.array([0, 4]), np.array([2]), np.array([3])]
    expected = retrieval_metrics(queries[:3], index, relevant)
    loss = search_loss(queries[:3], index, relevant, 0.1)
    assert metrics == pytest.approx({"loss": loss} | expected)
    scores = cosines(queries[:3], index) / 0.1
    by_hand = []
    for row, own in zip(scores, relevant, strict=True):
        others = np.exp(np.delete(row, own)).sum()
        by_hand.append(np.mean([-np.log(np.exp(row[n]) / (np.exp(row[n]) + others)) for n in own]))
    assert loss == pytest.approx(np.mean(by_hand), rel=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_candidates_of_queries(seed):
    generator = np.random.default_rng(seed)
    query_ids = generator.integers(0, 8, 60)
    labels = generator.integers(0, 4, 60) / 3
    scores = generator.standard_normal(60)
    metrics = candidate_metrics(scores, labels, query_ids)
    ndcg = []
    for query in range(8):
        own = query_ids == query
        if 0 < (labels[own] >= 0.5).sum() < own.sum():
            ndcg.append(sklearn.metrics.ndcg_score([labels[own]], [scores[own]], k=10))
    assert metrics["ndcg_at_10"] == pytest.approx(np.mean(ndcg))
    precision = sklearn.metrics.average_precision_score(labels >= 0.5, scores)
    assert metrics["average_precision"] == pytest.approx(precision)
    assert metrics["spearman"] == pytest.approx(scipy.stats.spearmanr(scores, labels)[0])


def test_candidates_by_hand():
    # Query 0: relevant second of three. Query 1: two of three relevant, first and last.
    scores = np.array([0.9, 0.5, 0.1, 3.0, 2.0, 1.0, 0.0])
    labels = np.array([0, 1, 0, 1, 0, 1, 1.0])
    query_ids = np.array([0, 0, 0, 1, 1, 1, 2])  # query 2 has a single candidate
    metrics = candidate_metrics(scores, labels, query_ids)
    assert metrics["mrr_at_10"] == pytest.approx(0.75)
    assert metrics["recall_at_1"] == pytest.approx((0 + 0.5) / 2)
    only_one = candidate_metrics(scores[:1], labels[:1], query_ids[:1])
    assert only_one == {}


@pytest.mark.parametrize("loss", ["cosent", "cosine_similarity"])
def test_pairs_with_scores(loss):
    first, second = draw(0, 12, 5), draw(1, 12, 5)
    scores = np.round(np.linspace(-1, 1, 12), 1)
    metrics = pair_metrics(first, second, scores, loss, 0.1)
    cosine = np.diag(cosines(first, second)).astype(np.float64)
    assert metrics["spearman"] == pytest.approx(scipy.stats.spearmanr(cosine, scores)[0])
    assert metrics["pearson"] == pytest.approx(scipy.stats.pearsonr(cosine, scores)[0])
    differences = (cosine[:, None] - cosine[None]) / 0.1
    expected = {
        "cosent": np.log(1 + np.exp(differences[scores[:, None] < scores]).sum()),
        "cosine_similarity": ((cosine - scores) ** 2).mean(),
    }
    assert metrics["loss"] == pytest.approx(expected[loss], rel=1e-4)
    constant = pair_metrics(first, first, scores, loss, 0.1)
    assert np.isfinite(list(constant.values())).all()
