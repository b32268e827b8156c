"""`model.loss` equals the loss of a script that computes all logits; tests/parity has PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_models
from tiny_models import B, T, V

TASKS = ("ForPreTraining", "ForMaskedLM", "ForCausalLM")


def example(fraction=0.4):
    inputs = tiny_models.inputs()
    rng = np.random.default_rng(3)
    labels = np.where(rng.random((B, T)) < fraction, rng.integers(0, V, (B, T)), -100)
    return inputs, labels


def naive(logits, labels):
    used = labels != -100
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(used, labels, 0))
    return jnp.where(used, losses, 0).sum() / jnp.maximum(used.sum(), 1).astype(losses.dtype)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_value_and_gradients(task, tied):
    model = tiny_models.model(task, tie_word_embeddings=tied)
    inputs, labels = example()
    next_sentence = np.array([0, 1]) if task == "ForPreTraining" else None

    def script(params):
        out = model(**inputs, params=params)
        if task == "ForCausalLM":
            return naive(out.logits[:, :-1], labels[:, 1:])
        if next_sentence is None:
            return naive(out.logits, labels)
        order = naive(out.seq_relationship_logits, next_sentence)
        return naive(out.prediction_logits, labels) + order

    def loss(params):
        return model.loss(**inputs, labels=labels, params=params, next_sentence_label=next_sentence)

    want, gradients = jax.jit(jax.value_and_grad(script))(model.params)
    got, own = jax.jit(jax.value_and_grad(loss))(model.params)
    tiny_models.close(got, want, 1e-5)
    tiny_models.close(own, gradients, 1e-5)


def test_training_options():
    """Dropout and the training pattern are those of a call with the same keys."""
    model = tiny_models.model("ForMaskedLM", hidden_dropout_prob=0.3)
    inputs, labels = example()
    keys = {"dropout_rng": jax.random.key(1), "indices_rng": jax.random.key(2), "train": True}
    want = naive(model(**inputs, **keys).logits, labels)
    tiny_models.close(model.loss(**inputs, labels=labels, **keys), want, 1e-5)


def test_packed_rows_predict_no_token_of_the_next_example():
    model = tiny_models.model("ForCausalLM")
    segments = np.repeat([[1, 2]], [12, 16], axis=1)
    ids = np.random.default_rng(1).integers(4, V, segments.shape)
    packed = model.loss(ids, ids, segment_ids=segments)
    alone = [model.loss(ids[segments == i][None], ids[segments == i][None]) for i in (1, 2)]
    tiny_models.close(packed, (11 * alone[0] + 15 * alone[1]) / 26, 1e-5)


def test_invalid_labels():
    model, (inputs, labels) = tiny_models.model("ForMaskedLM"), example()
    for wrong, message in (
        (labels[:, 1:], r"labels must be integers of shape \[2, 30\]; got int64 \(2, 29\)"),
        (labels * 1.0, "labels must be integers"),
        (labels * 0 + V, r"labels must lie in 0\.\.39, or be -100 .*; got 40"),
    ):
        with pytest.raises(ValueError, match=message):
            model.loss(**inputs, labels=wrong)
    with pytest.raises(ValueError, match="needs a FlaxBigBirdForPreTraining; got it for"):
        model.loss(**inputs, labels=labels, next_sentence_label=np.zeros(B, int))
    with pytest.raises(ValueError, match=r"next_sentence_label must be .* shape \[2\]"):
        tiny_models.model("ForPreTraining").loss(
            **inputs, labels=labels, next_sentence_label=labels
        )
