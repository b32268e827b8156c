"""When a run has several processes: what options and environment variables say."""

import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from flax_bigbird.data.errors import OptionError
from flax_bigbird.parallel.initialization import initialize_processes, is_distributed
from flax_bigbird.train import train_options

SLURM = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


def options(**values):
    names = ("distributed", "coordinator_address", "num_processes", "process_id")
    return SimpleNamespace(**dict.fromkeys(names) | values)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"JAX_COORDINATOR_ADDRESS": "node1:1234"}, True),
        (SLURM, False),  # the batch script itself, of which there is one
        (SLURM | {"SLURM_STEP_NODELIST": "node[1-4]"}, True),
        (SLURM | {"SLURM_STEP_NODELIST": "node1", "SLURM_NTASKS": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "host-0,host-1"}, True),
    ],
)
def test_what_the_environment_says(environment, expected):
    assert is_distributed(options(), environment) is expected
    assert is_distributed(options(distributed=True), environment)
    assert not is_distributed(options(distributed=False), environment)
    assert not is_distributed(options(num_processes=1), environment)


@pytest.mark.parametrize(
    "given", [{"process_id": 0}, {"num_processes": 2}, {"coordinator_address": "node1:1234"}]
)
def test_what_options_say(given):
    assert is_distributed(options(**given), {})


def test_an_environment_variable_that_is_no_number(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "node1:1234")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(OptionError, match="JAX_NUM_PROCESSES must be a whole number; got 'two'"):
        initialize_processes(options())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mesh": "model=8"}, "the axes of mesh must be among data, fsdp, sequence, tensor"),
        ({"coordinator_address": "node1"}, "must be a host and a port in 1..65535; got 'node1'"),
        ({"coordinator_address": ":12345"}, "must be a host and a port in 1..65535; got ':12345'"),
        ({"coordinator_address": "a:99999"}, "must be a host and a port in 1..65535; got 'a:9999"),
        ({"num_processes": 2, "process_id": 2}, "process_id must be less than num_processes"),
        ({"num_processes": 0}, "num_processes must be at least 1"),
        ({"distributed": False, "process_id": 0}, "process_id belongs to several processes"),
    ],
)
def test_options_of_a_run(values, message):
    with pytest.raises(OptionError, match=message):
        train_options("masked-lm", train_files=["a.jsonl"], output_dir="run", **values)


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_stays_alone_ends_with_a_message(index, tmp_path):
    """The other one never starts, or has the same index, or another address."""
    program = (
        "import sys\n"
        "from flax_bigbird.parallel import initialization\n"
        "initialization.CONNECTION_TIMEOUT = 1\n"
        "from flax_bigbird.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    arguments = ["train", "masked-lm", "--train-files", "a.jsonl", "-o", str(tmp_path / "run")]
    arguments += ["--coordinator-address", address, "--num-processes", "2"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments, "--process-id", str(index)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"},
        check=False,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("bigbird: the processes of a run must find each other; got coordinator")
    assert f"process_id={index}, and not all of them were there after 1 seconds" in line
    assert not (tmp_path / "run").exists()
