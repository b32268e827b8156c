"""Answers as positions of tokens, and positions of tokens as answers."""

import numpy as np
import pytest

datasets = pytest.importorskip("datasets")

from flax_bigbird.data.errors import DataError  # noqa: E402
from flax_bigbird.data.windows import ContextWindow, context_windows  # noqa: E402
from flax_bigbird.tasks.base import Window  # noqa: E402
from flax_bigbird.tasks.question_answering import _answer_positions  # noqa: E402
from flax_bigbird.tasks.spans import NO_SPAN, Span, best_span  # noqa: E402


@pytest.mark.parametrize("search_from", [0, 80, 240])
def test_every_window_that_holds_an_answer_has_its_positions(tokenizer, text, search_from):
    """The tokens between start and end spell the answer."""
    start = text.index("lazy dog", search_from)
    answer = (start, start + len("lazy dog"))
    windows = list(context_windows(tokenizer, "what sleeps", text, 40, 12))
    assert len(windows) > 3
    labeled = [(window, *_answer_positions(window, answer)) for window in windows]
    assert any(first > 0 for _, first, _ in labeled)
    for window, first, last in labeled:
        assert len(window.input_ids) <= 40
        is_whole = window.offsets[0][0] <= start and answer[1] <= window.offsets[-1][1]
        assert (first > 0) == (last > 0) == is_whole
        if is_whole:
            characters = [window.offsets[i - window.context_start] for i in (first, last)]
            assert text[characters[0][0] : characters[1][1]].strip() == "lazy dog"


def test_the_best_span_is_in_the_context_and_not_too_long():
    offsets = [(0, 3), (3, 6), (6, 9)]
    start = np.array([99.0, 99, 1, 5, 0, 99])
    end = np.array([99.0, 99, 9, 0, 4, 99])
    # The most likely end is before the most likely start.
    assert best_span(2, offsets, start, end, 30) == Span(0, 3, 10.0)
    end[2] = -9
    assert best_span(2, offsets, start, end, 30) == Span(3, 9, 9.0)
    assert best_span(2, offsets, start, end, 1) == Span(3, 6, 5.0)
    assert best_span(2, [], start, end, 30) == NO_SPAN


def test_prediction_and_evaluation_encode_the_same_windows(make_task, text):
    task = make_task("question-answering", {"stride": 12, "max_length": 40})
    answers = {"text": ["lazy dog"], "answer_start": [text.index("lazy dog")]}
    row = {"question": "what sleeps", "context": text, "answers": answers}
    encoded = task.encode_dataset(datasets.Dataset.from_list([row]), "validation")
    windows = task.encode(row)
    assert [window.input_ids for window in windows] == list(encoded.examples["input_ids"])

    # The best span of all windows is the answer, in the metrics and in the prediction.
    shape = (len(windows), 40)
    outputs = {name: np.zeros(shape, np.float32) for name in ("start", "end")}
    for index, example in enumerate(encoded.examples):
        for name in outputs:
            outputs[name][index, example[name]] = 9 if example["start"] else 1
    texts, no_answer = task.best_answers(outputs, encoded)
    assert texts == ["lazy dog"]
    assert no_answer < 0
    per_window = [{name: value[i] for name, value in outputs.items()} for i in range(len(windows))]
    prediction = task.decode(row, windows, per_window)
    assert prediction["answer"] == "lazy dog"
    assert text[prediction["start"] : prediction["end"]] == "lazy dog"


@pytest.mark.parametrize("context", [" lazy dog at noon", "at noon the lazy dog\n"])
def test_white_space_around_an_answer_does_not_hide_it(make_task, context):
    """At the start or the end of a context, it may lie outside of all tokens."""
    task = make_task("question-answering", {"max_length": 40, "stride": 8})
    answer = context[context.index(" lazy") :].removesuffix(" at noon")
    spans = []
    for text in (answer, "lazy dog"):
        answers = {"text": [text], "answer_start": [context.index(text)]}
        row = {"question": "what sleeps", "context": context, "answers": answers}
        (example,) = task.encode_dataset(datasets.Dataset.from_list([row]), "train").examples
        spans.append((example["start"], example["end"]))
    assert spans[0] == spans[1] != (0, 0)


def test_an_answer_must_be_where_answer_start_says(make_task, text):
    task = make_task("question-answering", {"stride": 12, "max_length": 40})
    row = {
        "question": "what",
        "context": text,
        "answers": {"text": ["dog"], "answer_start": [3]},
    }
    with pytest.raises(DataError, match="an answer must be in its context where answer_start says"):
        task.encode_dataset(datasets.Dataset.from_list([row]), "train")


@pytest.mark.parametrize("num_without", [0, 1])
def test_training_data_say_whether_questions_may_have_no_answer(make_task, text, num_without):
    task = make_task("question-answering", {"stride": 12, "max_length": 40})
    answers = {"text": ["dog"], "answer_start": [text.index("dog")]}
    row = {"question": "what", "context": text}
    rows = [row | {"answers": answers}] * 3
    rows += [row | {"answers": {"text": [], "answer_start": []}}] * num_without
    data = datasets.Dataset.from_list(rows)
    key = "handle_impossible_answer"
    assert type(task).infer_config(task.options, data) == {key: num_without > 0}
    given = task.options.model_copy(update={key: num_without == 0})
    assert type(task).infer_config(given, data) == {key: num_without == 0}


@pytest.mark.parametrize("handled", [True, False])
def test_no_answer_wins_only_if_questions_may_have_none(make_task, text, handled):
    """The logits of all windows favor no answer, and then "lazy dog"."""
    changes = {"stride": 12, "max_length": 40, "handle_impossible_answer": handled}
    task = make_task("question-answering", changes)
    answers = {"text": ["lazy dog"], "answer_start": [text.index("lazy dog")]}
    row = {"question": "what sleeps", "context": text, "answers": answers}
    encoded = task.encode_dataset(datasets.Dataset.from_list([row]), "validation")
    shape = (len(encoded.examples), 40)
    outputs: dict[str, np.ndarray] = {name: np.zeros(shape) for name in ("start", "end")}
    outputs["losses"] = np.zeros(len(encoded.examples), np.float32)
    for index, example in enumerate(encoded.examples):
        for name in ("start", "end"):
            outputs[name][index, 0] = 9
            if example["start"]:
                outputs[name][index, example[name]] = 5
    metrics = task.compute_metrics(outputs, encoded)
    assert metrics["exact"] == metrics["f1"] == (0 if handled else 100)
    windows = task.encode(row)
    per_window = [{name: outputs[name][i] for name in ("start", "end")} for i in range(shape[0])]
    prediction = task.decode(row, windows, per_window)
    assert prediction["answer"] == ("" if handled else "lazy dog")
    assert task.decode(row | {"context": ""}, [], [])["answer"] == ""


def test_white_space_is_no_answer(make_task):
    """The best span is the space between two words, which the tokens of some models are."""
    task = make_task("question-answering", {"stride": 12, "handle_impossible_answer": False})
    offsets = [(0, 1), (1, 3), (3, 4)]
    windows = [Window([0] * 4, ContextWindow([0] * 4, 1, offsets, False))]
    logits = np.array([0, 2, 5, 3], np.float32)
    outputs = [{"start": logits, "end": logits}]
    row = {"question": "", "context": "a  b"}
    prediction = task.decode(row, windows, outputs)
    assert [prediction[name] for name in ("answer", "start", "end", "score")] == [
        "",
        None,
        None,
        10,
    ]
    answers = task.top_answers(row, windows, outputs, 3)
    assert [(x["answer"], x["start"], x["end"], x["score"]) for x in answers] == [
        ("b", 3, 4, 6),
        ("a", 0, 1, 4),
    ]
