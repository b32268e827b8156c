import json

import pytest

from flax_bigbird.cli.demo import baselines, report
from flax_bigbird.cli.demo.data import LABELS, Speech


def test_a_row_counts_what_is_right():
    row = report.row("guess", [1, 2, 3, 4], [1, 2, 0, 4])
    assert (row.right, row.total, row.accuracy) == (3, 4, 0.75)


@pytest.mark.parametrize(("predicted", "wanted"), [([1], [1, 2]), ([], [])])
def test_a_row_needs_a_prediction_for_each_speech(predicted, wanted):
    with pytest.raises(ValueError, match="one prediction a speech"):
        report.row("guess", predicted, wanted)


def test_the_interval_is_wilsons():
    low, high = report.Row("half", 25, 50).interval
    assert low == pytest.approx(0.3664, abs=1e-3)
    assert high == pytest.approx(0.6336, abs=1e-3)
    assert report.Row("all", 50, 50).interval[1] == 1.0
    assert report.Row("none", 0, 50).interval[0] == 0.0
    assert report.Row("none", 0, 50).interval[1] == pytest.approx(0.0714, abs=1e-3)


def _report():
    rows = [report.row("BigBird, whole speech", [0, 1], [0, 0])]
    probabilities = dict(zip(LABELS, [0.01] * 9 + [0.91], strict=True))
    settings = {"seed": 5, "model": "mini", "from_scratch": False}
    settings |= {"length": 8, "window": 4, "batch": 2, "steps": 3}
    facts = {
        "parameters": 12345,
        "training_speeches": 10,
        "held_out_speeches": 2,
        "seconds": {"training": 1.0, "total": 1.5},
    }
    prediction = report.Prediction("2001-X-1", 2001, probabilities)
    return report.as_json(rows, prediction, settings, facts)


def test_the_report_is_json_and_marks_who_made_it():
    found = json.loads(json.dumps(_report()))
    assert found["made_by"] == report.MADE_BY
    assert found["rows"][0]["accuracy"] == 0.5
    assert found["prediction"]["predicted"] == "2000-today"


def test_the_report_to_read_has_every_figure():
    text = report.as_markdown(_report())
    assert "| BigBird, whole speech | 1 of 2 | 0.50 | 0.09 to 0.91 |" in text
    assert "12,345 parameters" in text
    assert "seed 5" in text
    assert "| 2000-today | 0.910 |" in text
    assert "It says 2000-today." in text


def test_the_majority_is_of_the_training_speeches():
    years = [1790, 1801, 1802, 1900]
    speeches = [Speech(str(year), year, "") for year in years]
    assert LABELS[baselines.majority_class(speeches)] == "1800-1824"


def test_tfidf_tells_texts_by_their_words():
    training = [Speech("", 1790, "sloop frigate sloop militia")] * 2
    training += [Speech("", 2010, "internet jobs internet energy")] * 2
    held_out = [Speech("", 2012, "energy and internet"), Speech("", 1795, "militia and frigate")]
    assert baselines.tfidf_predictions(training, held_out) == [9, 0]
