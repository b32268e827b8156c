"""JSON files hold null instead of NaN and infinity, which are not JSON."""

import json

import numpy as np
import pytest

from flax_bigbird.data.json_output import to_json
from flax_bigbird.train import TrainerState
from flax_bigbird.train.callbacks import MetricsFileCallback


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), np.float64("nan")])
def test_numbers_that_json_lacks_are_null(number):
    value = {"é": [1, (number, 2.5), {"x": number, "y": None, "z": True}]}
    assert strict(to_json(value)) == {"é": [1, [None, 2.5], {"x": None, "y": None, "z": True}]}
    assert strict(to_json(value, indent=2)) == strict(to_json(value))


def test_metrics_of_a_run(tmp_path):
    callback = MetricsFileCallback(tmp_path / "metrics.jsonl")
    state = TrainerState(max_steps=2, eval_steps=1, global_step=1)
    callback.on_train_begin(state)
    callback.on_log(state, {"loss": 1.5, "mfu": float("inf")})
    callback.on_evaluate(state, {"loss": float("nan")}, False)
    callback.on_train_end(state)
    lines = [strict(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 1, "kind": "training", "loss": 1.5, "mfu": None},
        {"step": 1, "kind": "validation", "loss": None},
    ]
