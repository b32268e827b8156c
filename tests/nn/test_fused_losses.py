"""The fused loss equals that of all logits, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_models
from compilations import compilations
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from tiny_models import V

from flax_bigbird.nn.fused_losses import fused_cross_entropy
from flax_bigbird.nn.losses import IGNORED_LABEL

D = 8
SHAPES = {"rows": (3, 11), "one_row": (1, 30), "no_batch": (13,), "choices": (2, 3, 5)}


def example(shape, fraction, seed=0):
    """Returns hidden states, embedding, bias and labels, of which a fraction is used."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((*shape, D)).astype(np.float32)
    embedding = rng.standard_normal((V, D)).astype(np.float32)
    bias = rng.standard_normal(V).astype(np.float32)
    labels = np.where(rng.random(shape) < fraction, rng.integers(0, V, shape), IGNORED_LABEL)
    return hidden, embedding, bias, labels


def naive(hidden, embedding, bias, labels):
    logits = hidden @ embedding.T + bias
    used = labels != IGNORED_LABEL
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(used, labels, 0))
    return jnp.where(used, losses, 0).sum() / jnp.maximum(used.sum(), 1).astype(losses.dtype)


def fused(hidden, embedding, bias, labels, **options):
    return fused_cross_entropy(hidden, embedding, labels, bias, **options)


@pytest.mark.parametrize("fraction", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chunk_size", [4, 1024])
def test_value_and_gradients(shape, fraction, chunk_size):
    arrays = example(SHAPES[shape], fraction)
    want, gradients = jax.value_and_grad(naive, (0, 1, 2))(*arrays)

    def loss(*arrays):
        return 3 * fused(*arrays, chunk_size=chunk_size)

    tiny_models.close(3 * want, loss(*arrays), 1e-6)  # without a gradient, another program runs
    got, own = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*arrays)
    tiny_models.close(got, 3 * want, 1e-6)
    for ours, theirs in zip(own, gradients, strict=True):
        tiny_models.close(ours, 3 * theirs, 1e-6)


def test_without_bias_and_with_large_logits():
    hidden, embedding, bias, labels = example((2, 9), 0.5)
    hidden = hidden * 1e3
    want = naive(hidden, embedding, 0 * bias, labels)
    np.testing.assert_allclose(fused_cross_entropy(hidden, embedding, labels), want, rtol=1e-6)


@pytest.mark.usefixtures("standard_dtype_promotion")
def test_bfloat16():
    hidden, embedding, bias, labels = example((2, 9), 0.5)
    half = [jnp.asarray(x, jnp.bfloat16) for x in (hidden, embedding, bias)]
    got, gradients = jax.value_and_grad(fused, (0, 1, 2))(*half, labels)
    assert got.dtype == jnp.float32
    assert [x.dtype for x in gradients] == [jnp.bfloat16] * 3
    want, exact = jax.value_and_grad(naive, (0, 1, 2))(hidden, embedding, bias, labels)
    np.testing.assert_allclose(got, want, rtol=0.02)
    for ours, theirs in zip(gradients, exact, strict=True):
        assert np.abs(np.float32(ours) - theirs).max() < 0.03 * np.abs(theirs).max()


@pytest.mark.usefixtures("standard_dtype_promotion")
def test_a_scaled_loss_has_the_gradient_of_small_probabilities_in_float16():
    """Divided by the number of labels, most probabilities of a large vocabulary are below 2^-24."""
    rng, scale, size, tokens = np.random.default_rng(0), 2.0**12, 20_000, 2048
    hidden = rng.standard_normal((1, tokens, D)).astype(np.float32)
    embedding = (0.02 * rng.standard_normal((size, D)) + 0.05).astype(np.float32)
    labels = rng.integers(0, size, (1, tokens))

    def gradient(dtype):
        arrays = [jnp.asarray(x, dtype) for x in (hidden, embedding)]

        def loss(hidden, embedding):
            return scale * fused_cross_entropy(hidden, embedding, labels)

        out = jax.jit(jax.grad(loss, (0, 1)))(*arrays)
        assert [x.dtype for x in out] == [dtype, dtype]
        return [np.asarray(x, np.float64) for x in out]

    for got, want in zip(gradient(jnp.float16), gradient(jnp.float32), strict=True):
        assert np.linalg.norm(got - want) < 0.01 * np.linalg.norm(want)


def test_no_array_of_all_logits():
    """The program holds the logits of a chunk, forward and backward."""
    arrays = example((2, 64), 1.0)

    def loss(*arrays):
        return fused(*arrays, chunk_size=16)

    text = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(*arrays))
    assert f"[16,{V}]" in text
    assert not any(f"[{n},{V}]" in text for n in ("128", "2,64", "64", "32"))


def test_under_vmap():
    arrays = example((4, 6), 0.4)
    rows = [x[:, None] if x.ndim > 1 and len(x) == 4 else x for x in arrays]

    def losses(f):
        return jax.vmap(lambda h, y: f(h, rows[1], rows[2], y))(rows[0], rows[3])

    tiny_models.close(losses(fused), losses(naive), 1e-6)


def test_under_shard_map():
    """The gradient of the embedding, which all devices share, is summed over them."""
    arrays = example((2, 6), 0.5)
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    specs = (P("data"), P(), P(), P("data"))

    def loss(f):
        def shard(*arrays):
            return jax.lax.pmean(f(*arrays), "data")

        mapped = jax.shard_map(shard, mesh=mesh, in_specs=specs, out_specs=P())
        return jax.jit(jax.value_and_grad(mapped, (0, 1, 2)))(*arrays)

    (got, own), (want, gradients) = loss(fused), loss(naive)
    tiny_models.close(got, want, 1e-6)
    for ours, theirs in zip(own, gradients, strict=True):
        tiny_models.close(ours, theirs, 1e-6)


def test_invalid_arguments():
    hidden, embedding, _, labels = example((2, 9), 0.5)
    with pytest.raises(ValueError, match=r"leading axes of hidden, \(2, 9\); got \(2, 8\)"):
        fused_cross_entropy(hidden, embedding, labels[:, 1:])
    with pytest.raises(ValueError, match=r"chunk_size must be at least 1, .*; got 0"):
        fused_cross_entropy(hidden, embedding, labels, chunk_size=0)


@pytest.mark.parametrize("way", ["value", "gradient"])
def test_the_second_call_outside_jit_compiles_nothing(way):
    first, second = (example((2, 24), 0.5, seed) for seed in (0, 1))
    function = fused if way == "value" else jax.grad(fused)
    function(*map(jnp.asarray, first), chunk_size=8)
    arrays = [jnp.asarray(x) for x in second]
    with compilations() as names:
        got = function(*arrays, chunk_size=8)
    assert names == []
    want = naive(*arrays) if way == "value" else jax.grad(naive)(*arrays)
    np.testing.assert_allclose(got, want, atol=1e-6)
