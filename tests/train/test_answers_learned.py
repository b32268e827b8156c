"""Question answering from files to answers, on contexts longer than the model."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from training_tools import WIDER, options, write_jsonl

from flax_bigbird import tasks
from flax_bigbird.train import evaluate, evaluate_options
from flax_bigbird.train.run import train

FILLER = "the old road runs past a low wall and then on over the wide green hill"
NAMES = ["Alton", "Brook", "Carey", "Dover", "Ely", "Frome"]
KINDS = {"which town": "near", "who spoke": "said"}


def reports(path: Path, count: int, seed: int) -> str:
    """SQuAD's columns: the answer is one or two names behind a word; a third have no answer."""
    generator = random.Random(seed)

    def words(low: int, high: int) -> list[str]:
        return [generator.choice(FILLER.split()) for _ in range(generator.randint(low, high))]

    rows = []
    for number in range(count):
        question, key = generator.choice(list(KINDS.items()))
        other = next(word for word in KINDS.values() if word != key)
        name = " ".join(generator.sample(NAMES, generator.randint(1, 2)))
        parts = [*words(0, 40), other, generator.choice(NAMES), *words(2, 40)]
        answers: dict[str, list] = {"text": [], "answer_start": []}
        if number % 3:
            parts += [key, name, *words(2, 40)]
            answers = {"text": [name], "answer_start": [len(" ".join(parts[: parts.index(key)]))]}
            answers["answer_start"][0] += len(f" {key} ")
        context = " ".join(parts)
        for text, start in zip(*answers.values(), strict=True):
            assert context[start : start + len(text)] == text
        rows.append({"question": question, "context": context, "answers": answers})
    return write_jsonl(path, rows)


@pytest.mark.slow
def test_answers_are_found_in_documents_longer_than_the_window(tmp_path):
    found = train(
        options(
            tmp_path,
            "question-answering",
            train_files=[reports(tmp_path / "a.jsonl", 1500, 0)],
            model_config=WIDER | {"num_hidden_layers": 2},
            vocabulary_size=140,
            max_length=64,
            smallest_bucket=64,
            stride=16,
            longest_answer=8,
            tokens_per_batch=2048,
            max_steps=400,
            evaluate_every=200,
            save_every=400,
            learning_rate=3e-3,
            log_every=100,
        )
    )
    assert found["training"]["rows"] > 1.5 * 1350  # windows
    assert found["metrics"]["f1"] > 90, found["metrics"]
    assert found["metrics"]["no_answer_exact"] > 80, found["metrics"]
    test = reports(tmp_path / "test.jsonl", 60, 9)
    measured = evaluate(evaluate_options(str(tmp_path / "run"), files=[test]))["metrics"]
    assert measured["f1"] > 85
    rows = [json.loads(line) for line in Path(test).read_text().splitlines()]
    answers = tasks.load(tmp_path / "run")(rows)
    right = [
        answer["answer"] == (row["answers"]["text"] or [""])[0]
        for answer, row in zip(answers, rows, strict=True)
    ]
    assert 100 * np.mean(right) == pytest.approx(measured["exact"])
