"""The feed-forward block in chunks, as on a CPU, computes the same values, dropout included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from flax_bigbird.nn import layers
from flax_bigbird.nn.context import CallOptions

LENGTH = 44


@pytest.fixture
def small_chunks(monkeypatch):
    """Two examples of 44 tokens are five chunks of 16 tokens, and 8 more."""
    monkeypatch.setattr(layers, "TOKENS_PER_CHUNK", 16)
    monkeypatch.setattr(layers, "_is_single_cpu", lambda: True)


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
def test_values_and_gradients_equal_those_without_chunks(train, small_chunks, monkeypatch):
    in_chunks = call(train)
    monkeypatch.setattr(layers, "_is_single_cpu", lambda: False)
    tiny_models.close(in_chunks, call(train), 1e-4)


def test_wide_states_are_never_complete(small_chunks):
    """The program has no array with the wide states of all tokens."""
    model = tiny_models.model("ForMaskedLM")
    ids = jnp.asarray(tiny_models.inputs(length=LENGTH)["input_ids"])
    wide = model.config.intermediate_size
    text = str(jax.make_jaxpr(lambda ids: model(ids).logits)(ids))
    assert f"[16,{wide}]" in text
    assert f"{LENGTH},{wide}]" not in text


def test_chunks_draw_their_own_dropout(small_chunks):
    """Equal tokens in different chunks lose different elements."""
    config = tiny_models.config(hidden_dropout_prob=0.5)
    layer = layers.BigBirdLayer(config)
    x = jnp.ones((1, 32, tiny_models.D))
    options = CallOptions(deterministic=False)
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = layer.init(rngs, x, options, method="_feed_forward_chunk")
    rngs = {"dropout": rngs["dropout"]}
    run = jax.jit(
        lambda params, rngs: layer.apply(params, x, options, method="_feed_forward", rngs=rngs)
    )
    out = np.asarray(run(params, rngs))
    assert tiny_models.differ(out[0, :16], out[0, 16:])
    np.testing.assert_array_equal(out, run(params, rngs))


def test_calls_that_are_not_compiled_have_no_chunks(small_chunks, monkeypatch):
    """JAX would compile the loop of every layer in each of them."""
    model, batch = tiny_models.model("ForMaskedLM"), tiny_models.inputs(length=LENGTH)
    want = tiny_models.run(model, batch).logits
    monkeypatch.setattr(layers.nn, "scan", None)
    tiny_models.close(model(**batch).logits, want, 1e-4)
    jax.grad(lambda params: model(**batch, params=params).logits.sum())(model.params)
