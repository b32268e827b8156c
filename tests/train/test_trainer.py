"""The training loop: accumulation, devices, early stopping, the best model, losses of NaN."""

import json
import math
import random
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from several_devices import run_with_devices
from tiny_runs import random_words, tiny_run_options, write_jsonl, write_labeled_texts

from flax_bigbird.tasks.sequence_classification import SequenceClassification
from flax_bigbird.train import TrainingError, train
from flax_bigbird.train.steps import Totals
from flax_bigbird.train.trainer import Trainer

WORKER = Path(__file__).with_name("training_worker.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_labeled_texts(tmp_path_factory.mktemp("data") / "a.jsonl", 40)


def test_accumulated_batches_equal_one_large_batch(tmp_path):
    """Two batches of 128 tokens per step equal one of 256 if all examples have one length."""
    rows = [{"text": random_words("cow ship barn", 40, random.Random(n))} for n in range(64)]
    common = {
        "train_files": [write_jsonl(tmp_path / "a.jsonl", rows)],
        "validation_fraction": 0,
        "min_bucket_length": 64,
        "vocab_size": 20,
        "max_length": 64,
        "save_steps": 100,
    }
    losses = []
    for name, tokens, count in (("large", 256, 1), ("accumulated", 128, 2)):
        options = tiny_run_options(
            tmp_path / name,
            "masked-lm",
            tokens_per_batch=tokens,
            gradient_accumulation_steps=count,
            **common,
        )
        losses.append([loss for _, loss in train(options)["losses"]])
    # Masks depend on the position in the stream of examples, which is the same; sums are rounded
    # differently.
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-5)


@pytest.mark.slow
def test_two_devices_train_like_one(tmp_path, data):
    """Batches with an even number of examples are split; of others each device gets the whole."""
    changes: dict[str, Any] = {"tokens_per_batch": 192}  # 12, 6 and 3 examples
    one = train(tiny_run_options(tmp_path / "one", train_files=[data], **changes))
    arguments = [str(tmp_path / "two"), "sequence-classification", data, json.dumps(changes), "0"]
    run_with_devices([str(WORKER), *arguments], count=2)
    two = json.loads((tmp_path / "two" / "run" / "report.json").read_text())
    np.testing.assert_allclose(one["losses"], two["losses"], rtol=1e-4)
    assert one["metrics"]["loss"] == pytest.approx(two["metrics"]["loss"], rel=1e-4)
    assert one["tokens"] == two["tokens"]


def test_early_stopping(tmp_path, data):
    report = train(
        tiny_run_options(
            tmp_path,
            train_files=[data],
            learning_rate=0.0,
            max_steps=50,
            eval_steps=2,
            early_stopping_patience=2,
        )
    )
    assert (report["steps"], report["best_step"]) == (6, 2)


def test_the_report_describes_the_best_model(tmp_path):
    """The metrics are those of the best step, computed with the model that is saved."""
    data = write_labeled_texts(tmp_path / "a.jsonl", 60)
    report = train(tiny_run_options(tmp_path, train_files=[data], learning_rate=1e-2, max_steps=9))
    best = max(report["evaluations"], key=lambda entry: entry["accuracy"])
    assert report["metrics"]["accuracy"] == best["accuracy"]
    assert report["best_step"] == best["step"]
    assert report["metrics"]["loss"] == pytest.approx(best["loss"], rel=1e-5)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, data, monkeypatch):
    mean_loss = Trainer._mean_loss
    monkeypatch.setattr(
        Trainer, "_mean_loss", lambda self, totals: mean_loss(self, [Totals(float("nan"), 1.0, 1)])
    )
    with pytest.raises(TrainingError, match=r"must be finite; it is nan .* up to 1: lower"):
        train(tiny_run_options(tmp_path, train_files=[data]))


def test_parameters_of_nan_after_the_last_step_are_not_the_best(tmp_path, data, monkeypatch):
    """No loss shows them. The accuracy of class 0, which they predict, would be a number."""
    train_step = Trainer._train_step

    def step(self):
        totals = train_step(self)
        if self.state.global_step == self.state.max_steps - 1:
            self.params = jax.tree.map(lambda leaf: leaf * math.nan, self.params)
        return totals

    monkeypatch.setattr(Trainer, "_train_step", step)
    report = train(tiny_run_options(tmp_path / "a", train_files=[data], max_steps=4, eval_steps=2))
    last = report["evaluations"][-1]
    assert last["step"] == 4
    assert math.isnan(last["accuracy"])
    assert report["best_step"] < 4
    assert math.isfinite(report["metrics"]["loss"])

    # A head that is not fitted to the data is first evaluated after steps.
    monkeypatch.setattr(Trainer, "evaluate_model", None)
    options = {"max_steps": 2, "eval_steps": 2, "linear_probing": False}
    with pytest.raises(TrainingError, match="some are NaN after step 2"):
        train(tiny_run_options(tmp_path / "b", train_files=[data], **options))


def test_a_metric_that_an_evaluation_lacks_despite_its_declaration(tmp_path, data, monkeypatch):
    declared = {"f2": True, "loss": False}
    monkeypatch.setattr(SequenceClassification, "evaluation_metrics", lambda *_: declared)
    with pytest.raises(TrainingError, match=r"every evaluation must compute f2, .*; got loss, acc"):
        train(tiny_run_options(tmp_path, train_files=[data], metric_for_best_model="f2"))
