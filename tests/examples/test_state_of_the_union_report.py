"""The report of the demo and its baselines."""

import json

import pytest

from flax_bigbird.examples.state_of_the_union import baselines, report
from flax_bigbird.examples.state_of_the_union.speeches import LABELS, Speech


def test_a_score_counts_what_is_right():
    score = report.score("guess", [1, 2, 3, 4], [1, 2, 0, 4])
    assert (score.right, score.total, score.accuracy) == (3, 4, 0.75)


@pytest.mark.parametrize(("predicted", "expected"), [([1], [1, 2]), ([], [])])
def test_a_score_needs_a_prediction_for_each_speech(predicted, expected):
    with pytest.raises(ValueError, match="one prediction per speech"):
        report.score("guess", predicted, expected)


def test_the_interval_is_that_of_wilson():
    low, high = report.Score("half", 25, 50).interval
    assert low == pytest.approx(0.3664, abs=1e-3)
    assert high == pytest.approx(0.6336, abs=1e-3)
    assert report.Score("all", 50, 50).interval[1] == 1.0
    assert report.Score("none", 0, 50).interval[0] == 0.0
    assert report.Score("none", 0, 50).interval[1] == pytest.approx(0.0714, abs=1e-3)


def _report(steps=3):
    scores = [report.score("BigBird, whole speech", [0, 1], [0, 0])]
    probabilities = dict(zip(LABELS, [0.01] * 9 + [0.91], strict=True))
    settings = {"seed": 5, "model": "mini", "from_scratch": False}
    settings |= {"max_length": 8, "window_length": 4, "batch_size": 2, "steps": steps}
    facts = {
        "parameters": 12345,
        "training_speeches": 10,
        "held_out_speeches": 2,
        "seconds": {"training": 1.0, "total": 1.5},
    }
    prediction = report.Prediction("2001-X-1", 2001, probabilities)
    return report.as_json(scores, prediction, settings, facts)


def test_the_report_is_json_and_marks_who_made_it():
    loaded = json.loads(json.dumps(_report()))
    assert loaded["made_by"] == report.MADE_BY
    assert loaded["rows"][0]["accuracy"] == 0.5
    assert loaded["prediction"]["predicted"] == "2000-today"


def test_the_markdown_report_has_every_figure():
    text = report.as_markdown(_report())
    assert "| BigBird, whole speech | 1 of 2 | 0.50 | 0.09 to 0.91 |" in text
    assert "12,345 parameters" in text
    assert "Training: the head, then all layers in 3 steps of 2 x 4 tokens; seed 5" in text
    assert "Training: the head only" in report.as_markdown(_report(steps=0))
    assert "| 2000-today | 0.910 |" in text
    assert "predicts 2000-today for this speech." in text


def test_the_majority_class_is_that_of_the_training_speeches():
    years = [1790, 1801, 1802, 1900]
    speeches = [Speech(str(year), year, "") for year in years]
    assert LABELS[baselines.majority_class(speeches)] == "1800-1824"


def test_tfidf_classifies_texts_by_their_words():
    training = [Speech("", 1790, "sloop frigate sloop militia")] * 2
    training += [Speech("", 2010, "internet jobs internet energy")] * 2
    held_out = [Speech("", 2012, "energy and internet"), Speech("", 1795, "militia and frigate")]
    assert baselines.tfidf_predictions(training, held_out) == [9, 0]
