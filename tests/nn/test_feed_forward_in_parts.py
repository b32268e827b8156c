"""On a CPU many tokens go through the feed-forward in parts: the same numbers, dropout included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from flax_bigbird.nn import layers
from flax_bigbird.nn.context import Call

LENGTH = 44


@pytest.fixture
def small_parts(monkeypatch):
    """44 tokens twice are five parts of 16, and 8 more."""
    monkeypatch.setattr(layers, "ROWS_AT_ONCE", 16)
    monkeypatch.setattr(layers, "_one_cpu", lambda: True)


def call(train=False, **config):
    model = tiny_models.model("ForMaskedLM", **config)
    batch = tiny_models.inputs(length=LENGTH)

    @jax.jit
    def run(params, key):
        def loss(params):
            logits = model(**batch, params=params, train=train, dropout_rng=key).logits
            return jnp.sin(logits).sum()

        return jax.value_and_grad(loss)(params)

    return run(model.params, jax.random.key(0))


@pytest.mark.parametrize("train", [False, True])
def test_values_and_gradients_are_those_of_the_whole(train, small_parts, monkeypatch):
    parts = call(train)
    monkeypatch.setattr(layers, "_one_cpu", lambda: False)
    tiny_models.close(parts, call(train), 1e-4)


def test_it_goes_in_parts(small_parts):
    """The compiled program holds no array of all tokens' wide states."""
    model = tiny_models.model("ForMaskedLM")
    ids = jnp.asarray(tiny_models.inputs(length=LENGTH)["input_ids"])
    wide = model.config.intermediate_size
    text = str(jax.make_jaxpr(lambda ids: model(ids).logits)(ids))
    assert f"[16,{wide}]" in text
    assert f"{LENGTH},{wide}]" not in text


def test_parts_draw_their_own_dropout(small_parts):
    """Equal tokens in different parts lose different elements."""
    config = tiny_models.config(hidden_dropout_prob=0.5)
    layer = layers.BigBirdLayer(config)
    x = jnp.ones((1, 32, tiny_models.D))
    asked = Call(deterministic=False)
    streams = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = layer.init(streams, x, asked, method="_feed_forward_at_once")
    out = layer.apply(
        params, x, asked, method="_feed_forward", rngs={"dropout": streams["dropout"]}
    )
    assert tiny_models.differ(out[0, :16], out[0, 16:])
    again = layer.apply(
        params, x, asked, method="_feed_forward", rngs={"dropout": streams["dropout"]}
    )
    np.testing.assert_array_equal(out, again)
