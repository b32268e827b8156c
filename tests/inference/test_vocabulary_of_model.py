"""The tokenizer and the model must have the same tokens, and every text's must be known."""

import json

import jax
import numpy as np
import pytest
from tiny_checkpoints import sentence, write_jsonl
from transformers import AutoTokenizer

import flax_bigbird
from flax_bigbird.data.errors import UnknownTokensWarning
from flax_bigbird.inference import DataError, OptionError, evaluate, load_predictor, predict_files

CLASSIFIER = "FlaxBigBirdForSequenceClassification"


@pytest.fixture
def with_added_tokens(make_checkpoint, tmp_path) -> str:
    """A copy of the classifier whose tokenizer has 80 tokens more."""
    folder = tmp_path / "added"
    source = make_checkpoint(CLASSIFIER)
    flax_bigbird.FlaxBigBirdForSequenceClassification.from_pretrained(source).save_pretrained(
        folder
    )
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_tokens([f"new{n}" for n in range(80)])
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_more_tokens_than_the_model_has_are_refused(with_added_tokens, tmp_path):
    """Their embeddings would be NaN, as JAX does not check indices."""
    match = "at most the 64 tokens of the model; it has .*resize_token_embeddings"
    with pytest.raises(OptionError, match=match):
        load_predictor(with_added_tokens)
    file = write_jsonl(tmp_path / "in.jsonl", [{"text": "new3 cow", "label": "meadow"}])
    with pytest.raises(OptionError, match=match):
        evaluate(with_added_tokens, [file])


def test_a_resized_model_answers_with_the_added_tokens(with_added_tokens):
    model_class = flax_bigbird.FlaxBigBirdForSequenceClassification
    model = model_class.from_pretrained(with_added_tokens)
    flax_bigbird.resize_token_embeddings(model, 160).save_pretrained(with_added_tokens)
    answer = load_predictor(with_added_tokens)("new3 new79 cow")
    assert np.isfinite(answer["score"])


def test_scores_that_are_not_finite_are_an_error(classifier, tmp_path):
    predictor = load_predictor(classifier)
    predictor.model.params = jax.tree.map(lambda x: x * np.float32(np.nan), predictor.model.params)
    with pytest.raises(DataError, match="scores must be finite numbers; the model returned NaN"):
        predictor(sentence(0, 5))
    file = write_jsonl(tmp_path / "in.jsonl", [{"text": "cow"}])
    with pytest.raises(DataError, match="scores must be finite"):
        predict_files(predictor, [file], tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_answers_are_json(classify, rows, tmp_path):
    predict_files(classify, [rows], tmp_path / "out.jsonl")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    for line in (tmp_path / "out.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_a_model_folder_without_tokenizer_files_is_refused(make_checkpoint, tmp_path):
    """`save_pretrained` of a model writes none; every text would become unknown tokens."""
    model_class = flax_bigbird.FlaxBigBirdForSequenceClassification
    model_class.from_pretrained(make_checkpoint(CLASSIFIER)).save_pretrained(tmp_path / "bare")
    match = "bare has none of them: save the model's tokenizer there"
    with pytest.raises(OptionError, match=match):
        load_predictor(tmp_path / "bare")
    file = write_jsonl(tmp_path / "in.jsonl", [{"text": "cow", "label": "meadow"}])
    with pytest.raises(OptionError, match=match):
        evaluate(tmp_path / "bare", [file])


UNKNOWN = "белая корова пасётся"


def test_unknown_tokens_give_a_warning(classify, tmp_path):
    with pytest.warns(UnknownTokensWarning, match="100% of the tokens of the input|50% of the"):
        classify(UNKNOWN)
    classify(sentence(1, 30))  # no warning, which would be an error here
    messages = []
    file = write_jsonl(tmp_path / "in.jsonl", [{"text": UNKNOWN}, {"text": sentence(0, 10)}])
    predict_files(classify, [file], tmp_path / "out.jsonl", on_message=messages.append)
    (message,) = messages
    assert "are unknown to the tokenizer, more than 5%" in message


def test_unknown_tokens_are_reported_by_evaluate(classifier, tmp_path):
    rows = [{"text": sentence(n, 10), "label": "meadow"} for n in range(4)]
    known = evaluate(classifier, [write_jsonl(tmp_path / "known.jsonl", rows)])
    assert known["messages"] == []
    rows += [{"text": UNKNOWN, "label": "meadow"} for _ in range(4)]
    messages = evaluate(classifier, [write_jsonl(tmp_path / "in.jsonl", rows)])["messages"]
    assert any("of the tokens of the data are unknown to the tokenizer" in m for m in messages)
