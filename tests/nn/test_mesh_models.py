"""Whole models whose examples, tokens and heads are split over devices."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_models
from jax.sharding import AxisType
from several_devices import run_with_devices

PROGRAM = Path(__file__).parent / "mesh_models_program.py"
BENCHMARKS = PROGRAM.parents[2] / "benchmarks"


def run(*names: str) -> list[dict[str, Any]]:
    lines = run_with_devices([str(PROGRAM), "0", str(BENCHMARKS), *names], 8).splitlines()
    return [json.loads(line) for line in lines]


def check_layers(results: dict[str, Any]) -> None:
    """A table as long as the texts is read where it is; only gradients are summed.

    Queries, keys and values have one sum of gradients of the hidden states together.
    """
    assert 0 < results.pop("sums") <= 1.01
    for result in results.values():
        assert result["difference"] <= 1e-5, results
    sent = [axis for axes in results["whole table"]["received"] for axis in axes.split("+")]
    assert "sequence" not in sent
    assert {"data", "fsdp"} <= set(sent), "the examples are split, but no gradients are summed"


def check(models: list[dict[str, Any]]) -> None:
    for result in models:
        assert result["difference"] is not None, result
        assert result["difference"] <= 1e-5, result
        if result["name"] != "full attention":  # every query reads every key there
            assert result["gathered"] < result["hidden"], result


def test_a_model_equals_that_of_one_device():
    """Loss and gradients; and no device holds the hidden states of all tokens."""
    layers, *models = run("padding invariance")
    check_layers(layers)
    check(models)


@pytest.mark.slow
def test_all_models_equal_those_of_one_device():
    _, *models, others = run()
    assert len(models) == 9
    check(models)
    assert others["nan"], "an example with padding on the left has results"
    assert others["difference"] <= 1e-5
    assert others["map"] <= 1e-6


def test_a_cache_is_not_split_by_tokens():
    model = tiny_models.model("ForCausalLM")
    ids = np.full((1, 8), 5, np.int32)
    mesh = jax.sharding.AbstractMesh((2,), ("sequence",), (AxisType.Auto,))
    with (
        jax.sharding.use_abstract_mesh(mesh),
        pytest.raises(ValueError, match=r"'sequence' has size 2.*without that axis"),
    ):
        jax.eval_shape(lambda: model.generate(ids, max_length=12, do_sample=False).sequences)
