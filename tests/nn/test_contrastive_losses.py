"""Losses of embedding models against NumPy, and gradients of mini-batches against whole batches."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from flax_bigbird.nn.contrastive_losses import (
    cosent_loss,
    map_mini_batches,
    multiple_negatives_ranking_loss,
    normalize,
)

B, C, D = 5, 3, 8


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def cosines(a, b):
    a, b = (x.astype(np.float64) / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    return a @ b.T


@pytest.mark.parametrize("symmetric", [False, True])
def test_each_query_finds_its_document_among_all_that_are_not_excluded(symmetric):
    queries, documents = draw(0, B, D), draw(1, B, C, D)
    excluded = np.random.default_rng(2).random((B, B, C)) < 0.2
    loss = multiple_negatives_ranking_loss(
        jnp.asarray(queries),
        jnp.asarray(documents),
        jnp.asarray(excluded),
        temperature=0.1,
        symmetric=symmetric,
    )
    scores = cosines(queries, documents.reshape(-1, D)).reshape(B, B, C) / 0.1
    counts = ~excluded
    counts[np.arange(B), np.arange(B), 0] = True
    forward = [special.logsumexp(scores[i][counts[i]]) - scores[i, i, 0] for i in range(B)]
    backward = [
        special.logsumexp(scores[:, j, 0][counts[:, j, 0]]) - scores[j, j, 0] for j in range(B)
    ]
    expected = np.mean(forward + backward) if symmetric else np.mean(forward)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_cosent_orders_pairs_by_their_scores():
    cosine, scores = np.tanh(draw(0, B)), np.array([0.0, 1.0, 1.0, 3.0, 0.5], np.float32)
    total = 1.0
    for i in range(B):
        for j in range(B):
            if scores[i] < scores[j]:
                total += np.exp((float(cosine[i]) - float(cosine[j])) / 0.2)
    loss = cosent_loss(jnp.asarray(cosine), jnp.asarray(scores), temperature=0.2)
    assert float(loss) == pytest.approx(np.log(total), rel=1e-5)


def test_the_gradient_of_a_zero_vector_is_finite():
    gradient = jax.grad(lambda x: normalize(x).sum())(jnp.zeros((2, D)))
    assert jnp.isfinite(gradient).all()
    np.testing.assert_allclose(normalize(jnp.full((1, 4), 3.0)), 0.5, rtol=1e-6)


def encode(weights, rows, key):
    """Returns vectors with dropout, if there is a key."""
    hidden = jnp.tanh(rows["x"] @ weights["a"])
    if key is not None:
        hidden = jnp.where(jax.random.bernoulli(key, 0.7, hidden.shape), hidden / 0.7, 0.0)
    return hidden @ weights["b"], rows["x"].sum(-1)


@pytest.mark.parametrize("with_dropout", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 9])
def test_mini_batches_have_the_gradient_of_the_whole_batch(size, with_dropout):
    weights = {"a": jnp.asarray(draw(0, D, 16)), "b": jnp.asarray(draw(1, 16, 4))}
    num_rows = 7
    batch = {"x": jnp.asarray(draw(2, num_rows, D))}
    key = jax.random.key(3) if with_dropout else None

    def loss_of(vectors, sums):
        return jax.nn.logsumexp(vectors @ vectors.T) + (sums * vectors[:, 0]).sum()

    def cached(weights):
        return loss_of(*map_mini_batches(lambda r, k: encode(weights, r, k), batch, key, size))

    def plain(weights):
        """Encodes the rows of each mini-batch with its key, and joins the results."""
        rows = min(size, num_rows)
        count = -(-num_rows // rows)
        vectors, sums = [None] * num_rows, [None] * num_rows
        for index in range(count):
            positions = [j * count + index for j in range(rows)]
            part = {"x": batch["x"][jnp.array([p % num_rows for p in positions])]}
            own = None if key is None else jax.random.fold_in(key, index)
            for position, v, s in zip(positions, *encode(weights, part, own), strict=True):
                if position < num_rows:
                    vectors[position], sums[position] = v, s
        return loss_of(jnp.stack(vectors), jnp.stack(sums))  # type: ignore[arg-type]

    value, gradient = jax.value_and_grad(cached)(weights)
    expected_value, expected = jax.value_and_grad(plain)(weights)
    assert float(value) == pytest.approx(float(expected_value), rel=1e-6)
    for name in weights:
        scale = float(jnp.abs(expected[name]).max())
        np.testing.assert_allclose(gradient[name], expected[name], atol=1e-6 * scale)
    if not with_dropout:
        whole = jax.grad(lambda w: loss_of(*encode(w, batch, None)))(weights)
        for name in weights:
            scale = float(jnp.abs(whole[name]).max())
            np.testing.assert_allclose(gradient[name], whole[name], atol=1e-6 * scale)


def test_a_traced_batch_keeps_no_activations_of_other_mini_batches():
    """The residuals of the backward pass are those of the inputs and the results alone."""
    weights = {"a": jnp.zeros((D, 512)), "b": jnp.zeros((512, 4))}
    batch = {"x": jnp.ones((64, D))}

    def temporary_bytes(size):
        def loss(weights):
            def function(rows, key):
                return encode(weights, rows, key) if size else None

            vectors, _ = (
                map_mini_batches(function, batch, None, size)
                if size
                else encode(weights, batch, None)
            )
            return (vectors**2).sum()

        analysis: Any = jax.jit(jax.grad(loss)).lower(weights).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    assert temporary_bytes(2) < temporary_bytes(None) / 2
