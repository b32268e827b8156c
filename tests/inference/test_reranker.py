"""The reranker scores and ranks documents for a query, with the calls of sentence-transformers."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_checkpoints import read_jsonl, sentence, write_jsonl

from flax_bigbird.inference import (
    DataError,
    OptionError,
    evaluate,
    load_predictor,
    load_reranker,
    predict_files,
)

ONE_LOGIT = {"id2label": {0: "LABEL_0"}}
QUERY = sentence(0, 4)
DOCUMENTS = [sentence(n, 2 + 6 * n) for n in range(1, 6)]
PAIRS = [(QUERY, document) for document in DOCUMENTS]


@pytest.fixture(scope="module")
def folder(make_checkpoint) -> str:
    return make_checkpoint("FlaxBigBirdForSequenceClassification", **ONE_LOGIT)


@pytest.fixture(scope="module")
def reranker(folder):
    return load_reranker(folder)


def logits(reranker, query, documents):
    """Returns the logits of pairs, each read alone and without padding."""
    tokenizer, model = reranker.tokenizer, reranker.predictor.model
    values = []
    for document in documents:
        inputs = tokenizer(query, document, truncation="longest_first", max_length=64)
        ids = np.array([inputs["input_ids"]])
        values.append(float(model(ids, np.ones_like(ids)).logits[0, 0]))
    return np.array(values)


def test_scores_are_sigmoids_of_the_logits_of_pairs(reranker):
    expected = logits(reranker, QUERY, DOCUMENTS)
    np.testing.assert_allclose(
        reranker.predict(PAIRS), 1 / (1 + np.exp(-expected)), atol=1e-5, rtol=0
    )
    raw = reranker.predict(PAIRS, activation_fn=lambda x: x)
    np.testing.assert_allclose(raw, expected, atol=1e-5)
    prompted = reranker.predict(PAIRS, prompt="the cow ", activation_fn=lambda x: x)
    np.testing.assert_allclose(prompted, logits(reranker, f"the cow {QUERY}", DOCUMENTS), atol=1e-5)


def test_what_predict_returns(reranker):
    scores = reranker.predict(PAIRS)
    assert (scores.shape, scores.dtype) == ((5,), np.float32)
    np.testing.assert_allclose(reranker.predict(PAIRS, batch_size=2), scores, atol=1e-6)
    np.testing.assert_allclose(reranker.predict([list(pair) for pair in PAIRS]), scores, atol=1e-6)
    np.testing.assert_allclose(reranker.predict(np.array(PAIRS)), scores, atol=1e-6)
    assert reranker.predict(PAIRS[0]) == pytest.approx(scores[0], abs=1e-6)
    assert reranker.predict([]).shape == (0,)
    assert isinstance(reranker.predict(PAIRS, convert_to_tensor=True), jax.Array)
    assert reranker.predict(PAIRS, convert_to_numpy=False, show_progress_bar=True) == pytest.approx(
        scores.tolist(), abs=1e-6
    )


def test_rank_sorts_by_descending_score(reranker):
    scores = reranker.predict(PAIRS)
    ranking = reranker.rank(QUERY, DOCUMENTS, return_documents=True)
    assert [answer["corpus_id"] for answer in ranking] == np.argsort(-scores).tolist()
    for answer in ranking:
        assert answer["score"] == pytest.approx(scores[answer["corpus_id"]], abs=1e-6)
        assert answer["text"] == DOCUMENTS[answer["corpus_id"]]
    assert reranker.rank(QUERY, DOCUMENTS, top_k=2) == [
        {key: answer[key] for key in ("corpus_id", "score")} for answer in ranking[:2]
    ]
    assert reranker.rank(QUERY, []) == []


def test_what_is_saved_is_loaded(reranker, tmp_path):
    reranker.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config_sentence_transformers.json").read_text())
    assert config["model_type"] == "CrossEncoder"
    again = load_reranker(tmp_path / "saved")
    np.testing.assert_array_equal(again.predict(PAIRS), reranker.predict(PAIRS))
    # The files name the task.
    assert load_predictor(tmp_path / "saved").task.name == "reranking"


@pytest.mark.parametrize("name", ["activation_fn", "sbert_ce_default_activation_function"])
def test_activations_of_earlier_versions(reranker, folder, tmp_path, name):
    path = Path(shutil.copytree(folder, tmp_path / "model")) / "config.json"
    config = json.loads(path.read_text())
    identity = "torch.nn.modules.linear.Identity"
    if name == "activation_fn":
        identity = "torch.nn.Identity"
        config["sentence_transformers"] = {"activation_fn": identity, "version": "4.1.0"}
    else:
        config[name] = identity
    path.write_text(json.dumps(config))
    np.testing.assert_allclose(
        load_reranker(path.parent).predict(PAIRS),
        reranker.predict(PAIRS, activation_fn=lambda x: x),
        atol=1e-6,
    )
    config[name] = "torch.nn.modules.activation.Hardtanh"
    config.pop("sentence_transformers", None)
    config["sentence_transformers"] = {"activation_fn": config.pop(name)}
    path.write_text(json.dumps(config))
    with pytest.raises(OptionError, match="the activation of a cross-encoder must be one of"):
        load_reranker(path.parent)


def test_bulk_prediction_and_evaluation(folder, reranker, tmp_path):
    rows: list[dict[str, Any]] = [{"question": QUERY, "passage": text} for text in DOCUMENTS]
    rows.append({"question": QUERY, "documents": DOCUMENTS})
    expected = reranker.predict(PAIRS)
    predict = load_predictor(folder, task="reranking")
    data = write_jsonl(tmp_path / "in.jsonl", rows)
    predict_files(predict, [data], tmp_path / "out.jsonl")
    answers = read_jsonl(tmp_path / "out.jsonl")
    scores = [answer["score"] for answer in answers[:-1]]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    np.testing.assert_allclose(answers[-1]["scores"], expected, atol=1e-6)
    labeled = [{"query": q, "answer": d, "label": n % 2} for n, (q, d) in enumerate(PAIRS)]
    lists = [{"query": QUERY, "docs": DOCUMENTS, "labels": [0, 1, 0, 1, 0]}]
    one = evaluate(folder, labeled, task="reranking")["metrics"]
    other = evaluate(folder, lists, task="reranking", loss="listwise_softmax")["metrics"]
    assert one.pop("loss") != pytest.approx(other.pop("loss"))
    assert one == pytest.approx(other)
    assert set(one) == {
        "ndcg_at_10",
        "mrr_at_10",
        "recall_at_1",
        "average_precision",
    }


def test_bad_calls(reranker, make_checkpoint):
    with pytest.raises(DataError, match=r"inputs must be pairs of texts; that at index 1 is 'x'"):
        reranker.predict([PAIRS[0], "x"])
    with pytest.raises(DataError, match=r"that at index 0 is \('a', 3\)"):
        reranker.predict([("a", 3)])
    with pytest.raises(DataError, match="documents must be several texts; got one"):
        reranker.rank(QUERY, "text")
    with pytest.raises(OptionError, match="top_k must be at least 1; got 0"):
        reranker.rank(QUERY, DOCUMENTS, top_k=0)
    with pytest.raises(OptionError, match="batch_size must be at least 1; got 0"):
        reranker.predict(PAIRS, batch_size=0)
    with pytest.raises(OptionError, match="prompt_name must be one of the model's prompts"):
        reranker.predict(PAIRS, prompt_name="query")
    with pytest.raises(OptionError, match="apply_softmax belongs to models with several logits"):
        reranker.predict(PAIRS, apply_softmax=True)
    with pytest.raises(OptionError, match="a reranker must have one logit; the model has num_labe"):
        load_reranker(make_checkpoint("FlaxBigBirdForSequenceClassification"))
    assert jnp.isfinite(reranker.predict(PAIRS)).all()
