"""Documents longer than the model, split into windows that cover them, in training and in use."""

import json
import random
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_runs import (
    HARBOR,
    MEADOW,
    random_words,
    tiny_run_options,
    write_jsonl,
    write_labeled_texts,
)

from flax_bigbird.data.errors import OptionError
from flax_bigbird.data.windows import covering_windows
from flax_bigbird.inference import evaluate, load_predictor
from flax_bigbird.inference.resolve import resolve_options
from flax_bigbird.train import train

FILLER = "and then some of it went on as before but with more of the same"


def write_documents(folder, count, seed):
    """Writes documents of about 120 words whose topic shows in the last 25 only."""
    generator = random.Random(seed)
    rows = []
    for index in range(count):
        topic = index % 2
        text = random_words(FILLER, generator.randint(80, 110), generator)
        end = random_words((MEADOW, HARBOR)[topic], 25, generator)
        rows.append({"text": f"{text} {end}", "label": ("meadow", "harbor")[topic]})
    return write_jsonl(folder / f"data{seed}.jsonl", rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The files to train and to validate on."""
    folder = tmp_path_factory.mktemp("data")
    return write_documents(folder, 80, 0), write_documents(folder, 40, 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    """The directory and the report of a run that reads whole documents."""
    folder = tmp_path_factory.mktemp("whole")
    options = tiny_run_options(
        folder,
        train_files=[data[0]],
        validation_files=[data[1]],
        whole_documents=True,
        vocab_size=120,
        max_steps=150,
        tokens_per_batch=512,
        eval_steps=50,
        save_steps=150,
        learning_rate=5e-3,
        logging_steps=50,
    )
    return folder / "run", train(options)


def test_topics_at_the_end_of_documents_are_learned(run):
    """The first 64 tokens contain no information; the windows at the end do."""
    _, report = run
    assert report["metrics"]["accuracy"] >= 0.9
    assert sum(map(sum, report["confusion_matrix"]["rows"])) == 40  # documents, not windows
    assert report["validation"]["rows"] > 40


def test_truncated_documents_cannot_be_classified(run, data):
    folder, _ = run
    metrics = evaluate(folder, [data[1]], whole_documents=False)["metrics"]
    assert metrics["accuracy"] <= 0.75


def test_predictions_agree_with_the_evaluation(run, data):
    folder, report = run
    rows = [json.loads(line) for line in Path(data[1]).read_text(encoding="utf-8").splitlines()]
    predictor = load_predictor(folder)
    task = predictor.task
    assert task.options.whole_documents  # as in training
    answers = predictor(rows)
    accuracy = np.mean([a["label"] == r["label"] for a, r in zip(answers, rows, strict=True)])
    assert accuracy == report["metrics"]["accuracy"]
    assert evaluate(folder, [data[1]])["metrics"]["accuracy"] == report["metrics"]["accuracy"]
    scores = np.array([list(a["scores"].values()) for a in answers])
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
    ids = task.tokenizer(rows[0]["text"], add_special_tokens=False, verbose=False)["input_ids"]
    windows = covering_windows(ids, task.tokenizer, task.options.length)
    assert len(windows) > 1
    states = predictor.model(np.array(windows), output_hidden_states=True).hidden_states[-1]
    head = predictor.model.params["classifier"]["out_proj"]
    mean = states.reshape(-1, states.shape[-1]).mean(0)  # over all tokens of all windows
    expected = jax.nn.softmax(mean @ head["kernel"] + head["bias"])
    np.testing.assert_allclose(scores[0], expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("label", ["list", "number"])
def test_sets_of_labels_and_numbers(label, pooling, tmp_path):
    data = write_labeled_texts(tmp_path / "a.jsonl", label=label)
    options = tiny_run_options(
        tmp_path,
        train_files=[data],
        whole_documents=True,
        max_length=16,
        max_steps=3,
        classifier_pooling=pooling,
    )
    report = train(options)
    assert all(np.isfinite(list(report["metrics"].values())))
    assert evaluate(tmp_path / "run", [data])["rows"] == 60


def test_pairs_of_texts_are_refused(tmp_path):
    with pytest.raises(OptionError, match="whole_documents reads windows of one text; got"):
        tiny_run_options(tmp_path, train_files=["x"], whole_documents=True, text_pair_column="b")


@pytest.mark.parametrize(
    ("given", "tokens_per_batch"),
    [({}, 16_384), ({"max_length": 128}, 16_384), ({"max_length": 20_000}, 20_000)],
)
def test_longer_documents_than_in_training_fit_into_a_batch(run, given, tokens_per_batch):
    """The default, not the batch of the run, grows to one long document; a given one stays."""
    folder, _ = run

    def resolve(**options):
        task = "sequence-classification"
        resolved = resolve_options(task, "predict", str(folder), options)
        return {name: resolved[name] for name in ("max_length", "tokens_per_batch")}

    assert resolve(**given) == {"max_length": 64, "tokens_per_batch": tokens_per_batch} | given
    assert resolve(tokens_per_batch=8, **given) == (
        {"max_length": 64, "tokens_per_batch": 8} | given
    )
