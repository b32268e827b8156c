"""Runs of several real processes, with one device each, that talk over sockets."""

import json
import os
import shutil
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
from python_processes import PythonProcess
from several_devices import run_with_devices
from tiny_runs import (
    TINY_MODEL,
    model_bytes,
    tiny_run_options,
    write_labeled_texts,
)

from flax_bigbird.checkpoint import lock_directory
from flax_bigbird.parallel.row_shards import RowShards
from flax_bigbird.train import train

WORKER = Path(__file__).with_name("processes_worker.py")
LONG_RUN = {
    "config_overrides": TINY_MODEL | {"hidden_dropout_prob": 0.1},
    "tokens_per_batch": 192,  # 12, 6 and 3 examples
    "max_steps": 8,
    "eval_steps": 4,
    "save_steps": 2,
}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_processes(folder, data, changes, count, kill="", last=()):
    """Starts the processes of a run; with a count of 1, one process without JAX's service.

    The last process has the options `last`, too.
    """
    common = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }
    if count > 1:
        common["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{free_port()}"
        common["JAX_NUM_PROCESSES"] = str(count)
    all_changes = [changes] * (count - 1) + [changes | dict(last)]
    return [
        PythonProcess(
            WORKER,
            *[str(folder), data, json.dumps(all_changes[index]), kill],
            environment=common | ({"JAX_PROCESS_ID": str(index)} if count > 1 else {}),
        )
        for index in range(count)
    ]


def finish(processes):
    """Returns the exit status, the last line of output and the errors of each process."""
    results = []
    for process in processes:
        stdout, stderr = process.communicate(timeout=300)
        results.append((process.returncode, (stdout.splitlines() or [""])[-1], stderr))
    return results


def run_to_the_end(folder, data, changes, count):
    results = finish(start_processes(folder, data, changes, count))
    assert [status for status, _, _ in results] == [0] * count, results
    reports = [json.loads(line) for _, line, _ in results]
    assert all(report == reports[0] for report in reports)
    return reports[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_labeled_texts(tmp_path_factory.mktemp("data") / "a.jsonl", 40)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("one")
    return folder / "run", run_to_the_end(folder, data, LONG_RUN, 1)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("two")
    return folder / "run", run_to_the_end(folder, data, LONG_RUN, 2)


def check_equal(report, want):
    assert report["tokens"] == want["tokens"]
    for (step, loss), (want_step, want_loss) in zip(report["losses"], want["losses"], strict=True):
        assert step == want_step
        assert loss == pytest.approx(want_loss, rel=1e-4)
    assert report["metrics"]["loss"] == pytest.approx(want["metrics"]["loss"], rel=1e-4)


@pytest.mark.slow
def test_two_processes_train_like_one(one_process, two_processes):
    check_equal(two_processes[1], one_process[1])
    files = [sorted(path.name for path in run.iterdir()) for run, _ in (one_process, two_processes)]
    assert files[0] == files[1]


@pytest.mark.slow
def test_four_processes_with_sharded_parameters_train_like_one(tmp_path, data, one_process):
    report = run_to_the_end(tmp_path, data, LONG_RUN | {"mesh": "fsdp=2,tensor=2"}, 4)
    check_equal(report, one_process[1])


@pytest.mark.slow
def test_a_killed_process(tmp_path, data, two_processes):
    """The other one ends with an error; the run resumes with the same bits."""
    results = finish(start_processes(tmp_path, data, LONG_RUN, 2, kill="1:5"))
    assert results[1][0] == -signal.SIGKILL
    assert results[0][0] == 2
    assert "another one than process 0 is lost" in results[0][2]
    assert "resumes the run" in results[0][2]
    with lock_directory(tmp_path / "run"):  # no process holds it any more
        pass
    run_to_the_end(tmp_path, data, LONG_RUN, 2)
    assert model_bytes(tmp_path / "run") == model_bytes(two_processes[0])


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_step(
    tmp_path, data, one_process, two_processes
):
    """The run resumes with the same bits, or with one process."""
    results = finish(start_processes(tmp_path, data, LONG_RUN, 2, kill="1:3:SIGTERM"))
    assert [status for status, _, _ in results] == [0, 0], results
    stopped = [json.loads(line)["stopped"] for _, line, _ in results]
    assert stopped[0] == stopped[1]
    assert 3 < stopped[0] < 8
    shutil.copytree(tmp_path / "run", tmp_path / "elastic" / "run")
    run_to_the_end(tmp_path, data, LONG_RUN, 2)
    assert model_bytes(tmp_path / "run") == model_bytes(two_processes[0])
    check_equal(run_to_the_end(tmp_path / "elastic", data, LONG_RUN, 1), one_process[1])


@pytest.mark.slow
def test_a_run_resumes_on_fewer_devices(tmp_path, data, one_process, monkeypatch):
    """Four devices, then two, then one; parameters and optimizer states are split each time."""
    monkeypatch.setenv("JAX_PROCESS_ID", "0")  # whose signal it is
    outputs = []
    for count, mesh, kill in (
        (4, "fsdp=2,sequence=2", "0:3:SIGTERM"),
        (2, "fsdp=2", "0:6:SIGTERM"),
        (1, "data=1", ""),
    ):
        changes = json.dumps(LONG_RUN | {"mesh": mesh})
        arguments = [str(WORKER), str(tmp_path), data, changes, kill]
        outputs.append(json.loads(run_with_devices(arguments, count).splitlines()[-1]))
    assert outputs[:2] == [{"stopped": 4}, {"stopped": 7}]
    check_equal(outputs[2], one_process[1])


@pytest.mark.slow
def test_an_error_of_the_main_process_ends_all(tmp_path, data):
    with lock_directory(tmp_path / "run"):
        results = finish(start_processes(tmp_path, data, LONG_RUN, 2))
    for status, _, stderr in results:
        assert status == 1
        assert "output_dir must not be in use by another run" in stderr


@pytest.mark.slow
@pytest.mark.parametrize("last", [{"seed": 1}, {"mesh": "fsdp=2"}])
def test_processes_with_different_options_end_with_the_same_message(tmp_path, data, last):
    results = finish(start_processes(tmp_path, data, LONG_RUN, 2, last=last))
    ((name, value),) = last.items()
    message = f"all processes of a run must have the same options; process 1 has {name} {value!r}"
    for status, _, stderr in results:
        assert status == 1
        assert message in stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_divide_a_stream(tmp_path, monkeypatch, standard_dtype_promotion):
    """One of two is killed, two resume with the same bits, are killed again, and one resumes.

    Their files differ in length. The losses are those of one process with the readers of two, which
    is never interrupted.
    """
    for name, count in {"a": 40, "b": 3, "c": 9}.items():
        write_labeled_texts(tmp_path / f"{name}.jsonl", count)
    data = str(tmp_path / "*.jsonl")
    changes = LONG_RUN | {"max_steps": 6, "min_bucket_length": 32, "eval_steps": None}
    changes |= {"task": "masked-lm", "streaming": True, "shuffle_buffer_size": 8}
    losses: list[dict[int, float]] = []
    for kill in ("1:3", "1:5"):
        processes = start_processes(tmp_path, data, changes, 2, kill)
        outputs = [process.communicate() for process in processes]
        assert [process.returncode for process in processes] == [2, -signal.SIGKILL], outputs
        lines = [json.loads(s) for s in outputs[1][0].splitlines() if s.startswith("{")]
        losses.append({line["step"]: line["loss"] for line in lines})
    assert [list(steps) for steps in losses] == [[1, 2, 3], [3, 4, 5]]
    assert losses[0][3] == losses[1][3]
    report = train(tiny_run_options(tmp_path, train_files=[data], **changes))
    monkeypatch.setattr(RowShards, "num_readers", 2)
    whole = train(tiny_run_options(tmp_path / "whole", train_files=[data], **changes))
    assert report["tokens"] == whole["tokens"]
    np.testing.assert_allclose(report["losses"], whole["losses"], rtol=1e-4)
    resumed = [losses[1][step] for step in (3, 4, 5)]
    np.testing.assert_allclose(resumed, [loss for _, loss in whole["losses"][2:5]], rtol=1e-4)
