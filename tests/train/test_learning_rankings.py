"""Runs that learn which documents belong to a query."""

import random

import numpy as np
import pytest
from tiny_runs import HARBOR, MEADOW, WIDER_MODEL, random_words, tiny_run_options, write_jsonl

from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.inference import evaluate, load_reranker
from flax_bigbird.train import train

RUN = {
    "config_overrides": WIDER_MODEL | {"num_hidden_layers": 2},
    "vocab_size": 80,
    "max_steps": 150,
    "eval_steps": 50,
    "save_steps": 150,
    "logging_steps": 50,
    "learning_rate": 3e-3,
}


def ranking_rows(count, seed, kind="pairs"):
    """Returns rows with a query about one of two topics, and documents about both."""
    generator = random.Random(seed)
    rows = []
    for index in range(count):
        topics = (MEADOW, HARBOR, HARBOR) if index % 2 else (HARBOR, MEADOW, MEADOW)
        query = random_words(topics[0], 5, generator)
        texts = [random_words(topic, generator.randint(5, 20), generator) for topic in topics]
        if kind == "pairs":
            rows += [
                {"query": query, "document": t, "label": int(not n)} for n, t in enumerate(texts)
            ]
        elif kind == "lists":
            order = generator.sample(range(3), 3)
            documents = [texts[n] for n in order]
            rows.append(
                {"query": query, "docs": documents, "labels": [float(n == 0) for n in order]}
            )
        else:
            rows.append({"anchor": query, "positive": texts[0], "negative": texts[1:]})
    return rows


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        pytest.param("pairs", None, marks=pytest.mark.slow),
        ("negatives", "listwise_softmax"),
    ],
)
def test_a_reranker_learns(tmp_path, kind, loss):
    data = write_jsonl(tmp_path / "a.jsonl", ranking_rows(240, 0, kind))
    options = RUN | {"train_files": [data], "tokens_per_batch": 1024}
    report = train(
        tiny_run_options(tmp_path, "reranking", **options, **({"loss": loss} if loss else {}))
    )
    assert report["metrics"]["ndcg_at_10"] > 0.9, report["metrics"]
    assert report["best_metric"] == ("ndcg_at_10" if loss else "average_precision")
    test_rows = ranking_rows(40, 9, "lists")
    metrics = evaluate(tmp_path / "run", test_rows)["metrics"]
    assert metrics["recall_at_1"] > 0.85  # by chance, a third
    reranker = load_reranker(tmp_path / "run")
    best = [reranker.rank(row["query"], row["docs"], top_k=1)[0]["corpus_id"] for row in test_rows]
    right = [row["labels"][index] for row, index in zip(test_rows, best, strict=True)]
    assert np.mean(right) == pytest.approx(metrics["recall_at_1"])


@pytest.mark.parametrize(
    ("row", "changes", "error", "message"),
    [
        ({"label": 2}, {}, DataError, r"a\.jsonl, line 2: labels must be numbers from 0 to 1.*2"),
        ({"label": "x"}, {}, DataError, "must hold values of one type"),
        ({"label": [1, 0]}, {}, DataError, "one type"),
        ({"document": 3}, {}, DataError, r"line 2 holds 3"),
        ({}, {"loss": "listwise_softmax"}, DataError, "must have two documents or more"),
        ({}, {"label_column": "target"}, DataError, "must have a column 'target'"),
        ({"question": "q"}, {}, OptionError, None),
        ({"negative": "x"}, {}, OptionError, None),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, row, changes, error, message):
    good = {"query": "a cow", "document": "a meadow", "label": 1}
    first = good | ({} if message else row)
    data = write_jsonl(tmp_path / "a.jsonl", [first, good | row, good])
    message = message or "several columns may be meant|labels or negatives"
    with pytest.raises(error, match=message):
        train(tiny_run_options(tmp_path, "reranking", train_files=[data], **changes))
    assert not (tmp_path / "run").exists()


def test_columns_that_are_missing(tmp_path):
    data = write_jsonl(tmp_path / "a.jsonl", [{"query": "a cow", "label": 1}])
    with pytest.raises(DataError, match="must have a column for document_column, such as document"):
        train(tiny_run_options(tmp_path, "reranking", train_files=[data]))


def test_labels_without_a_relevant_document(tmp_path):
    """The run ended after its last step, with an error about an option that nobody had set."""
    rows = [{"query": "a cow", "document": f"meadow {i}", "label": 0} for i in range(20)]
    data = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match=r"must have a relevant document, whose label is 0\.5"):
        train(tiny_run_options(tmp_path, "reranking", train_files=[data]))
    assert not (tmp_path / "run").exists()
