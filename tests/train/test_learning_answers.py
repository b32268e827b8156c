"""Runs that learn to answer: questions on contexts longer than the model, and multiple choice."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import HARBOR, MEADOW, WIDER_MODEL, random_words, tiny_run_options, write_jsonl

from flax_bigbird.data.errors import DataError
from flax_bigbird.inference import evaluate, load_predictor
from flax_bigbird.train import train

FILLER = "the old road runs past a low wall and then on over the wide green hill"
NAMES = ["Alton", "Brook", "Carey", "Dover", "Ely", "Frome"]
KEY_WORDS = {"which town": "near", "who spoke": "said"}


def read_jsonl(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def write_questions(path: Path, count: int, seed: int) -> str:
    """Writes rows with SQuAD's columns, a third of them without an answer.

    The answer is one or two names after a key word.
    """
    generator = random.Random(seed)

    def filler(low: int, high: int) -> list[str]:
        return [generator.choice(FILLER.split()) for _ in range(generator.randint(low, high))]

    rows = []
    for index in range(count):
        question, key = generator.choice(list(KEY_WORDS.items()))
        other = next(word for word in KEY_WORDS.values() if word != key)
        name = " ".join(generator.sample(NAMES, generator.randint(1, 2)))
        words = [*filler(0, 40), other, generator.choice(NAMES), *filler(2, 40)]
        answers: dict[str, list] = {"text": [], "answer_start": []}
        if index % 3:
            words += [key, name, *filler(2, 40)]
            answers = {"text": [name], "answer_start": [len(" ".join(words[: words.index(key)]))]}
            answers["answer_start"][0] += len(f" {key} ")
        context = " ".join(words)
        for text, start in zip(*answers.values(), strict=True):
            assert context[start : start + len(text)] == text
        rows.append({"question": question, "context": context, "answers": answers})
    return write_jsonl(path, rows)


@pytest.mark.slow
def test_answers_are_found_in_documents_longer_than_the_window(tmp_path):
    report = train(
        tiny_run_options(
            tmp_path,
            "question-answering",
            train_files=[write_questions(tmp_path / "a.jsonl", 1500, 0)],
            config_overrides=WIDER_MODEL | {"num_hidden_layers": 2},
            vocab_size=140,
            max_length=64,
            min_bucket_length=64,
            stride=16,
            max_answer_length=8,
            tokens_per_batch=2048,
            max_steps=400,
            eval_steps=200,
            save_steps=400,
            learning_rate=3e-3,
            logging_steps=100,
        )
    )
    assert report["training"]["rows"] > 1.5 * 1350  # windows
    assert report["metrics"]["f1"] > 90, report["metrics"]
    assert report["metrics"]["no_answer_exact"] > 80, report["metrics"]
    test_file = write_questions(tmp_path / "test.jsonl", 60, 9)
    metrics = evaluate(tmp_path / "run", [test_file])["metrics"]
    assert metrics["f1"] > 85
    rows = read_jsonl(test_file)
    answers = load_predictor(tmp_path / "run")(rows)
    correct = [
        answer["answer"] == (row["answers"]["text"] or [""])[0]
        for answer, row in zip(answers, rows, strict=True)
    ]
    assert 100 * np.mean(correct) == pytest.approx(metrics["exact"])


def write_choices(path, count, seed):
    """Writes articles with two or three choices, one of which has the topic of the article."""
    generator = random.Random(seed)
    rows = []
    for index in range(count):
        topic, other_topic = (MEADOW, HARBOR) if index % 2 else (HARBOR, MEADOW)
        correct = random_words(topic, 6, generator)
        others = [random_words(other_topic, 6, generator) for _ in range(1 + index % 3 // 2)]
        position = generator.randint(0, len(others))
        rows.append(
            {
                "article": random_words(topic, generator.randint(5, 40), generator),
                "options": [*others[:position], correct, *others[position:]],
                "answer": correct,
            }
        )
    return write_jsonl(path, rows)


def test_the_right_choice_is_learned(tmp_path):
    columns = {"text_column": "article", "choices_column": "options", "label_column": "answer"}
    report = train(
        tiny_run_options(
            tmp_path,
            "multiple-choice",
            train_files=[write_choices(tmp_path / "a.jsonl", 200, 0)],
            config_overrides=WIDER_MODEL | {"num_hidden_layers": 2},
            vocab_size=80,
            tokens_per_batch=1024,
            max_steps=240,
            eval_steps=60,
            save_steps=240,
            learning_rate=3e-3,
            logging_steps=60,
            **columns,
        )
    )
    assert report["metrics"]["accuracy"] > 0.85, report["metrics"]
    test_file = write_choices(tmp_path / "test.jsonl", 60, 9)
    measured = evaluate(tmp_path / "run", [test_file])
    assert measured["metrics"]["accuracy"] > 0.85
    rows = read_jsonl(test_file)
    answers = load_predictor(tmp_path / "run")(rows)
    correct = [a["choice"] == row["answer"] for a, row in zip(answers, rows, strict=True)]
    assert np.mean(correct) == pytest.approx(measured["metrics"]["accuracy"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"choices": ["a"], "label": 0},
            r"a\.jsonl, line 2: .*must hold lists of two texts or more; got",
        ),
        (
            {"choices": ["a", "b"], "label": 2},
            r"a\.jsonl, line 2: .*of a choice, 0 to 1, .*; got 2",
        ),
    ],
)
def test_choices_that_cannot_be_used(tmp_path, row, message):
    good = {"text": MEADOW, "choices": ["a", "b"], "label": 1}
    data = write_jsonl(tmp_path / "a.jsonl", [good, good | row, good])
    with pytest.raises(DataError, match=message):
        train(tiny_run_options(tmp_path, "multiple-choice", train_files=[data]))
