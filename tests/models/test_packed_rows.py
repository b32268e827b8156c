"""Packed examples have the outputs and gradients that they have alone."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

import flax_bigbird
from flax_bigbird._transformers import bigbird_config_class

SIZE = 4  # block size
# The lengths of the examples of each row; an encoder takes up to 5 + 2 blocks.
ROWS = ([9, 28, 4, 9], [28, 9, 9, 4])
LENGTH = 58  # the last block is incomplete


def make(name: str, **changes):
    settings = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 32,
        "block_size": SIZE,
        "num_random_blocks": 1,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "padding_invariant": True,
        "random_attention": "fixed",
        "type_vocab_size": 2,
        "initializer_range": 0.5,
    }
    return getattr(flax_bigbird, name)(bigbird_config_class()(**(settings | changes)), seed=3)


def packed(seed: int = 0):
    """Returns input_ids and segment_ids [B, T], and the (row, start) of the examples by length."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, 40, (len(ROWS), LENGTH)).astype(np.int32)  # padding holds noise
    segments = np.zeros_like(ids)
    starts = {}
    for b, lengths in enumerate(ROWS):
        at = 0
        for segment, length in enumerate(lengths, 1):
            segments[b, at : at + length] = segment
            starts.setdefault(length, []).append((b, at))
            at += -(-length // SIZE) * SIZE
    return ids, segments, starts


def cut(array, starts, length):
    """Returns the examples of one length, [examples, length, ...]."""
    return jnp.stack([array[b, at : at + length] for b, at in starts])


KINDS = {
    "encoder": ("FlaxBigBirdForMaskedLM", {}),
    "token classifier": ("FlaxBigBirdForTokenClassification", {"num_labels": 5}),
    "full encoder": ("FlaxBigBirdForMaskedLM", {"attention_type": "original_full"}),
    "decoder": ("FlaxBigBirdForCausalLM", {"is_decoder": True}),
    "decoder with google blocks": (
        "FlaxBigBirdForCausalLM",
        {"is_decoder": True, "random_attention": "google"},
    ),
    "decoder with hf blocks": (
        "FlaxBigBirdForCausalLM",
        {"is_decoder": True, "random_attention": "hf"},
    ),
    "full decoder": (
        "FlaxBigBirdForCausalLM",
        {"is_decoder": True, "attention_type": "original_full"},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_those_of_the_examples_alone(kind):
    name, changes = KINDS[kind]
    model = make(name, **changes)
    ids, segments, examples = packed()
    got = jax.jit(lambda i, s: model(i, segment_ids=s).logits)(ids, segments)
    for length, starts in examples.items():
        alone = jax.jit(lambda i: model(i).logits)(cut(ids, starts, length))
        np.testing.assert_allclose(cut(got, starts, length), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_gradients_equal_the_sum_over_the_examples_alone(kind):
    name, changes = KINDS[kind]
    model = make(name, **changes)
    ids, segments, examples = packed(1)
    weights = np.random.default_rng(2).normal(size=(*ids.shape, 40)).astype(np.float32)

    def together(params):
        logits = model(ids, segment_ids=segments, params=params, train=True).logits
        return jnp.where((segments != 0)[..., None], logits * weights, 0).sum()

    def alone(params):
        total = jnp.zeros(())
        for length, starts in examples.items():
            logits = model(cut(ids, starts, length), params=params, train=True).logits
            total += (logits * cut(weights, starts, length)).sum()
        return total

    got, want = (tiny_models.flat(jax.jit(jax.grad(f))(model.params)) for f in (together, alone))
    assert any(np.abs(leaf).max() > 1 for leaf in want.values())
    for path, leaf in want.items():
        scale = max(1.0, float(np.abs(leaf).max()))
        np.testing.assert_allclose(got[path], leaf, atol=2e-4 * scale, err_msg=path)


def test_an_example_does_not_depend_on_others():
    model = make("FlaxBigBirdForMaskedLM")
    ids, segments, _ = packed()

    def of_third(table):
        params = model.params | {}
        embeddings = params["bert"]["embeddings"] | {"word_embeddings": {"embedding": table}}
        params["bert"] = params["bert"] | {"embeddings": embeddings}
        out = model(ids[:1], segment_ids=segments[:1], params=params, output_hidden_states=True)
        return out.hidden_states[-1][0, segments[0] == 3].sum()

    table = model.params["bert"]["embeddings"]["word_embeddings"]["embedding"]
    read = np.unique(np.nonzero(jax.jit(jax.grad(of_third))(table))[0])
    assert set(read) == set(ids[0][segments[0] == 3])


def test_attention_to_padding_and_to_other_examples_is_zero():
    model = make("FlaxBigBirdForMaskedLM")
    ids, segments, _ = packed()
    attentions = model(ids, segment_ids=segments, output_attentions=True).attentions[0]
    other = segments[:, None, :, None] != segments[:, None, None, :]
    assert not np.asarray(attentions)[np.broadcast_to(other, attentions.shape)].any()
    sums = np.asarray(attentions.sum(-1)).transpose(0, 2, 1)
    np.testing.assert_allclose(sums[segments != 0], 1, rtol=1e-5)


def test_a_row_may_exceed_the_position_table():
    ids, segments, _ = packed()
    assert make("FlaxBigBirdModel").config.max_position_embeddings < LENGTH
    out = make("FlaxBigBirdModel")(ids, segment_ids=segments).last_hidden_state
    assert np.isfinite(out).all()


def test_padding_may_exceed_the_position_table():
    """On the host it was refused, and under jit it made all gradients NaN."""
    model = make("FlaxBigBirdForMaskedLM")
    ids = np.full((1, LENGTH), 7, np.int32)
    segments = (np.arange(LENGTH) < 20)[None].astype(np.int32)
    assert model.config.max_position_embeddings < LENGTH - 20
    out = model(ids, segment_ids=segments).logits
    np.testing.assert_allclose(out[:, :20], model(ids[:, :20]).logits, rtol=1e-4, atol=1e-4)

    def loss(params, segments):
        labels = jnp.where(segments != 0, ids, -100)
        return model.loss(ids, labels, segment_ids=segments, params=params)

    gradients = jax.jit(jax.grad(loss))(model.params, segments)
    assert all(np.isfinite(leaf).all() for leaf in tiny_models.flat(gradients).values())


@pytest.mark.parametrize("name", ["FlaxBigBirdForMaskedLM", "FlaxBigBirdForCausalLM"])
def test_each_run_of_one_id_is_an_example(name):
    """Two examples with padding between them are two, even if both have the same id."""
    model = make(name, is_decoder=name == "FlaxBigBirdForCausalLM")
    ids = np.random.default_rng(4).integers(1, 40, (1, 24)).astype(np.int32)
    same = np.ones((1, 24), np.int32)
    same[:, 7] = 0  # the second example starts with the next block
    other = np.where(np.arange(24) < 7, same, 2 * same)
    run = jax.jit(lambda segments: model(ids, segment_ids=segments).logits)
    got, want = run(same), run(other)
    np.testing.assert_allclose(got[same != 0], want[same != 0], rtol=1e-5, atol=1e-5)


def test_invalid_segments_on_a_device_give_nan():
    model = make("FlaxBigBirdForMaskedLM")
    ids = np.ones((6, 40), np.int32)
    segments = np.ones((6, 40), np.int32)  # row 0 has ten blocks, and seven are allowed
    segments[1, 6:] = 2  # starts inside a block
    segments[1, 24:] = 3
    segments[2:, 20:] = 2
    segments[3, :2] = 0  # starts inside a block that holds no other
    segments[4, 10:11] = 0  # goes on inside a block
    segments[5, :20] = -1
    out = jax.jit(lambda i, s: model(i, segment_ids=s).logits)(ids, segments)
    assert np.isnan(out).any((1, 2)).tolist() == [True, True, False, True, True, True]


def call(**changes):
    ids = np.ones((1, 40), np.int32)
    segments = np.repeat([[1, 2]], 20, axis=1)
    return {"input_ids": ids, "segment_ids": segments} | changes


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("FlaxBigBirdForMaskedLM", call(segment_ids=np.ones((1, 39), int)), "shape of input_ids"),
        ("FlaxBigBirdForMaskedLM", call(segment_ids=np.ones((1, 40))), "must be integers"),
        ("FlaxBigBirdForMaskedLM", call(segment_ids=-np.ones((1, 40), int)), "negative"),
        ("FlaxBigBirdForMaskedLM", call(segment_ids=np.ones((1, 40), int)), "at most 28 tokens"),
        (
            "FlaxBigBirdForMaskedLM",
            call(segment_ids=np.repeat([[1, 2]], [18, 22], axis=1)),
            "one at 18 in row 0",
        ),
        ("FlaxBigBirdForSequenceClassification", call(), "one output per token"),
        ("FlaxBigBirdForPreTraining", call(), "one output per token"),
        (
            "FlaxBigBirdForMaskedLM",
            call(global_attention_mask=np.ones((1, 40), int)),
            "global_attention_mask as well",
        ),
    ],
)
def test_invalid_segments(name, arguments, message):
    model = make(name)
    with pytest.raises(ValueError, match=re.escape(message)):
        model(**arguments)
