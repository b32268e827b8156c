"""Documents that nobody planned for: empty ones, and ones far longer than the model."""

import random

import pytest
from training_tools import HARBOUR, MEADOW, labelled, options, sentences, write_jsonl

from flax_bigbird import tasks
from flax_bigbird.tasks import predicting
from flax_bigbird.tasks.errors import DataError
from flax_bigbird.train.run import train
from flax_bigbird.train.watch import NoScreen


class Notes(NoScreen):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def rows_with(text):
    """Twenty ordinary documents, two empty ones, and `text`."""
    short = [sentences(HARBOUR, 20, random.Random(n)) for n in range(20)]
    texts = [text, *short, "", " \n "]
    return [{"text": text, "label": "ab"[n > 0]} for n, text in enumerate(texts)]


@pytest.mark.parametrize("whole", [False, True], ids=["cut", "whole"])
def test_empty_documents_are_said_and_answered(tmp_path, whole):
    data = write_jsonl(tmp_path / "a.jsonl", rows_with("the cow"))
    screen = Notes()
    chosen = {"whole_documents": whole, "validation_share": 0.0, "train_files": [data]}
    train(options(tmp_path, **chosen), screen)
    said = "2 texts in column 'text' of the training data are empty, row 22 first."
    assert said in screen.notes
    answers = tasks.load(tmp_path / "run")(["", " \n ", HARBOUR])
    assert [set(answer["scores"]) for answer in answers] == [{"a", "b"}] * 3
    assert all(0 <= answer["score"] <= 1 for answer in answers)  # no NaN
    assert answers[0] == answers[1]


def test_empty_documents_in_pretraining(tmp_path):
    data = write_jsonl(tmp_path / "a.jsonl", rows_with(MEADOW * 3))
    screen = Notes()
    found = train(options(tmp_path, "masked-lm", train_files=[data], validation_share=0.0), screen)
    assert found["training"]["rows"] >= 21
    assert any("are empty" in note for note in screen.notes)
    empty = write_jsonl(tmp_path / "b.jsonl", [{"text": ""}] * 3)
    with pytest.raises(DataError, match="must hold a text of 8 pieces or more; all are shorter"):
        train(
            options(
                tmp_path / "other",
                "masked-lm",
                train_files=[empty],
                tokenizer=str(tmp_path / "run"),
                validation_share=0.0,
            )
        )


@pytest.mark.parametrize(
    ("task", "row", "column"),
    [
        ("next-sentence", {}, "text"),
        ("multiple-choice", {"choices": ["a", "b"], "label": 0}, "text"),
        (
            "question-answering",
            {"question": "who", "answers": {"text": [], "answer_start": []}},
            "context",
        ),
    ],
)
def test_every_task_says_which_texts_are_empty(tmp_path, task, row, column):
    data = write_jsonl(tmp_path / "a.jsonl", [row | {column: x} for x in (MEADOW, "", HARBOUR)])
    screen = Notes()
    chosen = {"stride": 8, "max_steps": 1, "validation_share": 0.0, "train_files": [data]}
    train(options(tmp_path, task, **chosen), screen)
    said = f"1 texts in column '{column}' of the training data are empty, row 2 first."
    assert said in screen.notes


def test_many_short_documents_before_the_first_long_one(tmp_path):
    """The kinds of columns are not those of the first thousand rows."""
    rows = [{"text": "cow"}] * 1100 + [{"text": MEADOW}] * 3
    data = write_jsonl(tmp_path / "a.jsonl", rows)
    found = train(options(tmp_path, "masked-lm", train_files=[data], validation_share=0.0))
    assert found["training"]["rows"] == 3


@pytest.mark.slow
def test_a_document_of_a_million_tokens(tmp_path):
    """Pretraining cuts it into windows; classification reads all of it, or says what it cuts."""
    words = 250_000  # of four pieces and more
    data = write_jsonl(tmp_path / "a.jsonl", rows_with(sentences(MEADOW, words, random.Random(0))))
    common = {"train_files": [data], "validation_share": 0.0}
    found = train(options(tmp_path / "lm", "masked-lm", **common))
    assert found["training"]["tokens"] > 1_000_000
    screen = Notes()
    train(options(tmp_path / "cut", **common), screen)
    assert any("1 of 23 documents" in note and "are cut" in note for note in screen.notes)
    found = train(options(tmp_path / "whole", whole_documents=True, **common))
    assert found["training"]["tokens"] > 1_000_000
    run = str(tmp_path / "whole" / "run")
    predicting.predict(tasks.load(run), run, [data], str(tmp_path / "answers.jsonl"))
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 23


@pytest.mark.parametrize("text", ["\x00\x01\x02", "🐦" * 50, "﷽ \u202e\u200d", "a" * 5000])
def test_texts_that_are_no_language(tmp_path, text):
    data = labelled(tmp_path / "a.jsonl", 20)
    train(options(tmp_path, train_files=[data], max_steps=1, validation_share=0.0))
    answer = tasks.load(tmp_path / "run")(text)
    assert 0 < answer["score"] <= 1
