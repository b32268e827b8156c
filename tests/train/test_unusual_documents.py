"""Documents that are empty, far longer than the model, or no language at all."""

import random

import pytest
from tiny_runs import (
    HARBOR,
    MEADOW,
    RecordingCallback,
    random_words,
    tiny_run_options,
    write_jsonl,
    write_labeled_texts,
)

from flax_bigbird.data.errors import DataError
from flax_bigbird.inference import load_predictor, predict_files
from flax_bigbird.train import train


def rows_with(text):
    """Returns `text`, twenty ordinary documents, and two empty ones."""
    ordinary = [random_words(HARBOR, 20, random.Random(seed)) for seed in range(20)]
    texts = [text, *ordinary, "", " \n "]
    return [{"text": text, "label": "ab"[index > 0]} for index, text in enumerate(texts)]


@pytest.mark.parametrize("whole_documents", [False, True])
def test_empty_documents_are_reported_and_classified(tmp_path, whole_documents):
    data = write_jsonl(tmp_path / "a.jsonl", rows_with("the cow"))
    recorded = RecordingCallback()
    options = tiny_run_options(
        tmp_path,
        whole_documents=whole_documents,
        validation_fraction=0,
        train_files=[data],
        max_steps=2,
    )
    train(options, [recorded])
    message = f"2 texts in column 'text' of the training data are empty, {data}, line 22 first."
    assert message in recorded.messages
    answers = load_predictor(tmp_path / "run")(["", " \n ", HARBOR])
    assert [set(answer["scores"]) for answer in answers] == [{"a", "b"}] * 3
    assert all(0 <= answer["score"] <= 1 for answer in answers)  # no NaN
    assert answers[0] == answers[1]


def test_empty_documents_in_pretraining(tmp_path):
    data = write_jsonl(tmp_path / "a.jsonl", rows_with(MEADOW * 3))
    recorded = RecordingCallback()
    options = tiny_run_options(
        tmp_path, "masked-lm", train_files=[data], validation_fraction=0, max_steps=2
    )
    report = train(options, [recorded])
    assert report["training"]["rows"] >= 21
    assert any("are empty" in text for text in recorded.messages)
    empty = write_jsonl(tmp_path / "b.jsonl", [{"text": ""}] * 3)
    options = tiny_run_options(
        tmp_path / "other",
        "masked-lm",
        train_files=[empty],
        tokenizer=str(tmp_path / "run"),
        validation_fraction=0,
    )
    with pytest.raises(DataError, match="must hold a text that is not empty; all are empty"):
        train(options)


@pytest.mark.parametrize(
    ("task", "row", "column", "changes"),
    [
        ("next-sentence", {}, "text", {}),
        ("multiple-choice", {"choices": ["a", "b"], "label": 0}, "text", {}),
        (
            "question-answering",
            {"question": "who", "answers": {"text": [], "answer_start": []}},
            "context",
            {"stride": 8},
        ),
    ],
)
def test_every_task_reports_empty_texts(tmp_path, task, row, column, changes):
    data = write_jsonl(tmp_path / "a.jsonl", [row | {column: x} for x in (MEADOW, "", HARBOR)])
    recorded = RecordingCallback()
    options = tiny_run_options(
        tmp_path, task, max_steps=1, validation_fraction=0, train_files=[data], **changes
    )
    train(options, [recorded])
    message = f"1 text in column '{column}' of the training data is empty, {data}, line 2."
    assert message in recorded.messages


def test_many_empty_documents_before_the_first_text(tmp_path):
    """The types of columns do not follow from the first thousand rows."""
    rows = [{"text": ""}] * 1100 + [{"text": MEADOW}] * 3
    data = write_jsonl(tmp_path / "a.jsonl", rows)
    options = tiny_run_options(
        tmp_path, "masked-lm", train_files=[data], validation_fraction=0, max_steps=1
    )
    assert train(options)["training"]["rows"] == 3


@pytest.mark.slow
def test_a_document_of_a_million_tokens(tmp_path):
    """Pretraining splits it into windows; classification reads all of it, or reports a cut."""
    num_words = 250_000  # of four tokens and more
    long_text = random_words(MEADOW, num_words, random.Random(0))
    data = write_jsonl(tmp_path / "a.jsonl", rows_with(long_text))
    common = {"train_files": [data], "validation_fraction": 0, "max_steps": 2}
    report = train(tiny_run_options(tmp_path / "lm", "masked-lm", **common))
    assert report["training"]["tokens"] > 1_000_000
    recorded = RecordingCallback()
    train(tiny_run_options(tmp_path / "cut", **common), [recorded])
    assert any(
        "1 of 23 documents" in text and "tokens and is truncated" in text
        for text in recorded.messages
    )
    report = train(tiny_run_options(tmp_path / "whole", whole_documents=True, **common))
    assert report["training"]["tokens"] > 1_000_000
    predictor = load_predictor(tmp_path / "whole" / "run")
    predict_files(predictor, [data], tmp_path / "answers.jsonl")
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 23


@pytest.fixture(scope="module")
def classify(tmp_path_factory):
    """A predictor of a run of one step."""
    folder = tmp_path_factory.mktemp("run")
    data = write_labeled_texts(folder / "a.jsonl", 20)
    train(tiny_run_options(folder, train_files=[data], max_steps=1, validation_fraction=0))
    return load_predictor(folder / "run")


@pytest.mark.filterwarnings("ignore::flax_bigbird.data.errors.UnknownTokensWarning")
@pytest.mark.parametrize("text", ["\x00\x01\x02", "🐦" * 50, "﷽ \u202e\u200d", "a" * 5000])
def test_texts_that_are_no_language(classify, text):
    assert 0 < classify(text)["score"] <= 1
