"""Layer-wise decay of the learning rate, against the formula."""

import jax
import numpy as np
import optax
import pytest
import tiny_models

from flax_bigbird.train import train_options
from flax_bigbird.train.layerwise_decay import layer_scales
from flax_bigbird.train.optimizer import (
    create_optimizer,
    learning_rate_schedule,
    weight_decay_mask,
)


@pytest.fixture(scope="module")
def params():
    model = tiny_models.model("ForSequenceClassification", **tiny_models.TWO_LAYERS)
    return jax.tree.map(np.asarray, model.params)


def test_factors_of_two_layers(params):
    scales = tiny_models.flat(layer_scales(params, 0.5))
    expected = {
        "bert/embeddings/word_embeddings/embedding": 0.125,
        "bert/embeddings/LayerNorm/scale": 0.125,
        "bert/encoder/layer/0/intermediate/dense/kernel": 0.25,
        "bert/encoder/layer/1/output/dense/bias": 0.5,
        "bert/pooler/kernel": 1.0,
        "classifier/out_proj/kernel": 1.0,
    }
    assert {name: scales[name] for name in expected} == expected
    assert set(scales.values()) == {0.125, 0.25, 0.5, 1.0}


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_updates_are_scaled(params, max_grad_norm):
    """Those of AdamW, its weight decay included."""

    def updates(decay):
        options = train_options(
            "sequence-classification",
            train_files=["a"],
            output_dir="b",
            layerwise_lr_decay=decay,
            max_grad_norm=max_grad_norm,
            learning_rate=0.1,
            weight_decay=0.3,
        )
        optimizer = create_optimizer(options, 10)
        gradient = jax.tree.map(np.sin, params)
        return optimizer.update(gradient, optimizer.init(params), params)[0]

    with jax.numpy_dtype_promotion("standard"):
        plain, scaled = updates(1.0), updates(0.5)
    expected = jax.tree.map(lambda u, s: u * s, plain, layer_scales(params, 0.5))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), scaled, expected)


def test_without_decay_the_state_is_that_of_adamw(params):
    """Runs of earlier versions can be resumed."""
    options = train_options(
        "masked-lm", train_files=["a"], output_dir="b", max_grad_norm=0.0, learning_rate=1e-3
    )
    state = create_optimizer(options, 10).init(params)
    adamw = optax.adamw(learning_rate_schedule(options, 10), mask=weight_decay_mask)
    assert jax.tree.structure(state) == jax.tree.structure(adamw.init(params))
