"""Metrics of cases that were computed by hand."""

import math

import numpy as np
import pytest

from flax_bigbird.tasks import metrics


def test_language_model():
    result = metrics.language_model_metrics(
        np.array([2.0, 4.0]), np.array([1, 2]), np.array([9, 3])
    )
    assert result == pytest.approx(
        {
            "loss": 2,
            "bits_per_token": 2 / math.log(2),
            "bits_per_character": 0.5 / math.log(2),
            "perplexity": math.e**2,
        }
    )


def test_single_label_classification():
    logits = np.array([[2.0, 0], [1, 0], [0, 3], [1, 0]])
    result = metrics.single_label_metrics(logits, np.array([0, 0, 1, 1]))
    assert result["accuracy"] == 0.75
    # F1: class 0 has 2/3 precision and recall 1, class 1 precision 1 and recall 1/2.
    assert result["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert result["matthews"] == pytest.approx(1 / math.sqrt(3))
    assert result["auroc"] == pytest.approx(0.875)  # one tie of four pairs


def test_auroc_is_left_out_where_it_is_undefined():
    assert "auroc" not in metrics.single_label_metrics(np.eye(2)[[0, 0]], np.array([0, 0]))
    assert "auroc" not in metrics.single_label_metrics(np.eye(3), np.array([0, 1, 2]))


def test_multi_label_classification():
    logits = np.array([[1.0, -1, 1], [-1, -1, 1], [1, 1, 1]])
    labels = np.array([[1.0, 0, 1], [0, 1, 1], [1, 0, 1]])
    result = metrics.multi_label_metrics(logits, labels)
    assert result["micro_f1"] == pytest.approx(2 * 5 / (2 * 5 + 1 + 1))
    assert result["exact_match"] == pytest.approx(1 / 3)
    assert result["macro_f1"] == pytest.approx((1 + 0 + 1) / 3)
    assert result["auroc"] == pytest.approx((1 + 0.25) / 2)  # the third label has no negatives


def test_the_metrics_of_a_single_label_are_its_own():
    """They are those that the label has beside another one, not those of having it or not."""
    labels = np.array([[1], [1], [0], [0], [0], [0]])
    predicted = np.array([[1], [0], [1], [0], [0], [0]])
    result = metrics.multi_label_metrics(predicted - 0.5, labels)
    assert (result["micro_f1"], result["macro_f1"]) == (0.5, 0.5)
    assert result["exact_match"] == pytest.approx(4 / 6)
    report = metrics.classification_report(labels, predicted, ["toxic"])
    expected = {"precision": 0.5, "recall": 0.5, "f1-score": 0.5, "support": 2}
    assert report == {"toxic": expected}
    wider = metrics.classification_report(
        np.repeat(labels, 2, 1), np.repeat(predicted, 2, 1), list("ab")
    )
    assert wider == {"a": expected, "b": expected}


def test_the_report_is_that_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    names = ["a", "b", "c", "d"]  # no row has the last one
    for labels, predicted in (
        generator.integers(0, 3, (2, 40)),
        generator.integers(0, 2, (2, 9, 4)),
    ):
        own = metrics.classification_report(labels, predicted, names)
        theirs = sklearn.classification_report(
            labels,
            predicted,
            labels=range(4),
            target_names=names,
            output_dict=True,
            zero_division=0,
        )
        for name in names:
            assert own[name] == pytest.approx(theirs[name])
        if labels.ndim == 2:
            result = metrics.multi_label_metrics(predicted - 0.5, labels)
            for kind in ("micro", "macro"):
                score = sklearn.f1_score(labels, predicted, average=kind, zero_division=0)
                assert result[f"{kind}_f1"] == pytest.approx(score)


def test_regression():
    result = metrics.regression_metrics(np.array([1.0, 2, 4]), np.array([1.0, 3, 9]))
    assert result["mse"] == pytest.approx((0 + 1 + 25) / 3)
    assert result["mae"] == 2
    assert result["spearman"] == pytest.approx(1)
    assert result["pearson"] == pytest.approx(np.corrcoef([1, 2, 4], [1, 3, 9])[0, 1])
    assert metrics.regression_metrics(np.ones(3), np.arange(3.0))["pearson"] == 0
    assert metrics.regression_metrics(np.ones(3), np.arange(3.0))["spearman"] == 0
    lost = metrics.correlations(np.array([1.0, np.nan, 2.0]), np.arange(3.0))
    assert np.isnan(list(lost.values())).all(), "a model that has diverged must not look neutral"
    assert metrics.correlations(np.ones(1), np.ones(1)) == {"pearson": 0, "spearman": 0}


def test_confusion():
    assert metrics.confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 3).tolist() == [
        [1, 1, 0],
        [0, 1, 0],
        [0, 0, 0],
    ]


def test_entities():
    targets = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-LOC"]]
    predicted = [["B-PER", "I-PER", "O", "O"], ["B-PER", "B-LOC"]]
    result = metrics.entity_metrics(predicted, targets)
    assert result["precision"] == pytest.approx(2 / 3)
    assert result["recall"] == pytest.approx(2 / 3)
    assert result["f1"] == pytest.approx(2 / 3)
    assert result["accuracy"] == pytest.approx(4 / 6)


# A person of two words and a place of one, side by side, in each scheme; then the place is missed.
ENTITIES = {
    "IOB1": (["I-PER", "I-PER", "I-LOC", "B-LOC", "O"], ["I-PER", "I-PER", "I-LOC", "I-LOC", "O"]),
    "IOB2": (["B-PER", "I-PER", "B-LOC", "B-LOC", "O"], ["B-PER", "I-PER", "B-LOC", "I-LOC", "O"]),
    "IOBES": (["B-PER", "E-PER", "S-LOC", "S-LOC", "O"], ["B-PER", "E-PER", "B-LOC", "E-LOC", "O"]),
    "BILOU": (["B-PER", "L-PER", "U-LOC", "U-LOC", "O"], ["B-PER", "L-PER", "B-LOC", "L-LOC", "O"]),
}


@pytest.mark.parametrize("scheme", ENTITIES)
def test_entities_of_every_scheme(scheme):
    """Two places side by side are predicted as one place of two words."""
    targets, predicted = ENTITIES[scheme]
    assert metrics.entity_metrics([targets], [targets], scheme)["f1"] == 1
    result = metrics.entity_metrics([predicted], [targets], scheme)
    assert result["precision"] == pytest.approx(1 / 2)
    assert result["recall"] == pytest.approx(1 / 3)
    assert result["f1"] == pytest.approx(0.4)


def test_tags_that_form_no_entity_are_wrong():
    """In BILOU, an entity that does not end is none, though it would be one in IOB2."""
    targets, predicted = [["B-PER", "I-PER", "L-PER"]], [["B-PER", "I-PER", "I-PER"]]
    assert metrics.entity_metrics(predicted, targets, "BILOU")["f1"] == 0
    assert metrics.entity_metrics([["I-PER"]], [["B-PER"]], "IOB2")["f1"] == 0


def test_documents_without_words():
    expected = {"f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": 0.0}
    assert metrics.entity_metrics([[], []], [[], []]) == expected


def test_documents_without_entities():
    result = metrics.entity_metrics([["O", "O"]], [["O", "O"]])
    assert result == {"f1": 0, "precision": 0, "recall": 0, "accuracy": 1}


def test_tags_without_a_scheme():
    result = metrics.tag_metrics(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 2]))
    assert result["accuracy"] == 0.75
    assert result["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert metrics.tag_metrics(np.array([], int), np.array([], int))["accuracy"] == 0
