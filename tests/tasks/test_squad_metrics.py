"""The metrics of SQuAD 1.1 and 2.0 of cases that were computed by hand."""

import numpy as np
import pytest

from flax_bigbird.tasks.squad_metrics import exact_match, f1_score, squad_metrics


def test_answers_are_normalized_before_they_are_compared():
    assert exact_match("The  Mill!", ["old mill", "mill"]) == 1
    assert exact_match("mills", ["mill"]) == 0
    assert exact_match("", []) == 1
    assert f1_score("the old mill", ["mill at noon"]) == pytest.approx(2 / 5)  # 1 of 2, 1 of 3
    assert f1_score("a", []) == 1  # an article does not count
    assert f1_score("mill", []) == 0


def test_answers_of_which_no_words_are_left_are_no_answers():
    """As in SQuAD's own script of version 2.0."""
    assert exact_match("the", ["A", "vitamin A"]) == 0
    assert f1_score("the", ["A", "vitamin B"]) == 0
    assert exact_match("the", ["A"]) == 1


def test_no_words_are_right_for_a_question_without_an_answer():
    """At every threshold, so that the best one answers the second question."""
    metrics = squad_metrics(["", "mill"], np.array([-2.0, -1.0]), [[], ["mill"]])
    assert (metrics["best_f1"], metrics["best_f1_threshold"]) == (100, -1)


def test_metrics_with_and_without_answers():
    """The predictions are right, half right, wrongly without answer, rightly without answer."""
    predicted = ["mill", "old mill", "dog", "fox"]
    answers = [["mill"], ["mill"], ["dog"], []]
    no_answer = np.array([-3.0, -2.0, 1.0, 2.0])
    metrics = squad_metrics(predicted, no_answer, answers)
    assert metrics["exact"] == pytest.approx(50)
    assert metrics["f1"] == pytest.approx(100 * (1 + 2 / 3 + 0 + 1) / 4)
    assert metrics["has_answer_f1"] == pytest.approx(100 * (1 + 2 / 3) / 3)
    assert metrics["no_answer_exact"] == 100
    # It is best to answer the third question too, but not the fourth.
    assert metrics["best_f1"] == pytest.approx(100 * (1 + 2 / 3 + 1 + 1) / 4)
    assert metrics["best_f1_threshold"] == 1.0
    assert set(squad_metrics(predicted[:2], no_answer[:2], answers[:2])) == {"exact", "f1"}
