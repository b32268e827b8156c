"""Whole models inside `jax.shard_map` with its default `check_vma=True`: values and gradients."""

from pathlib import Path

from several_devices import run_with_devices

PROGRAM = Path(__file__).parent / "sharded_models_program.py"


def test_gradients_equal_those_of_one_device():
    lines = run_with_devices([str(PROGRAM)], count=2).splitlines()
    assert len(lines) == 5, lines
    for line in lines:
        assert float(line.rsplit(": ", 1)[1]) <= 1e-5, line
