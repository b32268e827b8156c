"""Losses of labeled positions equal those of all logits, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_models
from tiny_models import B, T, V

from flax_bigbird.nn.losses import (
    IGNORED_LABEL,
    classification_losses,
    cross_entropy,
    gather_targets,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def random_labels(rng, fraction: float = 0.2) -> np.ndarray:
    labels = rng.integers(0, V, (B, T))
    return np.where(rng.random((B, T)) < fraction, labels, IGNORED_LABEL)


def test_gather_targets(rng):
    labels = random_labels(rng)
    targets = gather_targets(labels, limit=20)
    assert targets.positions.shape == targets.labels.shape == (B, 20)
    for row, positions, gathered in zip(labels, *map(np.asarray, targets), strict=True):
        used = np.flatnonzero(row != IGNORED_LABEL)
        np.testing.assert_array_equal(positions[: len(used)], used)
        np.testing.assert_array_equal(gathered[: len(used)], row[used])
        assert (positions[len(used) :] == 0).all()
        assert (gathered[len(used) :] == IGNORED_LABEL).all()
    traced = jax.jit(lambda x: gather_targets(x, limit=20))(labels)
    np.testing.assert_array_equal(traced.positions, targets.positions)
    np.testing.assert_array_equal(traced.labels, targets.labels)


def test_gather_targets_computes_the_limit(rng):
    labels = random_labels(rng)
    largest = (labels != IGNORED_LABEL).sum(1).max()
    assert gather_targets(labels).labels.shape == (B, largest)
    assert gather_targets(np.full((1, 5), IGNORED_LABEL)).labels.shape == (1, 1)


def test_gather_targets_bad_input(rng):
    labels = np.zeros((1, 7), int)
    with pytest.raises(ValueError, match=r"at most limit=6 labels; got 7"):
        gather_targets(labels, limit=6)
    with pytest.raises(ValueError, match="limit must be given for traced labels"):
        jax.jit(gather_targets)(labels)
    with pytest.raises(ValueError, match=r"shape \[batch, tokens\]; got \(7,\)"):
        gather_targets(labels[0])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_cross_entropy(dtype, rng):
    """Value and gradient are those of optax in float32, also for logits far from 0."""
    logits = jnp.asarray(rng.normal(size=(3, 7, V)) * 5 + 80, dtype)
    labels = rng.integers(0, V, (3, 7))
    labels[0, 2:] = labels[2, 0] = IGNORED_LABEL
    used = labels != IGNORED_LABEL

    def reference(logits):
        safe = jnp.where(used, labels, 0)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype("float32"), safe)
        return jnp.where(used, losses, 0).sum() / np.float32(used.sum())

    got, gradient = jax.jit(jax.value_and_grad(lambda x: cross_entropy(x, labels)))(logits)
    want, wanted = jax.value_and_grad(reference)(logits)
    assert got.dtype == jnp.float32
    assert gradient.dtype == dtype
    tolerance = 1e-6 if dtype == jnp.float32 else 1e-2
    np.testing.assert_allclose(got, want, rtol=1e-6 if dtype == jnp.float32 else 1e-3)
    np.testing.assert_allclose(
        gradient.astype("float32"), wanted.astype("float32"), atol=tolerance * 0.1, rtol=tolerance
    )


def test_classification_losses_are_those_of_optax(rng):
    logits = jnp.asarray(rng.normal(size=(2, 3, 5)) * 5, jnp.float32)
    labels = jnp.asarray(rng.integers(0, 5, (2, 3)))
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    np.testing.assert_allclose(classification_losses(logits, labels), expected, rtol=1e-6)


def test_cross_entropy_without_labels():
    logits = jnp.ones((2, 3, V))
    loss, gradient = jax.value_and_grad(cross_entropy)(logits, jnp.full((2, 3), IGNORED_LABEL))
    assert loss == 0
    assert not gradient.any()


@pytest.mark.parametrize("task", ["ForMaskedLM", "ForPreTraining", "ForCausalLM"])
def test_logits_positions(task, rng):
    """The logits are those at the positions, and the gradients of the loss are the same."""
    model = tiny_models.model(task, is_decoder=task == "ForCausalLM")
    inputs, labels = tiny_models.inputs(), random_labels(rng)
    targets = gather_targets(labels, limit=20)

    @jax.jit
    def everywhere(params):
        out = model(**inputs, params=params)
        logits = out[0]
        return cross_entropy(logits, labels), logits

    @jax.jit
    def gathered(params):
        out = model(**inputs, params=params, logits_positions=targets.positions)
        return cross_entropy(out[0], targets.labels), out[0]

    (want, logits), wanted = jax.value_and_grad(everywhere, has_aux=True)(model.params)
    (got, few), gradient = jax.value_and_grad(gathered, has_aux=True)(model.params)
    at = np.asarray(targets.positions)[:, :, None]
    np.testing.assert_allclose(few, np.take_along_axis(np.asarray(logits), at, 1), atol=2e-5)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    jax.tree.map(lambda a, b: tiny_models.close(a, b, 1e-5), gradient, wanted)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (np.zeros((B + 1, 3), int), r"shape \[batch, positions\] with batch 2"),
        (np.zeros((B, 3)), "must be integers"),
        (np.full((B, 3), T), rf"must lie in 0\.\.{T - 1}.*got {T}"),
        (np.full((B, 3), -1), "got -1"),
    ],
)
def test_bad_logits_positions(positions, message):
    model = tiny_models.model("ForMaskedLM")
    with pytest.raises(ValueError, match=message):
        model(**tiny_models.inputs(), logits_positions=positions)


def test_logits_positions_need_a_language_head():
    model = tiny_models.model("ForTokenClassification")
    with pytest.raises(ValueError, match="needs a model with a language-model head"):
        model(**tiny_models.inputs(), logits_positions=np.zeros((B, 1), int))


def test_vocabulary_bias_gradient(rng):
    """Summed by a matmul; equal to the sum, for any number of axes and under vmap."""
    from flax_bigbird.nn.heads import _add_bias

    x, bias = jnp.asarray(rng.normal(size=(2, 3, V))), jnp.asarray(rng.normal(size=V))
    d_out = jnp.asarray(rng.normal(size=x.shape))
    out, pull = jax.vjp(_add_bias, x, bias)
    np.testing.assert_allclose(out, x + bias)
    np.testing.assert_allclose(pull(d_out)[0], d_out)
    np.testing.assert_allclose(pull(d_out)[1], d_out.sum((0, 1)), rtol=1e-5)
    single = jax.vmap(lambda x, d: jax.vjp(_add_bias, x, bias)[1](d)[1])(x, d_out)
    np.testing.assert_allclose(single, d_out.sum(1), rtol=1e-5)
