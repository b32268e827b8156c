"""Runs that learn vectors: of pairs, of scored pairs, and of texts alone."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from several_devices import run_with_devices
from tiny_runs import (
    HARBOR,
    MEADOW,
    TINY_MODEL,
    RecordingCallback,
    model_bytes,
    tiny_run_options,
    write_jsonl,
)

from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.inference import evaluate, load_embedder
from flax_bigbird.train import TrainingInterrupted, train

WORDS = [word for word in f"{MEADOW} {HARBOR}".split() if len(word) > 3]
RUN = {
    "config_overrides": TINY_MODEL | {"initializer_range": 0.3},
    "vocab_size": 100,
    "max_length": 32,
    "max_steps": 80,
    "eval_steps": 40,
    "save_steps": 80,
    "logging_steps": 40,
    "learning_rate": 1e-2,
    "tokens_per_batch": 3072,
}


def pairs(count, seed):
    """Returns rows with two words in the query and the document; the negative has one of them."""
    generator = random.Random(seed)
    rows = []
    for _ in range(count):
        a, b, c = generator.sample(WORDS, 3)
        documents = {"positive": f"the {b} and a {a}", "negative": f"the {c} and a {a}"}
        rows.append({"anchor": f"{a} {b}"} | documents)
    return rows


def exact_recall(embedder, rows):
    """Returns recall@1 of a search through all distinct documents, by `encode` and NumPy."""
    documents = list(dict.fromkeys(text for r in rows for text in (r["positive"], r["negative"])))
    queries = list(dict.fromkeys(row["anchor"] for row in rows))
    relevant = {q: {r["positive"] for r in rows if r["anchor"] == q} for q in queries}
    scores = embedder.similarity(
        embedder.encode_query(queries), embedder.encode_document(documents)
    )
    recalls = []
    for query, row in zip(queries, scores, strict=True):
        best = {documents[index] for index in np.argsort(-row)[:1]}
        recalls.append(len(best & relevant[query]) / len(relevant[query]))
    return float(np.mean(recalls)), len(documents)


def test_pairs_with_hard_negatives_and_cached_gradients(tmp_path):
    data = write_jsonl(tmp_path / "a.jsonl", pairs(300, 0))
    changes = {"mini_batch_size": 8, "matryoshka_dims": [8], "query_prompt": "a road "}
    options = RUN | {"train_files": [data]} | changes
    report = train(tiny_run_options(tmp_path, "embedding", **options))
    assert report["best_metric"] == "ndcg_at_10"
    assert set(report["metrics"]) == {
        f"{name}{suffix}"
        for name in ("loss", "ndcg_at_10", "mrr_at_10", "recall_at_1", "recall_at_10")
        for suffix in ("", "_dim_8")
    }
    run = tmp_path / "run"
    modules = json.loads((run / "modules.json").read_text())
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    assert kinds == ["Transformer", "Pooling", "Normalize"]
    test_rows = pairs(60, 9)
    measured = evaluate(run, test_rows)
    assert measured["task"] == "embedding"
    embedder = load_embedder(run)
    assert embedder.prompts == {"query": "a road "}
    assert embedder.max_seq_length == 32
    recall, count = exact_recall(embedder, test_rows)
    assert measured["metrics"]["recall_at_1"] == pytest.approx(recall, abs=1e-6)
    assert recall > 20 / count, (recall, count)  # 1 / count by chance
    np.testing.assert_allclose(np.linalg.norm(embedder.encode("the barn")), 1, atol=1e-5)


def test_scored_pairs(tmp_path):
    generator = random.Random(0)
    rows = []
    for _ in range(200):
        words = generator.sample(WORDS, 8)
        shared = generator.randint(0, 4)
        second = words[:shared] + words[4 : 8 - shared]
        rows.append(
            {"sentence1": " ".join(words[:4]), "sentence2": " ".join(second), "score": shared}
        )
    data = write_jsonl(tmp_path / "a.jsonl", rows)
    options = RUN | {"train_files": [data], "max_steps": 60, "eval_steps": 60}
    report = train(tiny_run_options(tmp_path, "embedding", **options))
    assert report["best_metric"] == "spearman"
    assert report["metrics"]["spearman"] > 0.6, report["metrics"]
    assert set(report["metrics"]) == {"loss", "spearman", "pearson"}


def write_texts(folder: Path, count: int, seed: int) -> str:
    """Writes files with texts about four words each."""
    generator = random.Random(seed)
    folder.mkdir()
    for index in range(count):
        own = generator.sample(WORDS, 4)
        text = " ".join(generator.choice(own) for _ in range(generator.randint(20, 60)))
        (folder / f"{index:03d}.txt").write_text(text)
    return str(folder)


def test_texts_alone(tmp_path):
    folder = write_texts(tmp_path / "texts", 120, 0)
    report = train(tiny_run_options(tmp_path, "embedding", **RUN | {"train_files": [folder]}))
    metrics = report["metrics"]
    assert report["validation"]["rows"] == 12
    assert metrics["recall_at_1"] > 0.6, metrics  # 1 / 12 by chance


def test_a_run_that_is_stopped_ends_with_the_same_bits(tmp_path):
    data = write_jsonl(tmp_path / "a.jsonl", pairs(40, 0))
    changes = {
        "max_steps": 6,
        "eval_steps": 3,
        "save_steps": 100,
        "logging_steps": 1,
        "mini_batch_size": 3,
        "config_overrides": TINY_MODEL | {"hidden_dropout_prob": 0.1},
    }
    common = RUN | {"train_files": [data]} | changes
    train(tiny_run_options(tmp_path / "whole", "embedding", **common))
    stopped = tiny_run_options(tmp_path / "stopped", "embedding", **common)
    with pytest.raises(TrainingInterrupted):
        train(stopped, [RecordingCallback(stop_after=4)])
    smaller = common | {"tokens_per_batch": 1536, "gradient_accumulation_steps": 2}
    with pytest.raises(OptionError, match="a run resumes with the options that it was started"):
        train(tiny_run_options(tmp_path / "stopped", "embedding", **smaller))
    recorded = RecordingCallback()
    train(stopped, [recorded])
    assert "Resuming from step 4." in recorded.messages
    assert model_bytes(tmp_path / "whole" / "run") == model_bytes(tmp_path / "stopped" / "run")


GOOD = {"query": "a cow", "document": "a meadow", "score": 1.0}


@pytest.mark.parametrize(
    ("rows", "changes", "error", "message"),
    [
        ([GOOD, GOOD | {"score": "x"}], {}, DataError, "values of one type"),
        ([GOOD] * 3, {}, DataError, "the scores of the training data must differ; all are 1.0"),
        (
            [GOOD, GOOD | {"score": 3.0}],
            {"loss": "cosine_similarity"},
            DataError,
            r"a\.jsonl, line 2: scores must be from -1 to 1 .* has 3.0",
        ),
        ([GOOD, GOOD | {"document": None}], {}, DataError, "line 2"),
        ([{"query": "a cow"}] * 2, {}, DataError, "must have a column for document_column"),
        (
            [{"document": "a cow"}] * 2,
            {},
            DataError,
            "must have pairs, with a column such as query",
        ),
        ([{"text": "a"}] * 4, {}, DataError, "must have 8 tokens, .* none of 3 has"),
        (
            [{"query": f"a {w}", "positive": w, "negative": [w, w]} for w in WORDS],
            {"tokens_per_batch": 64},
            OptionError,
            "tokens_per_batch must hold two examples, each of 4 texts of 16 tokens",
        ),
        (
            [{"query": f"a {w}", "positive": w} for w in WORDS],
            {"matryoshka_dims": [64]},
            OptionError,
            "matryoshka_dims must be from 1 to the 32 dimensions of the vectors; got 64",
        ),
    ],
)
def test_data_and_options_that_cannot_be_used(tmp_path, rows, changes, error, message):
    data = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(error, match=message):
        train(tiny_run_options(tmp_path, "embedding", train_files=[data], **changes))


@pytest.mark.slow
def test_batches_on_several_devices_are_negatives_of_each_other(tmp_path):
    data = write_jsonl(tmp_path / "a.jsonl", pairs(40, 0))
    program = str(Path(__file__).with_name("embedding_devices_program.py"))
    reports = []
    for count in (1, 2):
        output = run_with_devices([program, str(tmp_path / str(count)), data], count)
        reports.append(json.loads(output.splitlines()[-1]))
    one, two = reports
    assert (one.pop("devices"), two.pop("devices")) == (1, 2)
    np.testing.assert_allclose(one["losses"], two["losses"], rtol=1e-4)
    assert one["metrics"] == pytest.approx(two["metrics"], rel=1e-3)
    assert one["tokens"] == two["tokens"]
