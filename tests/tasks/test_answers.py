"""Answers in the forms that files have, with offsets that are wrong, a little or much."""

import os
from pathlib import Path

import numpy as np
import pytest

datasets = pytest.importorskip("datasets")

from flax_bigbird.data.errors import DataError  # noqa: E402
from flax_bigbird.tasks.answers import Answers, first_answer, parse_answers  # noqa: E402
from flax_bigbird.tasks.registry import get_task  # noqa: E402

CONTEXT = "the quick brown fox jumps over the lazy dog at noon near the old mill"
COVID_QA = os.environ.get("FLAX_BIGBIRD_COVID_QA", "")


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("lazy dog", 35, 35),
        (" lazy dog", 35, 34),  # as in COVID-QA: a space before, and the offset of the word
        ("lazy dog", 32, 35),
        ("lazy dog", 45, 35),
        ("lazy dog", 46, None),
        ("the", 1, 0),  # the nearest of several
        ("the", 28, 31),
        ("mill", 70, 65),
        ("mill", -3, None),
        ("the", -3, 0),
        ("cat", 35, None),
        ("", 3, None),
        (" ", 3, None),
    ],
)
def test_an_answer_is_where_its_text_is(text, start, expected):
    span = first_answer(CONTEXT, Answers([text], [start]))
    assert (span and span.start) == expected
    if span:
        assert CONTEXT[span.start : span.end] == text
        assert span.shift == span.start - start


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"text": ["a", "b"], "answer_start": [1, 2]}, Answers(["a", "b"], [1, 2])),
        ({"text": ["a"], "answer_start": [3.0]}, Answers(["a"], [3])),
        ({"text": "a", "answer_start": 3}, Answers(["a"], [3])),
        ({"text": [], "answer_start": []}, Answers([], [])),
        ({"text": ["a"]}, Answers(["a"], None)),
        ({"text": ["a"], "answer_start": None}, Answers(["a"], None)),
        ({"text": None, "answer_start": None}, Answers([], [])),
    ],
)
def test_forms_of_answers(value, expected):
    assert parse_answers(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a", "has a"),
        (None, "has None"),
        ({"answer_start": [1]}, "has {'answer_start'"),
        ({"text": [1], "answer_start": [1]}, "a text that is not a string"),
        ({"text": ["a"], "answer_start": [1.5]}, "one whole number per text"),
        ({"text": ["a"], "answer_start": [float("nan")]}, "one whole number per text"),
        ({"text": ["a"], "answer_start": [1, 2]}, "one whole number per text"),
        ({"text": ["a"], "answer_start": ["1"]}, "one whole number per text"),
        ({"text": ["a"], "answer_start": [True]}, "one whole number per text"),
    ],
)
def test_answers_that_cannot_be_read(value, message):
    with pytest.raises(DataError, match=message):
        parse_answers(value)


def make_rows(*answers):
    row = {"question": "what sleeps", "context": CONTEXT}
    return datasets.Dataset.from_list([row | {"answers": value} for value in answers])


GOOD = {"text": ["lazy dog"], "answer_start": [35]}
SHIFTED = {"text": [" lazy dog"], "answer_start": [35]}
BAD = {"text": ["cat"], "answer_start": [0]}


def spans(task, encoded):
    """Returns the text of the answer of each row, by its positions in a window that holds it."""
    texts = {}
    for example in encoded.examples:
        if example["start"] <= 0:
            continue
        offsets = example["offsets"]
        first, last = (offsets[example[name] - example["context_at"]] for name in ("start", "end"))
        texts[example["row"]] = CONTEXT[first[0] : last[1]]
    return list(texts.values())


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_shifted_answers_are_moved_and_counted(make_task, split):
    task = make_task("question-answering", {"stride": 12, "max_length": 64})
    encoded = task.encode_dataset(make_rows(GOOD, SHIFTED, SHIFTED), split)
    assert [text.strip() for text in spans(task, encoded)] == ["lazy dog"] * 3
    (message,) = encoded.messages
    assert "2 answers" in message
    assert "moved to where their text is, by up to 1 character" in message


def test_misplaced_answers_are_one_error_or_are_dropped(make_task):
    rows = make_rows(GOOD, BAD, SHIFTED, BAD)
    task_class = get_task("question-answering")
    with pytest.raises(DataError, match=r"row 2 of the training data has 'cat' at 0, where the "):
        task_class.infer_config(task_class.options_class(), rows)
    with pytest.raises(DataError, match=r"\(2 rows in all\).*skip_bad_rows"):
        task_class.infer_config(task_class.options_class(), rows)
    options = {"stride": 12, "max_length": 64, "skip_bad_rows": True}
    task_class.infer_config(task_class.options_class(**options), rows)
    task = make_task("question-answering", options)
    encoded = task.encode_dataset(rows, "train")
    assert [text.strip() for text in spans(task, encoded)] == ["lazy dog"] * 2
    assert len(encoded.source) == 2
    assert any(text.startswith("2 answers") and "dropped" in text for text in encoded.messages)
    with pytest.raises(DataError, match="2 rows in all"):
        task.encode_dataset(make_rows(BAD, BAD), "train")


def test_training_needs_answer_start(make_task):
    task_class = get_task("question-answering")
    with pytest.raises(
        DataError, match=r"must have answer_start to be trained on; 1 row of the train"
    ):
        task_class.check_rows(task_class.options_class(), make_rows({"text": ["dog"]}), "train")


@pytest.mark.parametrize(
    ("answers", "has_loss"),
    [
        ([{"text": ["lazy dog"]}, {"text": ["fox"]}], False),
        ([GOOD, BAD], True),
        ([GOOD, {"text": [], "answer_start": []}], True),
    ],
)
def test_evaluation_does_not_need_answer_start(make_task, answers, has_loss):
    """Answers are compared by their texts; the loss is that of the answers with a known start."""
    task = make_task("question-answering", {"stride": 12, "max_length": 64})
    encoded = task.encode_dataset(make_rows(*answers), "test")
    shape = (len(encoded.examples), 64)
    outputs = {name: np.zeros(shape, np.float32) for name in ("start", "end")}
    outputs["losses"] = np.array([3.0, 5.0])[encoded.examples["row"]]
    metrics = task.compute_metrics(outputs, encoded)
    assert "f1" in metrics
    assert metrics.get("loss") == ((4.0 if answers[1]["text"] == [] else 3.0) if has_loss else None)


@pytest.mark.skipif(not COVID_QA, reason="FLAX_BIGBIRD_COVID_QA must name COVID-QA's folder")
def test_all_answers_of_covid_qa_are_found():
    """As published, 234 of 1,380 answers begin with a space or have an offset too far."""
    files = [str(path) for path in sorted(Path(COVID_QA).glob("*.parquet"))]
    rows = datasets.load_dataset("parquet", data_files=files, split="train")
    shifts = []
    for row in rows:
        answers = parse_answers(row["answers"])
        span = first_answer(row["context"], answers)
        assert span is not None
        assert row["context"][span.start : span.end] == answers.texts[0]
        shifts.append(span.shift)
    assert len(shifts) == 1380
    assert sum(shift != 0 for shift in shifts) == 234
    assert set(shifts) == {-1, 0, 2, 3}
