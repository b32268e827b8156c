"""Options that may change when a run is resumed, and what smaller batches then compute."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from tiny_runs import TINY_MODEL, RecordingCallback, tiny_run_options, write_labeled_texts

from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.train import TrainingInterrupted, train
from flax_bigbird.train.resuming import check_resumed_options, original_batches
from flax_bigbird.train.saving import RunSaver
from flax_bigbird.train.steps import TrainingSteps
from flax_bigbird.train.trainer import Trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_labeled_texts(tmp_path_factory.mktemp("data") / "texts.jsonl")


def interrupt(folder, task, after=3, **options):
    with pytest.raises(TrainingInterrupted):
        train(tiny_run_options(folder, task, **options), [RecordingCallback(stop_after=after)])


def record_gradient_sizes(monkeypatch):
    """Returns a list that receives the number of tokens of every batch that is compiled."""
    sizes: list[int] = []
    compute = TrainingSteps._compute_gradient

    def record(self, params, batch, key):
        sizes.append(batch["attention_mask"].size)
        return compute(self, params, batch, key)

    monkeypatch.setattr(TrainingSteps, "_compute_gradient", record)
    return sizes


@pytest.mark.parametrize(
    ("task", "before", "now"),
    [
        (
            "sequence-classification",
            {"tokens_per_batch": 256},
            {"tokens_per_batch": 64, "gradient_accumulation_steps": 4},
        ),
        (
            "masked-lm",
            {"tokens_per_batch": 192, "gradient_accumulation_steps": 2, "packing": True},
            {"tokens_per_batch": 96, "gradient_accumulation_steps": 4},
        ),
    ],
)
def test_smaller_batches_learn_the_same(tmp_path, data, monkeypatch, task, before, now):
    """The examples of every step are the same, so parameters differ by rounding alone."""
    # AdamW divides by the size of a gradient, so a small epsilon would magnify rounding.
    common = {"train_files": [data], "adam_epsilon": 0.01, "min_bucket_length": 32, **before}
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    report = train(tiny_run_options(whole, task, **common))
    interrupt(resumed, task, **common)
    sizes = record_gradient_sizes(monkeypatch)
    interrupt(resumed, task, after=2, **{**common, **now})
    assert 0 < max(sizes) <= now["tokens_per_batch"]
    again = train(tiny_run_options(resumed, task, **common))  # with the first options again
    assert again["tokens"] == report["tokens"]
    assert [step for step, _ in again["losses"]] == [step for step, _ in report["losses"]]
    np.testing.assert_allclose(
        [loss for _, loss in again["losses"]], [loss for _, loss in report["losses"]], rtol=1e-4
    )
    saved = yaml.safe_load((resumed / "run" / "options.yaml").read_text())
    assert saved["tokens_per_batch"] == before["tokens_per_batch"]
    expected, got = (load_file(run / "run" / "model.safetensors") for run in (whole, resumed))
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-6, err_msg=name)


def final_loss(folder):
    """Returns the validation loss after the last step."""
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return next(e["loss"] for e in map(json.loads, reversed(lines)) if e["kind"] == "validation")


def test_options_that_do_not_change_what_is_learned(tmp_path, data):
    dropout = TINY_MODEL | {"hidden_dropout_prob": 0.1}
    common = {"train_files": [data], "config_overrides": dropout}
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(tiny_run_options(whole, **common))
    interrupt(resumed, "sequence-classification", **common)
    now = {"save_steps": 5, "logging_steps": 2, "eval_steps": 2, "gradient_checkpointing": "full"}
    callback = RecordingCallback()
    report = train(tiny_run_options(resumed, **common, **now), [callback])
    assert [step for step, _ in callback.logs] == [4, 5, 6]
    assert callback.saved_steps == [5]
    assert [entry["step"] for entry in report["evaluations"]] == [3, 4, 6]
    np.testing.assert_allclose(final_loss(resumed), final_loss(whole), rtol=1e-4)


@pytest.mark.parametrize("eval_steps", [3, 5])
def test_the_best_model_is_of_the_step_that_the_report_names(
    tmp_path, data, monkeypatch, eval_steps
):
    """A killed run may have saved a better model after its checkpoint.

    With other `eval_steps`, its evaluation was not repeated, and the run ended with that model
    under the step and the history of the checkpoint's.
    """
    accuracies = {3: 0.5, 5: 0.6, 6: 0.9, 9: 0.7, 10: 0.7}
    evaluate = Trainer.evaluate

    def replace_accuracy(self, params):
        metrics, outputs = evaluate(self, params)
        return metrics | {"accuracy": accuracies[self.state.global_step]}, outputs

    monkeypatch.setattr(Trainer, "evaluate", replace_accuracy)
    saved: dict[int, bytes] = {}
    resumed: list[bool] = []
    save_best = RunSaver.save_best

    def record(self, params):
        save_best(self, params)
        step = self._state.global_step
        saved[step] = (self._directory.best / "model.safetensors").read_bytes()
        if list(saved) == [3, 6] and not resumed:
            raise InterruptedError  # the process is killed

    monkeypatch.setattr(RunSaver, "save_best", record)
    options: dict[str, Any] = {"train_files": [data], "save_steps": 4, "max_steps": 10}
    with pytest.raises(InterruptedError):
        train(tiny_run_options(tmp_path, **options, eval_steps=3))
    best = saved[6]
    resumed.append(True)
    report = train(tiny_run_options(tmp_path, **options, eval_steps=eval_steps))
    assert report["best_step"] == 6
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == best
    steps = {3: [3, 6, 9, 10], 5: [3, 5, 6, 10]}[eval_steps]
    assert [entry["step"] for entry in report["evaluations"]] == steps


SAVED: dict[str, Any] = {"tokens_per_batch": 512, "gradient_accumulation_steps": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens_per_batch": 256}, "512, now 256, .* 2, now 2: give grad.*steps=4, which belongs"),
        ({"gradient_accumulation_steps": 4}, "512, now 512, .* 2, now 4: give .*=2, which belongs"),
        (
            {"tokens_per_batch": 300, "gradient_accumulation_steps": 4},
            "512, now 300, .*: give tokens_per_batch=256 with gradient_accumulation_steps=4",
        ),
        (
            {"tokens_per_batch": 1024, "gradient_accumulation_steps": 1},
            "512, now 1024, .*: give tokens_per_batch=256 with gradient_accumulation_steps=4",
        ),
        ({"early_stopping_patience": 2}, "early_stopping_patience None, now 2: use those"),
        ({"metric_for_best_model": "loss"}, "metric_for_best_model None, now 'loss': use those"),
        ({"dtype": "bfloat16"}, "dtype 'float32', now 'bfloat16': use those"),
        ({"min_bucket_length": 32}, "min_bucket_length 16, now 32: use those"),
        ({"learning_rate": 1e-3}, "learning_rate 0.003, now 0.001: use those"),
    ],
)
def test_options_that_may_not_change(changes, message):
    common = {"train_files": ["a.jsonl"], **SAVED}
    before = tiny_run_options(Path("x"), **common).as_dict()
    now = tiny_run_options(Path("x"), **{**common, **changes})
    with pytest.raises(OptionError, match=message):
        check_resumed_options(Path("x"), before, now)


def test_eval_steps_decide_when_a_run_with_early_stopping_ends():
    common: dict[str, Any] = {"train_files": ["a.jsonl"], "early_stopping_patience": 2}
    before = tiny_run_options(Path("x"), **common).as_dict()
    with pytest.raises(OptionError, match="eval_steps 3, now 2: use those"):
        check_resumed_options(
            Path("x"), before, tiny_run_options(Path("x"), **common, eval_steps=2)
        )


def test_the_batches_are_those_of_the_start():
    now: dict[str, Any] = {"tokens_per_batch": 128, "gradient_accumulation_steps": 8}
    options = tiny_run_options(Path("x"), train_files=["a.jsonl"], **now)
    before = tiny_run_options(Path("x"), train_files=["a.jsonl"], **SAVED).as_dict()
    check_resumed_options(Path("x"), before, options)
    original = original_batches(before, options)
    assert (original.tokens_per_batch, original.gradient_accumulation_steps) == (512, 2)


def test_data_that_has_changed(tmp_path):
    """The steps after it were trained on the new rows, in an order that belongs to no run."""
    path = tmp_path / "texts.jsonl"
    data = write_labeled_texts(path)
    interrupt(tmp_path, "sequence-classification", train_files=[data])
    before = path.stat()
    path.write_text(path.read_text().replace("cow", "hen"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    options = tiny_run_options(tmp_path, train_files=[data])
    with pytest.raises(DataError, match="a run resumes with the data that it was started with"):
        train(options)
    path.write_text(path.read_text().replace("hen", "cow"))
    assert train(options)["steps"] == 6
