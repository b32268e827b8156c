"""Evaluation of checkpoints that no run of ours has trained; runs are evaluated in tests/train."""

import math
import shutil

import pytest
from tiny_checkpoints import sentence, write_jsonl

from flax_bigbird import FlaxBigBirdForSequenceClassification
from flax_bigbird.inference import DataError, OptionError, evaluate


@pytest.fixture
def labeled(classify, rows, tmp_path) -> tuple[str, int]:
    """A file of labeled texts, and how many labels are those that the classifier predicts."""
    texts = [sentence(n, 1 + 7 * (n % 5)) for n in range(10)]
    predicted = [answer["label"] for answer in classify(texts)]
    labels = ["neither", *predicted[1:]]
    examples = [{"text": t, "label": label} for t, label in zip(texts, labels, strict=True)]
    right = 9 + (predicted[0] == "neither")
    return write_jsonl(tmp_path / "labeled.jsonl", examples), right


def test_the_accuracy_is_the_fraction_of_right_predictions(classifier, labeled):
    path, right = labeled
    result = evaluate(classifier, [path])
    assert result["metrics"]["accuracy"] == pytest.approx(right / 10)
    assert result["task"] == "sequence-classification"
    assert result["rows"] == 10
    assert 0 < result["padding"] < 1


@pytest.mark.parametrize("head", ["FlaxBigBirdForPreTraining", "FlaxBigBirdForMaskedLM"])
def test_pretrained_checkpoints(make_checkpoint, tmp_path, head):
    """A checkpoint as Google published them has both pretraining heads."""
    path = tmp_path / "texts.jsonl"
    rows = [{"text": ". ".join(sentence(10 * n + m, 9) for m in range(4))} for n in range(6)]
    result = evaluate(make_checkpoint(head), [write_jsonl(path, rows)])
    is_pretraining = head.endswith("PreTraining")
    assert result["task"] == ("next-sentence" if is_pretraining else "masked-lm")
    assert result["metrics"]["loss"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "the data must be files or a dataset; got neither"),
        ({"files": ["a"], "dataset": "b"}, "the data must be files or a dataset; got both"),
        ({"files": ["a"], "stride": 8}, "stride is an option of question-answering; got it for"),
        ({"files": ["a"], "max_lenght": 8}, "got 'max_lenght': did you mean max_length"),
        ({"files": ["a"], "mode": "regression"}, "mode is now problem_type: rename it"),
        ({"files": ["a"], "split": 3}, "split must be of type str; got 3"),
    ],
)
def test_options_that_cannot_be_used(classifier, options, message):
    with pytest.raises(OptionError, match=message):
        evaluate(classifier, **options)


def test_outputs_of_nan_are_an_error_and_no_accuracy(classifier, labeled, tmp_path):
    model = FlaxBigBirdForSequenceClassification.from_pretrained(classifier)
    model.params["classifier"]["out_proj"]["bias"] *= math.nan
    shutil.copytree(classifier, tmp_path / "broken")
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(DataError, match="10 of 10 are NaN: its parameters are damaged, or"):
        evaluate(tmp_path / "broken", [labeled[0]])


def test_unknown_labels_are_named(classifier, tmp_path):
    path = write_jsonl(tmp_path / "unknown.jsonl", [{"text": "a", "label": "barn"}])
    with pytest.raises(DataError, match=r"unknown\.jsonl, line 1 has 'barn'"):
        evaluate(classifier, [path])
