"""FLOPs of a training token: the keys that a query attends to follow from the configuration."""

from typing import Any

import jax
import pytest
from tiny_runs import TINY_MODEL
from transformers import BigBirdConfig

import flax_bigbird
from flax_bigbird.train import throughput
from flax_bigbird.train.throughput import keys_per_query, training_flops_per_token


def config(**changes: Any):
    defaults: dict[str, Any] = {"vocab_size": 80, "max_position_embeddings": 512}
    return BigBirdConfig(**TINY_MODEL | defaults | changes)


@pytest.mark.parametrize(
    ("changes", "length", "keys"),
    [
        ({}, 512, (3 + 2 + 1) * 8),
        ({}, 40, 40),
        ({}, 56, 56),  # an encoder attends in full up to 5 + 2R blocks
        ({}, 57, 48),
        ({"num_random_blocks": 3}, 512, (3 + 2 + 3) * 8),
        ({"num_window_blocks": 7}, 512, (7 + 2 + 1) * 8),
        ({"num_leading_global_blocks": 2, "num_trailing_global_blocks": 0}, 512, (3 + 2 + 1) * 8),
        ({"num_window_blocks": 9, "num_leading_global_blocks": 4}, 512, (9 + 5 + 1) * 8),
        ({"attention_type": "original_full"}, 512, 512),
        ({"is_decoder": True}, 512, (2 + 1 + 1) * 8),  # no later blocks
    ],
)
def test_keys_per_query(changes, length, keys):
    assert keys_per_query(config(**changes), length) == keys


def test_flops_count_every_matmul():
    """Six FLOPs per weight of the encoder, twelve per key and feature, and the vocabulary's."""
    model = flax_bigbird.FlaxBigBirdForMaskedLM(config(), seed=0, input_shape=(1, 8))
    width, mlp, layers, vocabulary = 32, 64, 1, 80
    weights = layers * (4 * width * width + 2 * width * mlp)
    expected = 6 * weights + 12 * layers * width * 48 + 6 * 0.25 * width * (width + vocabulary)
    flops = training_flops_per_token(model.config, model.params, 512, 0.25)
    assert flops == pytest.approx(expected)
    assert len(jax.tree.leaves(model.params)) > 10


def test_a_machine_that_was_busy_is_measured_again(monkeypatch):
    """Training was faster than the matmuls that were measured while others used the machine."""
    seconds = iter([2.0, 1.0, 0.25, 0.5])
    monkeypatch.setattr(throughput, "_seconds", {})
    monkeypatch.setattr(throughput, "_measure_matmul", lambda dtype: next(seconds))
    busy = throughput.matmul_flops_per_second("float32")
    assert throughput.matmul_flops_per_second("float32", at_least=busy) == busy
    assert throughput.matmul_flops_per_second("float32", at_least=3 * busy) == 8 * busy
    assert throughput.matmul_flops_per_second("float32") == 8 * busy
    assert next(seconds) == 0.5


def test_measurements_end(monkeypatch):
    monkeypatch.setattr(throughput, "_seconds", {})
    monkeypatch.setattr(throughput, "_measure_matmul", lambda dtype: 1.0)
    rate = throughput.matmul_flops_per_second("float32")
    assert throughput.matmul_flops_per_second("float32", at_least=2 * rate) == rate
