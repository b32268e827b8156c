"""Runs that are killed or stopped end with the same bits as runs that are not."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from python_processes import PythonProcess
from tiny_runs import (
    TINY_MODEL,
    RecordingCallback,
    model_bytes,
    tiny_run_options,
    write_labeled_texts,
)

from flax_bigbird.train import TrainingInterrupted, train

WORKER = Path(__file__).with_name("training_worker.py")
CLASSIFICATION = "sequence-classification"
# Long enough to be killed in the middle, with ten checkpoints.
LONG_RUN = {"save_steps": 10, "max_steps": 100, "eval_steps": 50}


def start_worker(folder, task, data, changes, when):
    arguments = [str(folder), task, data, json.dumps(changes), str(when)]
    return PythonProcess(WORKER, *arguments, environment=dict(os.environ))


def run_worker(folder, task, data, changes, when: int | str = 0):
    """Runs the worker until it ends, and returns its exit status and stderr."""
    process = start_worker(folder, task, data, changes, when)
    _, stderr = process.communicate()
    return process.returncode, stderr


def run_worker_to_the_end(folder, task, data, changes):
    status, stderr = run_worker(folder, task, data, changes)
    assert status == 0, stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_labeled_texts(tmp_path_factory.mktemp("data") / "a.jsonl", 40)


@pytest.fixture(scope="module")
def uninterrupted_run(tmp_path_factory, data):
    """The directory of a `LONG_RUN` that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run_worker_to_the_end(folder, CLASSIFICATION, data, LONG_RUN)
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("task", ["masked-lm", CLASSIFICATION, "embedding"])
def test_killed_runs_end_as_uninterrupted_ones(tmp_path, task, data):
    """SIGKILL between checkpoints, twice, with dropout, gradient accumulation and buckets."""
    changes = {
        "gradient_accumulation_steps": 2,
        "config_overrides": TINY_MODEL | {"hidden_dropout_prob": 0.1},
    }
    run_worker_to_the_end(tmp_path / "whole", task, data, changes)
    for step in (3, 5):
        status, stderr = run_worker(tmp_path / "killed", task, data, changes, step)
        assert status == -signal.SIGKILL, stderr
    run_worker_to_the_end(tmp_path / "killed", task, data, changes)
    whole, killed = tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    assert model_bytes(whole) == model_bytes(killed)
    reports = [json.loads((folder / "report.json").read_text()) for folder in (whole, killed)]
    for name in ("metrics", "losses", "evaluations", "tokens", "best_step"):
        assert reports[0][name] == reports[1][name], name
    lines = map(json.loads, (killed / "metrics.jsonl").read_text().splitlines())
    steps = [line["step"] for line in lines if line["kind"] == "training"]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(tmp_path, data, uninterrupted_run):
    """SIGKILL at moments spread over the writing, which takes some tenths of a second."""
    checkpoints = tmp_path / "run" / "checkpoints"
    num_incomplete = 0
    for seconds in (0.0, 0.01, 0.03, 0.1):
        status, stderr = run_worker(tmp_path, CLASSIFICATION, data, LONG_RUN, f"save:{seconds}")
        assert status == -signal.SIGKILL, stderr
        num_incomplete += any(not path.name.isdigit() for path in checkpoints.iterdir())
    assert num_incomplete >= 2
    run_worker_to_the_end(tmp_path, CLASSIFICATION, data, LONG_RUN)
    assert model_bytes(tmp_path / "run") == model_bytes(uninterrupted_run)


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path, data, uninterrupted_run):
    """SIGKILL from outside; the moments differ in every run of this test, which prints them."""
    metrics_file = tmp_path / "run" / "metrics.jsonl"
    seed = random.SystemRandom().randrange(2**32)
    generator = random.Random(seed)
    print(f"random.Random({seed})")

    def num_lines():
        return metrics_file.read_text().count("\n") if metrics_file.exists() else 0

    num_killed = 0
    for _ in range(2):
        before = num_lines()
        process = start_worker(tmp_path, CLASSIFICATION, data, LONG_RUN, 0)
        while num_lines() <= before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 1.5))
        process.kill()
        process.communicate()
        num_killed += process.returncode == -signal.SIGKILL
    assert num_killed >= 1
    run_worker_to_the_end(tmp_path, CLASSIFICATION, data, LONG_RUN)
    assert model_bytes(tmp_path / "run") == model_bytes(uninterrupted_run)


def test_a_run_that_a_callback_stops_can_be_resumed(tmp_path, data):
    common = {"train_files": [data], "save_steps": 100}
    train(tiny_run_options(tmp_path / "whole", **common))
    with pytest.raises(TrainingInterrupted) as interruption:
        train(tiny_run_options(tmp_path / "stopped", **common), [RecordingCallback(stop_after=4)])
    assert interruption.value.step == 4
    recorded = RecordingCallback()
    train(tiny_run_options(tmp_path / "stopped", **common), [recorded])
    assert [step for step, _ in recorded.logs] == [5, 6]
    assert "Resuming from step 4." in recorded.messages
    assert model_bytes(tmp_path / "whole" / "run") == model_bytes(tmp_path / "stopped" / "run")
