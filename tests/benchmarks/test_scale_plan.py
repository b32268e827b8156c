"""The formulas of the plans, beside compiled programs of eight simulated devices.

The figures of the programs are those of `benchmarks/results/scale_sequence.json` and
`scale_mesh.json`.
"""

import json
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
SMALL = {"V": 8192, "D": 256, "layers": 4, "N": 4, "F": 1024}
BASE = {"V": 8192, "D": 768, "layers": 1, "N": 12, "F": 3072}


def rows(model: str, rule: str) -> list[dict[str, Any]]:
    figures = json.loads((RESULTS / "scale_sequence.json").read_text())
    return [row for row in figures if (row["model"], row["rule"]) == (model, rule)]


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_memory_of_activations(benchmark, devices):
    """What the layers keep is most of the memory of a step, and never more."""
    plan = benchmark("scale_plan")
    model = plan.Model(**SMALL)
    (row,) = (row for row in rows("small, training step", "fixed") if row["devices"] == devices)
    tokens = row["length"] / devices
    kept = plan.activation_bytes(model, tokens, width=4) / 2**20
    assert 0.75 <= kept / row["temporary_mib"] <= 1.0


@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize("name", ["small, training step", "base, one layer"])
def test_key_blocks_that_are_sent(benchmark, name, devices):
    plan = benchmark("scale_plan")
    model = plan.Model(**(SMALL if name.startswith("small") else BASE))
    (row,) = (row for row in rows(name, "fixed") if row["devices"] == devices)
    mesh = plan.Mesh(1, 1, devices, 1)
    blocks = plan.scattered_blocks(model, row["length"], devices) + 2  # and from each neighbor
    block = plan.key_block_bytes(model, mesh, width=4)
    expected = 3 * model.layers * blocks * block / 2**20  # keys twice, and gradients
    sent = row["sent_mib"]["all-to-all"] + row["sent_mib"]["collective-permute"]
    assert expected == pytest.approx(sent, rel=0.12)


def steps() -> list[dict[str, Any]]:
    return json.loads((RESULTS / "scale_mesh.json").read_text())["collectives"]


@pytest.mark.parametrize("row", steps(), ids=lambda row: row["mesh"])
def test_operations_and_bytes_of_a_training_step(benchmark, row):
    expected = benchmark("scale_mesh").planned_step(row["mesh"])
    assert expected["flops"] == pytest.approx(row["flops"], rel=0.1)
    received = sum(row["received"].values())
    assert sum(expected["received"].values()) == pytest.approx(received, rel=0.1)


def test_parameters_of_the_base_model(benchmark):
    """128 million, of which 1% are the pooler, biases and norms, which the formula leaves out."""
    plan = benchmark("scale_plan")
    assert sum(plan.parameters(plan.MODELS["base"], 4096)) == pytest.approx(128.1e6, rel=0.01)


def test_every_plan_fits(benchmark):
    plan = benchmark("scale_plan")
    for row in plan.table():
        if row["plan"]:
            assert row["plan"]["memory"] <= 0.85 * plan.CHIPS[row["chip"]].memory
