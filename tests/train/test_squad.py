"""SQuAD's metrics and the windows of a context."""

import numpy as np
import pytest

from flax_bigbird.tasks import spans
from flax_bigbird.tasks.text import pieces_with_places
from flax_bigbird.train import squad, vocabulary
from flax_bigbird.train.objectives import question_answering as qa

TEXT = "The quick brown fox jumps over the lazy dog. It sleeps by the old mill at noon. " * 4


def test_normalised_texts_are_compared():
    assert squad.exact("The  Mill!", ["old mill", "mill"]) == 1
    assert squad.exact("mills", ["mill"]) == 0
    assert squad.exact("", []) == 1
    assert squad.f1("the old mill", ["mill at noon"]) == pytest.approx(2 / 5)  # 1 of 2, 1 of 3
    assert squad.f1("a", []) == 1  # an article is nothing
    assert squad.f1("mill", []) == 0


def test_metrics_with_and_without_answers():
    """Right, half right, wrongly silent, rightly silent."""
    predicted = ["mill", "old mill", "dog", "fox"]
    answers = [["mill"], ["mill"], ["dog"], []]
    no_answer = np.array([-3.0, -2.0, 1.0, 2.0])
    found = squad.squad_metrics(predicted, no_answer, answers)
    assert found["exact"] == pytest.approx(50)
    assert found["f1"] == pytest.approx(100 * (1 + 2 / 3 + 0 + 1) / 4)
    assert found["has_answer_f1"] == pytest.approx(100 * (1 + 2 / 3) / 3)
    assert found["no_answer_exact"] == 100
    # Answering the third too, and not the fourth, is best.
    assert found["best_f1"] == pytest.approx(100 * (1 + 2 / 3 + 1 + 1) / 4)
    assert found["best_f1_threshold"] == 1.0
    assert set(squad.squad_metrics(predicted[:2], no_answer[:2], answers[:2])) == {"exact", "f1"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    made = vocabulary.train_vocabulary([TEXT], 38)
    return vocabulary.save_vocabulary(made, tmp_path_factory.mktemp("vocabulary"), 512)


@pytest.mark.parametrize("space", [" ", "\n", "  ", "\t\n"])
def test_pieces_lie_where_they_say(tokenizer, space):
    text = TEXT.replace(" by ", f"{space}by{space}")
    ids, places = pieces_with_places(tokenizer, text)
    assert len(ids) == len(places)
    for piece, (first, last) in zip(tokenizer.convert_ids_to_tokens(ids), places, strict=True):
        assert piece.replace("▁", "") in text[first:last] or piece == "<unk>"


@pytest.mark.parametrize("at", [0, 80, 240])
def test_an_answer_is_found_again_in_its_windows(tokenizer, at):
    """The pieces between start and end spell it, in every window that holds it."""
    first = TEXT.index("lazy dog", at)
    answer = (first, first + len("lazy dog"))
    windows = list(spans.context_windows(tokenizer, "what sleeps", TEXT, 40, 12))
    assert len(windows) > 3
    found = [(window, *qa._inside(window.places, answer)) for window in windows]
    assert any(start >= 0 for _, start, _ in found)
    for window, start, end in found:
        assert len(window.ids) <= 40
        whole = window.places[0][0] <= first and answer[1] <= window.places[-1][1]
        assert (start >= 0) == whole
        if whole:
            assert TEXT[window.places[start][0] : window.places[end][1]].strip() == "lazy dog"


def test_windows_share_and_cover(tokenizer):
    _, places = pieces_with_places(tokenizer, TEXT)
    windows = list(spans.context_windows(tokenizer, "what", TEXT, 40, 12))
    joined = windows[0].places
    for window in windows[1:]:
        assert window.places[:12] == joined[-12:]
        joined = joined + window.places[12:]
    assert joined == places


def test_the_best_span_is_of_the_context_and_not_too_long():
    places = [(0, 3), (3, 6), (6, 9)]
    start = np.array([99.0, 99, 1, 5, 0, 99])
    end = np.array([99.0, 99, 9, 0, 4, 99])
    # The likeliest end lies before the likeliest start.
    assert spans.best_span(2, places, start, end, 30) == spans.Span(0, 3, 10.0)
    end[2] = -9
    assert spans.best_span(2, places, start, end, 30) == spans.Span(3, 9, 9.0)
    assert spans.best_span(2, places, start, end, 1) == spans.Span(3, 6, 5.0)
    assert spans.best_span(2, [], start, end, 30) == spans.NOTHING
