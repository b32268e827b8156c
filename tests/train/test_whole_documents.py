"""Documents longer than the model: read in windows that cover them, in training and in use."""

import json
import random
from pathlib import Path

import jax
import numpy as np
import pytest
from training_tools import HARBOUR, MEADOW, labelled, options, sentences, write_jsonl

from flax_bigbird import tasks
from flax_bigbird.tasks import loading
from flax_bigbird.tasks.errors import OptionError
from flax_bigbird.tasks.text import covering_windows
from flax_bigbird.train import evaluate, evaluate_options
from flax_bigbird.train.run import train

FILLER = "and then some of it went on as before but with more of the same"


class Tokenizer:
    cls_token_id, sep_token_id = 1, 2


@pytest.mark.parametrize("count", [0, 1, 6, 7, 13, 100])
def test_windows_cover_the_text_and_end_at_its_end(count):
    pieces = list(range(10, 10 + count))
    found = covering_windows(pieces, Tokenizer(), 8)  # type: ignore[arg-type]
    assert all(ids[0] == 1 and ids[-1] == 2 and len(ids) <= 8 for ids in found)
    assert len(found) == max(1, -(-count // 6))
    assert sorted({piece for ids in found for piece in ids[1:-1]}) == pieces
    assert all(len(ids) == 8 for ids in found) or len(found) == 1
    starts = [ids[1] for ids in found if len(ids) > 2]
    assert starts == sorted(set(starts))


def told_at_the_end(folder, count, seed):
    """Documents of some 120 words whose kind is told by their last 25."""
    generator = random.Random(seed)
    rows = []
    for number in range(count):
        kind = number % 2
        text = sentences(FILLER, generator.randint(80, 110), generator)
        end = sentences((MEADOW, HARBOUR)[kind], 25, generator)
        rows.append({"text": f"{text} {end}", "label": ("meadow", "harbour")[kind]})
    return write_jsonl(folder / f"data{seed}.jsonl", rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return told_at_the_end(folder, 80, 0), told_at_the_end(folder, 40, 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("run")
    settings = options(
        folder,
        train_files=[data[0]],
        validation_files=[data[1]],
        whole_documents=True,
        vocabulary_size=120,
        max_steps=150,
        tokens_per_batch=512,
        evaluate_every=50,
        save_every=150,
        learning_rate=5e-3,
    )
    return folder / "run", train(settings)


def test_what_a_cut_would_lose_is_learned(run):
    """The first 64 tokens tell nothing; the windows at the end do."""
    _, found = run
    assert found["metrics"]["accuracy"] >= 0.9
    assert sum(map(sum, found["confusion_matrix"]["rows"])) == 40  # documents, not windows
    assert found["validation"]["rows"] > 40


def test_a_model_that_cuts_cannot_tell(run, data):
    folder, _ = run
    asked = evaluate_options(str(folder), files=[data[1]], whole_documents=False)
    cut = evaluate(asked)["metrics"]["accuracy"]
    assert cut <= 0.75


def test_answers_are_those_of_the_evaluation(run, data):
    folder, found = run
    rows = [json.loads(line) for line in Path(data[1]).read_text(encoding="utf-8").splitlines()]
    task = tasks.load(folder)
    assert task.options.whole_documents  # as it was trained
    answers = task(rows)
    right = np.mean([a["label"] == r["label"] for a, r in zip(answers, rows, strict=True)])
    assert right == found["metrics"]["accuracy"]
    again = evaluate(evaluate_options(str(folder), files=[data[1]]))["metrics"]
    assert again["accuracy"] == found["metrics"]["accuracy"]
    scores = np.array([list(a["scores"].values()) for a in answers])
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
    pieces = task.tokenizer(rows[0]["text"], add_special_tokens=False, verbose=False)["input_ids"]
    windows = covering_windows(pieces, task.tokenizer, task.options.length)
    assert len(windows) > 1
    logits = task.model(np.array(windows)).logits
    np.testing.assert_allclose(scores[0], jax.nn.softmax(logits).mean(0), atol=1e-5)


@pytest.mark.parametrize("label", ["list", "number"])
def test_sets_of_labels_and_numbers(label, tmp_path):
    data = labelled(tmp_path / "a.jsonl", label=label)
    settings = options(
        tmp_path, train_files=[data], whole_documents=True, max_length=16, max_steps=3
    )
    found = train(settings)
    assert all(np.isfinite(list(found["metrics"].values())))
    again = evaluate(evaluate_options(str(tmp_path / "run"), files=[data]))
    assert again["rows"] == 60


def test_pairs_are_refused(tmp_path):
    with pytest.raises(OptionError, match="whole_documents reads windows of one text; got"):
        options(tmp_path, train_files=["x"], whole_documents=True, text_pair_column="b")


@pytest.mark.parametrize(
    ("given", "tokens"),
    [({}, 512), ({"max_length": 128}, 512), ({"max_length": 4096}, 4096)],
)
def test_a_run_of_short_windows_is_read_with_long_ones(run, given, tokens):
    """The run's batch grows to one long document; one that is asked for does not."""
    names = {"max_length", "tokens_per_batch"}
    merged = loading.with_run_options(str(run[0]), names, given)
    assert merged == {"max_length": 64, "tokens_per_batch": tokens} | given
    assert loading.with_run_options(str(run[0]), names, {"tokens_per_batch": 8} | given) == (
        {"max_length": 64, "tokens_per_batch": 8} | given
    )
