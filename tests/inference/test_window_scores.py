"""`window_scores`: what a classifier says of each window of a document, and where the window is."""

import itertools
import json

import numpy as np
import pytest
from tiny_checkpoints import sentence

from flax_bigbird.data.errors import OptionError
from flax_bigbird.inference import load_predictor

CLASSIFIER = "FlaxBigBirdForSequenceClassification"
LENGTH = 16


@pytest.fixture
def classify(predictor):
    return predictor(CLASSIFIER, max_length=LENGTH, whole_documents=True, window_scores=True)


def spread(words: str) -> str:
    """Returns the words with white space of several kinds around them."""
    gaps = [" ", "  ", "\n\n", "\t", "\u00a0 "]
    return "\n " + "".join(word + gaps[n % len(gaps)] for n, word in enumerate(words.split()))


def test_windows_cover_the_text_and_each_has_what_its_own_text_has(classify, predictor):
    text = spread(sentence(3, 40))
    answer = classify(text)
    windows = answer["windows"]
    assert len(windows) > 2
    assert windows[0]["start"] == len(text) - len(text.lstrip())
    assert windows[-1]["end"] == len(text.rstrip())
    for previous, window in itertools.pairwise(windows):
        assert previous["start"] < window["start"] <= previous["end"] + 2
    alone = predictor(CLASSIFIER, max_length=LENGTH)
    num_compared = 0
    for window in windows:
        covered = text[window["start"] : window["end"]]
        assert covered == covered.strip() != ""
        # A window may begin within a word, which would be other tokens at the start of a text.
        if any(map(str.isspace, text[window["start"] - 1 : window["start"] + 1])):
            num_compared += 1
            expected = alone(covered)
            assert window["label"] == expected["label"]
            np.testing.assert_allclose(
                list(window["scores"].values()), list(expected["scores"].values()), atol=1e-5
            )
    assert num_compared > 1


@pytest.mark.filterwarnings("ignore::flax_bigbird.data.errors.UnknownTokensWarning")
@pytest.mark.parametrize(
    "text",
    [
        spread(sentence(8, 30)),
        "e\u0301te\u0301  \ufb01ne\u2003\u200b x " * 9,
        "[MASK]  a [SEP] " * 9,
    ],
)
def test_white_space_and_marks_leave_the_document_unchanged(classify, predictor, text):
    answer = classify(text)
    assert len(answer.pop("windows")) > 1
    assert answer == predictor(CLASSIFIER, max_length=LENGTH, whole_documents=True)(text)


def test_the_first_window_is_the_truncated_text_and_the_document_is_unchanged(classify, predictor):
    texts = [sentence(4, 50), sentence(5, 3)]
    for answer, whole, cut in zip(
        classify(texts),
        predictor(CLASSIFIER, max_length=LENGTH, whole_documents=True)(texts),
        predictor(CLASSIFIER, max_length=LENGTH)(texts),
        strict=True,
    ):
        first = answer.pop("windows")[0]
        assert answer == whole
        assert {"label", "score", "scores", "start", "end"} == first.keys()
        np.testing.assert_allclose(first["score"], cut["score"], atol=1e-6)


@pytest.mark.parametrize("text", ["", " \n "])
def test_an_empty_text_has_one_empty_window(classify, text):
    (window,) = classify([text])[0]["windows"]
    assert (window["start"], window["end"]) == (0, 0)


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"problem_type": "multi_label_classification"}, {"labels", "scores"}),
        ({"problem_type": "regression", "num_labels": 1}, {"value"}),
    ],
)
def test_windows_have_the_form_of_the_document(make_checkpoint, changes, keys):
    folder = make_checkpoint(CLASSIFIER, **changes)
    classify = load_predictor(folder, max_length=LENGTH, whole_documents=True, window_scores=True)
    answer = classify(sentence(6, 30))
    assert answer.keys() == keys | {"windows"}
    assert all(window.keys() == keys | {"start", "end"} for window in answer["windows"])
    json.dumps(answer)  # as the files of `bigbird predict` hold it


def test_window_scores_need_whole_documents(make_checkpoint):
    with pytest.raises(OptionError, match="window_scores needs whole_documents; got true"):
        load_predictor(make_checkpoint(CLASSIFIER), window_scores=True)
