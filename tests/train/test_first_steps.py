"""The default learning rate is lower if a step would do harm to a head that was fitted."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import (
    RecordingCallback,
    model_bytes,
    tiny_run_options,
    write_labeled_texts,
)

from flax_bigbird.train import TrainingInterrupted, first_steps, optimizer, train, trainer
from flax_bigbird.train.first_steps import limit_learning_rate

CHANGES = {
    "learning_rate": None,
    "linear_probing": True,
    "validation_fraction": 0,
    "max_steps": 3,
    "warmup_ratio": 0.0,
    "lr_scheduler_type": "constant",
}


def gradient_of(params, batch):
    """Returns the gradient, the sum and the count of the losses `batch * (a + 2 b)`."""
    a, b = params["head"]["a"], params["encoder"]["layer"]["0"]["b"]
    gradient = {
        "head": {"a": jnp.full_like(a, -batch.sum())},
        "encoder": {"layer": {"0": {"b": jnp.full_like(b, 2 * batch.sum())}}},
    }
    return gradient, (batch * (a.sum() + 2 * b.sum())).sum(), jnp.float32(batch.size)


@pytest.mark.parametrize(("decay", "norm"), [(1.0, 3 * 1 + 5 * 2), (0.5, 3 * 1 + 0.5 * 5 * 2)])
def test_the_formula(decay, norm):
    params = {
        "head": {"a": jnp.full(3, 1e-4)},
        "encoder": {"layer": {"0": {"b": jnp.full(5, 1e-5)}}},
    }
    loss = 3 * 1e-4 + 2 * 5 * 1e-5  # times the mean of the batches, as the gradient's norm
    batches = [jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])]
    rate = limit_learning_rate(gradient_of, params, batches, decay)
    np.testing.assert_allclose(rate, 0.25 * loss / norm, rtol=1e-5)
    larger = jax.tree.map(lambda leaf: leaf * 100, params)
    assert limit_learning_rate(gradient_of, larger, batches, decay) == 3e-5


@pytest.fixture
def large_default(monkeypatch):
    """A default that is as large for the tiny model as 3e-5 can be for others."""
    for module in (first_steps, optimizer, trainer):
        monkeypatch.setattr(module, "DEFAULT_LEARNING_RATE", 3.0)


def test_the_loss_of_a_probe_does_not_rise(tmp_path, large_default):
    data = write_labeled_texts(tmp_path / "a.jsonl", 40)
    recorded = RecordingCallback()
    batches: dict[str, Any] = {
        "tokens_per_batch": 2560,
        "min_bucket_length": 64,
    }  # all texts in every batch
    train(tiny_run_options(tmp_path, train_files=[data], **CHANGES, **batches), [recorded])
    losses, rates = (
        [logs[name] for _, logs in recorded.logs] for name in ("loss", "learning_rate")
    )
    assert len(set(rates)) == 1
    assert 0 < rates[0] < 0.1
    assert any(
        f"The learning rate is {rates[0]:.1e} instead of 3e+00" in m for m in recorded.messages
    )
    print(losses, rates)
    assert all(np.diff(losses) < 0)


@pytest.mark.parametrize("changes", [{"learning_rate": 1e-3}, {"linear_probing": False}])
def test_it_changes_no_other_run(tmp_path, large_default, changes):
    data = write_labeled_texts(tmp_path / "a.jsonl", 40)
    recorded = RecordingCallback()
    train(tiny_run_options(tmp_path, train_files=[data], **CHANGES | changes), [recorded])
    expected = changes.get("learning_rate", 3.0)
    assert all(logs["learning_rate"] == pytest.approx(expected) for _, logs in recorded.logs)
    assert not any("The learning rate is" in message for message in recorded.messages)


def test_a_resumed_run_keeps_its_learning_rate(tmp_path, large_default):
    data = write_labeled_texts(tmp_path / "a.jsonl", 40)
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    train(tiny_run_options(tmp_path / "whole", train_files=[data], **CHANGES))
    stopped = tiny_run_options(tmp_path / "stopped", train_files=[data], **CHANGES)
    with pytest.raises(TrainingInterrupted):
        train(stopped, [RecordingCallback(stop_after=2)])
    train(stopped)
    assert model_bytes(tmp_path / "whole" / "run") == model_bytes(tmp_path / "stopped" / "run")
