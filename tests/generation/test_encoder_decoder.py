"""An encoder-decoder pair of two models, which learns to copy and then generates the copy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_models
from tiny_models import W

BOS, LENGTH, SOURCE = 1, 8, 32  # an encoder is sparse for more than (5 + 2R) W = 28 tokens
SIZES = {"initializer_range": 0.2, "hidden_size": 32, "intermediate_size": 64}
NO_END = {"eos_token_id": None, "pad_token_id": 0}


def pair(**changes):
    encoder = tiny_models.model("Model", **SIZES)
    crossing = {"is_decoder": True, "add_cross_attention": True}
    return encoder, tiny_models.model("ForCausalLM", **crossing, **SIZES, **changes)


def batch(rng, count=32):
    """Returns random sources, their masks, and the first `LENGTH` tokens, which are the targets."""
    source = rng.integers(4, 14, (count, SOURCE)).astype(np.int32)
    mask = np.arange(SOURCE) < rng.integers(LENGTH + 1, SOURCE + 1, (count, 1))
    return source, mask.astype(np.int32), source[:, :LENGTH]


@pytest.mark.usefixtures("standard_dtype_promotion")
def test_a_pair_learns_to_copy_and_generates_the_copy():
    encoder, decoder = pair()
    optimizer = optax.adam(optax.cosine_decay_schedule(6e-3, 500))

    def loss_of(params, source, mask, target):
        states = encoder(source, mask, params=params["encoder"], train=True).last_hidden_state
        given = jnp.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=BOS)
        logits = decoder(
            given,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            params=params["decoder"],
            train=True,
        ).logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, target).mean()

    @jax.jit
    def step(params, state, source, mask, target):
        loss, gradient = jax.value_and_grad(loss_of)(params, source, mask, target)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, loss

    params = {"encoder": encoder.params, "decoder": decoder.params}
    state, rng, losses = optimizer.init(params), np.random.default_rng(0), []
    for _ in range(500):
        params, state, loss = step(params, state, *batch(rng))
        losses.append(float(loss))
    assert losses[0] > 2
    assert np.mean(losses[-10:]) < 0.05
    source, mask, target = batch(np.random.default_rng(1), 16)
    states = encoder(source, mask, params=params["encoder"]).last_hidden_state
    start = np.full((16, 1), BOS, np.int32)
    for options in ({}, {"num_beams": 3}):
        out = decoder.generate(
            start,
            params=params["decoder"],
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            max_new_tokens=LENGTH,
            **options,
            **NO_END,
        )
        assert (np.asarray(out.sequences)[:, 1:] == target).mean() > 0.98


@pytest.mark.parametrize("kind", ["original_full", "block_sparse"])
def test_generation_reads_the_encoder_as_one_call_does(kind):
    """Greedy search with cached cross-attention equals calls without any cache."""
    _, model = pair(attention_type=kind)
    rng = np.random.default_rng(2)
    states = rng.standard_normal((2, 11, 32)).astype(np.float32)
    encoder: dict[str, np.ndarray] = {"encoder_hidden_states": states}
    encoder["encoder_attention_mask"] = (np.arange(11) < [[11], [6]]).astype(np.int32)
    ids = rng.integers(4, 40, (2, 6)).astype(np.int32)
    text = np.pad(ids, ((0, 0), (0, 9)))
    for at in range(6, 15):
        text[:, at] = tiny_models.run(model, encoder | {"input_ids": text})[0][:, at - 1].argmax(-1)
    out = model.generate(ids, max_new_tokens=9, **encoder, **NO_END).sequences
    np.testing.assert_array_equal(out, text)
    without = model.generate(ids, max_new_tokens=9, **NO_END).sequences
    assert (np.asarray(without) != text).any()


class ModuleWithoutPrefill(tiny_models.module_class("ForCausalLM")):
    """A user's module with the signature of HF-Flax."""

    def __call__(
        self,
        input_ids,
        attention_mask,
        position_ids,
        token_type_ids=None,
        head_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        init_cache=False,
        deterministic=True,
        output_attentions=False,
        output_hidden_states=False,
        return_dict=True,
    ):
        return super().__call__(
            input_ids,
            attention_mask,
            position_ids,
            token_type_ids,
            head_mask,
            encoder_hidden_states,
            encoder_attention_mask,
            init_cache,
            deterministic,
            output_attentions,
            output_hidden_states,
            return_dict,
        )


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
def test_a_module_that_takes_no_prefill_reads_the_encoder(options):
    _, model = pair()
    cls = type(model)
    users = type("Model", (cls,), {"module_class": ModuleWithoutPrefill})(
        model.config, _do_init=False
    )
    rng = np.random.default_rng(3)
    ids = rng.integers(4, 40, (2, 6)).astype(np.int32)
    options = {
        "encoder_hidden_states": rng.standard_normal((2, 11, 32)).astype(np.float32),
        "encoder_attention_mask": (np.arange(11) < [[11], [6]]).astype(np.int32),
        "max_new_tokens": 6,
        **NO_END,
        **options,
    }
    want = model.generate(ids, **options).sequences
    got = users.generate(ids, params=model.params, **options).sequences
    np.testing.assert_array_equal(got, want)


def test_encoder_keys_are_computed_once():
    """The body of the loop does not project the encoder's states."""
    from flax_bigbird.models.module_decoder import module_decoder

    _, model = pair()
    states, mask = jnp.zeros((2, 11, 32)), jnp.ones((2, 11), bool)
    ids = jnp.full((2, W), 5)
    decoder = module_decoder(model.module, model.params, ids, None, 8, states, mask)
    _, state = jax.eval_shape(decoder.prefill)
    jaxpr = str(jax.make_jaxpr(decoder.step)(state, jnp.zeros(2, jnp.int32)))
    assert "f32[2,11,2,16]" in jaxpr, "cached keys are read"
    assert "f32[2,11,32]" not in jaxpr, "and not computed"
    prefill = str(jax.make_jaxpr(functools.partial(decoder.prefill))())
    assert "f32[2,11,32]" in prefill
