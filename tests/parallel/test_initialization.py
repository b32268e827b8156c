"""When a run has several processes: what options and environment variables say."""

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
