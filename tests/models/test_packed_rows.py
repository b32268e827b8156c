"""Documents that share a row have the outputs and gradients that they have alone."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import flax_bigbird
from flax_bigbird._transformers import bigbird_config_class

SIZE = 4  # tokens a block
# Tokens of the documents of each row; the longest an encoder reads in full has (5 + 2) blocks.
ROWS = ([9, 28, 4, 9], [28, 9, 9, 4])
LENGTH = 58  # the last block is part full


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
    """input_ids and segment_ids [B, T], and the documents' places (rows, tokens) by length."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, 40, (len(ROWS), LENGTH)).astype(np.int32)  # padding holds noise
    segments = np.zeros_like(ids)
    places = {}
    for b, lengths in enumerate(ROWS):
        at = 0
        for number, length in enumerate(lengths, 1):
            segments[b, at : at + length] = number
            places.setdefault(length, []).append((b, at))
            at += -(-length // SIZE) * SIZE
    return ids, segments, places


def cut(array, places, length):
    """[documents, length, ...]"""
    return jnp.stack([array[b, at : at + length] for b, at in places])


KINDS = {
    "encoder": ("FlaxBigBirdForMaskedLM", {}),
    "encoder of tags": ("FlaxBigBirdForTokenClassification", {"num_labels": 5}),
    "full encoder": ("FlaxBigBirdForMaskedLM", {"attention_type": "original_full"}),
    "decoder": ("FlaxBigBirdForCausalLM", {"is_decoder": True}),
    "google's decoder": (
        "FlaxBigBirdForCausalLM",
        {"is_decoder": True, "random_attention": "google"},
    ),
    "HF's decoder": ("FlaxBigBirdForCausalLM", {"is_decoder": True, "random_attention": "hf"}),
    "full decoder": (
        "FlaxBigBirdForCausalLM",
        {"is_decoder": True, "attention_type": "original_full"},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_documents_alone(kind):
    name, changes = KINDS[kind]
    model = make(name, **changes)
    ids, segments, documents = packed()
    got = jax.jit(lambda i, s: model(i, segment_ids=s).logits)(ids, segments)
    for length, places in documents.items():
        alone = jax.jit(lambda i: model(i).logits)(cut(ids, places, length))
        np.testing.assert_allclose(cut(got, places, length), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_gradients_are_the_sum_of_the_documents_alone(kind):
    name, changes = KINDS[kind]
    model = make(name, **changes)
    ids, segments, documents = packed(1)
    weights = np.random.default_rng(2).normal(size=(*ids.shape, 40)).astype(np.float32)

    def together(params):
        logits = model(ids, segment_ids=segments, params=params, train=True).logits
        return (logits * weights * (segments != 0)[..., None]).sum()

    def alone(params):
        total = jnp.zeros(())
        for length, places in documents.items():
            logits = model(cut(ids, places, length), params=params, train=True).logits
            total += (logits * cut(weights, places, length)).sum()
        return total

    got, want = (flatten_dict(jax.jit(jax.grad(f))(model.params)) for f in (together, alone))
    assert any(np.abs(leaf).max() > 1 for leaf in want.values())
    for path, leaf in want.items():
        scale = max(1.0, float(np.abs(leaf).max()))
        np.testing.assert_allclose(got[path], leaf, atol=2e-4 * scale, err_msg=str(path))


def test_nothing_crosses_from_one_document_to_another():
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


def test_attention_of_padding_and_of_other_documents_is_nothing():
    model = make("FlaxBigBirdForMaskedLM")
    ids, segments, _ = packed()
    attentions = model(ids, segment_ids=segments, output_attentions=True).attentions[0]
    other = segments[:, None, :, None] != segments[:, None, None, :]
    assert not np.asarray(attentions)[np.broadcast_to(other, attentions.shape)].any()
    sums = np.asarray(attentions.sum(-1)).transpose(0, 2, 1)
    np.testing.assert_allclose(sums[segments != 0], 1, rtol=1e-5)


def test_a_row_may_be_longer_than_the_position_table():
    ids, segments, _ = packed()
    assert make("FlaxBigBirdModel").config.max_position_embeddings < LENGTH
    out = make("FlaxBigBirdModel")(ids, segment_ids=segments).last_hidden_state
    assert np.isfinite(out).all()


def test_what_cannot_be_read_on_a_device_is_nan():
    model = make("FlaxBigBirdForMaskedLM")
    ids = np.ones((3, 40), np.int32)
    segments = np.ones((3, 40), np.int32)  # row 0: ten blocks, seven are the most
    segments[1, 6:] = 2  # begins inside a block
    segments[1, 24:] = 3
    segments[2, 20:] = 2
    out = jax.jit(lambda i, s: model(i, segment_ids=s).logits)(ids, segments)
    assert np.isnan(out).any((1, 2)).tolist() == [True, True, False]


def given(**changes):
    ids = np.ones((1, 40), np.int32)
    segments = np.repeat([[1, 2]], 20, axis=1)
    return {"input_ids": ids, "segment_ids": segments} | changes


@pytest.mark.parametrize(
    ("name", "call", "said"),
    [
        ("FlaxBigBirdForMaskedLM", given(segment_ids=np.ones((1, 39), int)), "shape of input_ids"),
        ("FlaxBigBirdForMaskedLM", given(segment_ids=np.ones((1, 40))), "must be integers"),
        ("FlaxBigBirdForMaskedLM", given(segment_ids=-np.ones((1, 40), int)), "negative"),
        ("FlaxBigBirdForMaskedLM", given(segment_ids=np.ones((1, 40), int)), "at most 28 tokens"),
        (
            "FlaxBigBirdForMaskedLM",
            given(segment_ids=np.repeat([[1, 2]], [18, 22], axis=1)),
            "one at 18 in row 0",
        ),
        ("FlaxBigBirdForSequenceClassification", given(), "outputs are by token"),
        ("FlaxBigBirdForPreTraining", given(), "outputs are by token"),
        (
            "FlaxBigBirdForMaskedLM",
            given(global_attention_mask=np.ones((1, 40), int)),
            "global_attention_mask beside it",
        ),
    ],
)
def test_bad_segments_are_told(name, call, said):
    model = make(name)
    with pytest.raises(ValueError, match=re.escape(said)):
        model(**call)
