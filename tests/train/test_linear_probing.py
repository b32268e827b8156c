"""A new head starts from a linear classifier of the model's features."""

import json
from typing import Any

import jax
import numpy as np
import pytest
from scipy import special
from tiny_runs import (
    RecordingCallback,
    model_bytes,
    tiny_run_options,
    write_jsonl,
    write_labeled_texts,
)

from flax_bigbird.data.errors import OptionError
from flax_bigbird.inference import load_predictor
from flax_bigbird.tasks import linear_probing
from flax_bigbird.tasks.linear_classifiers import fit_linear
from flax_bigbird.tasks.sequence_encoding import SingleWindows
from flax_bigbird.train import TrainerCallback, TrainingInterrupted, train
from flax_bigbird.train.data_setup import SplitData
from flax_bigbird.train.run_directory import open_run_directory
from flax_bigbird.train.setup import prepare_run


def prepare(tmp_path, label="name", **changes):
    """Returns a prepared run, and its messages."""
    data = write_labeled_texts(tmp_path / f"{label}.jsonl", 40, label=label)
    changes = {
        "validation_fraction": 0,
        "max_length": 16,
        "whole_documents": True,
        "linear_probing": True,
    } | changes
    options = tiny_run_options(tmp_path, train_files=[data], **changes)
    recorded = RecordingCallback()
    return prepare_run(options, open_run_directory(options), recorded), recorded.messages


def features_of(run, pooling):
    """Returns what the output layer reads of each document, computed with NumPy, and labels."""
    params = run.model.params["classifier"]
    examples = run.train_data.encoded.examples
    by_document: dict[int, list] = {}
    for example in SingleWindows(examples, run.options.length):
        ids = np.array([example["input_ids"]])
        out = run.model(ids, output_hidden_states=True)
        states = np.asarray(out.hidden_states[-1][0], np.float64)
        if pooling == "cls":
            hidden = states[0] @ np.asarray(params["dense"]["kernel"])
            hidden = jax.nn.gelu(hidden + np.asarray(params["dense"]["bias"]), approximate=True)
            states = np.asarray(hidden)[None]
        by_document.setdefault(example["document"], []).append((states, example["label"]))
    features = [np.concatenate([s for s, _ in w]).mean(0) for _, w in sorted(by_document.items())]
    return np.stack(features), [w[0][1] for _, w in sorted(by_document.items())]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_first_outputs_are_those_of_the_probe(tmp_path, pooling):
    run, messages = prepare(tmp_path, classifier_pooling=pooling)
    data = run.train_data
    assert isinstance(data, SplitData)
    windows = SingleWindows(data.encoded.examples, run.options.length)
    assert len(windows) > 40  # of 40 documents
    features, labels = features_of(run, pooling)
    task: Any = run.task
    indices = np.array([task.label_indices[label] for label in labels])
    fit = fit_linear(features, indices, "single_label_classification", 2, seed=0)
    head = run.model.params["classifier"]["out_proj"]
    expected = features @ fit.kernel + fit.bias
    got = features @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    np.testing.assert_allclose(special.softmax(got, -1), special.softmax(expected, -1), atol=2e-3)
    assert (got.argmax(-1) == indices).mean() > 0.9
    assert any("linear probe of 40 documents (C = " in message for message in messages)
    assert run.eval_on_start


@pytest.mark.parametrize("label", ["list", "number"])
def test_sets_of_labels_and_values(tmp_path, label):
    run, messages = prepare(tmp_path, label, max_length=64, whole_documents=False)
    name = {"list": "C", "number": "alpha"}[label]
    assert any(f"40 documents ({name} = " in message for message in messages)
    data = run.train_data
    assert isinstance(data, SplitData)
    batch = [run.task.collate(e, 64, np.random.default_rng(0)) for e in data.rows]
    batch = {key: np.stack([arrays[key] for arrays in batch]) for key in batch[0]}
    logits = np.asarray(run.model(batch["input_ids"], batch["attention_mask"]).logits)
    if label == "list":
        assert ((logits > 0) == (batch["labels"] > 0)).mean() > 0.9
    else:
        assert np.corrcoef(logits[:, 0], batch["labels"])[0, 1] > 0.9


def test_it_is_off_without_linear_probing(tmp_path):
    run, messages = prepare(tmp_path, linear_probing=False)
    assert not any("linear probe" in message for message in messages)
    assert not run.eval_on_start
    bias = run.model.params["classifier"]["out_proj"]["bias"]
    np.testing.assert_array_equal(bias, np.zeros(2))


def test_a_head_of_a_checkpoint_is_kept(tmp_path):
    data = write_labeled_texts(tmp_path / "a.jsonl", 40)
    train(tiny_run_options(tmp_path, train_files=[data], max_steps=1, validation_fraction=0))
    recorded = RecordingCallback()
    options = tiny_run_options(
        tmp_path / "next",
        train_files=[data],
        model=str(tmp_path / "run"),
        config_overrides={},
        max_steps=1,
        learning_rate=0.0,
        validation_fraction=0,
        linear_probing=True,
    )
    train(options, [recorded])
    assert not any("linear probe" in message for message in recorded.messages)
    assert model_bytes(tmp_path / "run") == model_bytes(tmp_path / "next" / "run")


def test_many_documents_are_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(linear_probing, "MAX_DOCUMENTS", 12)
    (tmp_path / "b").mkdir()
    runs = [prepare(folder)[0] for folder in (tmp_path, tmp_path / "b")]
    first, second = (run.model.params["classifier"]["out_proj"]["kernel"] for run in runs)
    np.testing.assert_array_equal(first, second)
    other, messages = prepare(tmp_path / "b", seed=1, overwrite_output_dir=True)
    assert any("linear probe of 12 documents" in message for message in messages)
    assert not np.array_equal(first, other.model.params["classifier"]["out_proj"]["kernel"])


class Stop(TrainerCallback):
    """Stops a run before its first step, or after some steps."""

    def __init__(self, message=None, steps=None):
        self.message, self.steps, self.logged = message, steps, 0

    def on_message(self, text):
        if self.message and self.message in text:
            raise KeyboardInterrupt

    def on_log(self, state, logs):
        self.logged = state.global_step

    def should_stop(self):
        return self.steps is not None and self.logged + 1 >= self.steps


@pytest.mark.parametrize("stop", [{"message": "starts from a linear probe"}, {"steps": 2}])
def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path, stop):
    """It is interrupted after probing, before the first step, or after a step."""
    data = write_labeled_texts(tmp_path / "a.jsonl", 40)
    changes = {"train_files": [data], "max_steps": 4, "eval_steps": 2, "linear_probing": True}
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = train(tiny_run_options(tmp_path / "whole", **changes))
    with pytest.raises((KeyboardInterrupt, TrainingInterrupted)):
        train(tiny_run_options(tmp_path / "stopped", **changes), [Stop(**stop)])
    recorded = RecordingCallback()
    resumed = train(tiny_run_options(tmp_path / "stopped", **changes), [recorded])
    probed = any("linear probe" in message for message in recorded.messages)
    assert probed == ("message" in stop)
    assert model_bytes(tmp_path / "whole" / "run") == model_bytes(tmp_path / "stopped" / "run")
    assert whole["evaluations"] == resumed["evaluations"]


def test_the_probe_is_evaluated_and_saved_if_training_makes_it_worse(tmp_path):
    """At an absurd learning rate, the best model is that of step 0."""
    data = write_labeled_texts(tmp_path / "a.jsonl", 60)
    options = tiny_run_options(
        tmp_path,
        train_files=[data],
        learning_rate=10.0,
        max_grad_norm=0.0,
        max_steps=3,
        linear_probing=True,
    )
    report = train(options)
    assert [e["step"] for e in report["evaluations"]] == [0, 3]
    assert report["best_step"] == 0
    saved = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert saved["metrics"]["accuracy"] == report["evaluations"][0]["accuracy"]


@pytest.mark.parametrize("validation_fraction", [0, 0.25])
def test_a_run_of_no_steps_saves_the_probe(tmp_path, validation_fraction):
    data = write_labeled_texts(tmp_path / "a.jsonl", 40)
    changes = {"train_files": [data], "validation_fraction": validation_fraction}
    options = tiny_run_options(tmp_path, max_steps=0, linear_probing=True, **changes)
    report = train(options)
    assert report["steps"] == 0
    assert report["best_step"] == 0
    assert report["losses"] == []
    assert [e["step"] for e in report["evaluations"]] == [0] * bool(validation_fraction)
    (tmp_path / "next").mkdir()
    other = tiny_run_options(tmp_path / "next", linear_probing=True, **changes)
    run = prepare_run(other, open_run_directory(other), RecordingCallback())
    saved = load_predictor(tmp_path / "run").model.params["classifier"]["out_proj"]["kernel"]
    np.testing.assert_array_equal(saved, run.model.params["classifier"]["out_proj"]["kernel"])
    assert np.abs(saved).max() > 0.5
    kept = {"model": str(tmp_path / "run"), "config_overrides": {}, "linear_probing": True}
    options = tiny_run_options(
        tmp_path / "next", max_steps=0, overwrite_output_dir=True, **changes | kept
    )
    with pytest.raises(OptionError, match="max_steps may be 0 if a new head is fitted; got 0 for"):
        train(options)


def test_a_run_of_no_steps_needs_a_probe(tmp_path):
    with pytest.raises(OptionError, match="max_steps may be 0 if linear_probing fits the head"):
        tiny_run_options(tmp_path, train_files=["a"], max_steps=0)


def test_other_tasks_have_none(tmp_path):
    data = write_jsonl(tmp_path / "a.jsonl", [{"tokens": ["a", "b"], "tags": ["X", "Y"]}] * 8)
    recorded = RecordingCallback()
    options = tiny_run_options(
        tmp_path, "token-classification", train_files=[data], vocab_size=20, max_steps=1
    )
    train(options, [recorded])
    assert not any("linear probe" in message for message in recorded.messages)
