"""The dropout mask: its rate, the independence of its elements, and the module."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_bigbird.nn.dropout import Dropout, keep_mask

KEYS = {"new": jax.random.key, "old": jax.random.PRNGKey}


def drop(x: jax.Array, rate: float, **options: Any) -> Any:
    """Returns the output of the module."""
    return Dropout(rate).apply({}, x, **options)


def z_scores(values: np.ndarray, rate: float, count: int) -> np.ndarray:
    """Returns how many standard deviations the fractions of kept elements lie from 1 - rate."""
    return (values - (1 - rate)) / np.sqrt(rate * (1 - rate) / count)


@pytest.mark.parametrize("shape", [(1024, 768), (7, 64, 4, 96), (100_000,), (3, 2, 5, 300, 40)])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_rate(shape, rate):
    """The rate holds overall and along every axis: no row, column or head is dropped more often."""
    keep = np.asarray(keep_mask(jax.random.key(3), shape, rate), np.float64)
    assert keep.shape == shape
    assert abs(z_scores(keep.mean(), rate, keep.size)) < 4
    for axis in range(len(shape)):
        others = tuple(i for i in range(len(shape)) if i != axis)
        if not others:
            continue
        scores = z_scores(keep.mean(others), rate, keep.size // shape[axis])
        assert np.abs(scores).max() < 5
        assert 0.5 < scores.std() < 1.6 or shape[axis] < 20


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_independence(rate):
    """Neighbors, elements that are a power of two apart, and other keys are independent."""
    key = jax.random.key(0)
    keep = np.asarray(keep_mask(key, (512, 1024), rate), np.float64) - (1 - rate)
    noise = 5 / np.sqrt(keep.size)
    scale = rate * (1 - rate)
    for axis in (0, 1):
        for step in (1, 2, 3, 64, 128, 256):
            correlation = (keep * np.roll(keep, step, axis)).mean() / scale
            assert abs(correlation) < noise, (axis, step)
    others = [jax.random.key(1), jax.random.fold_in(key, 0), *jax.random.split(key)]
    for other in others:
        drawn = np.asarray(keep_mask(other, (512, 1024), rate), np.float64) - (1 - rate)
        assert abs((keep * drawn).mean() / scale) < noise
        assert abs((keep[:, :-1] * drawn[:, 1:]).mean() / scale) < noise


def test_pairs_are_uniform():
    """The 16 patterns of four neighboring elements are equally frequent, by chi-square."""
    keep = jax.vmap(lambda key: keep_mask(key, (64, 64), 0.5))(
        jax.random.split(jax.random.key(5), 200)
    )
    codes = np.asarray(keep).reshape(-1, 4) @ (1, 2, 4, 8)
    counts = np.bincount(codes, minlength=16)
    expected = counts.sum() / 16
    assert ((counts - expected) ** 2 / expected).sum() < 45  # 15 degrees of freedom, p < 1e-4


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("kind", KEYS)
def test_module(kind, dtype):
    x = jnp.full((50, 40), 3, dtype)
    key = KEYS[kind](0)
    out = drop(x, 0.25, deterministic=False, rngs={"dropout": key})
    assert out.dtype == dtype
    values = set(np.unique(np.asarray(out, np.float32)))
    assert values == {0.0, float(jnp.asarray(4, dtype))}
    again = drop(x, 0.25, deterministic=False, rngs={"dropout": key})
    np.testing.assert_array_equal(out, again)
    gradient = jax.grad(lambda x: drop(x, 0.25, deterministic=False, rngs={"dropout": key}).sum())(
        x
    )
    np.testing.assert_array_equal(gradient != 0, out != 0)


def test_cases_without_a_random_key():
    x = jnp.ones((3, 4))
    np.testing.assert_array_equal(drop(x, 0.5, deterministic=True), x)
    np.testing.assert_array_equal(drop(x, 0.0, deterministic=False), x)
    assert not drop(x, 1.0, deterministic=False).any()


def test_mask_depends_on_row_and_shape():
    """Rows of an array differ, and so do arrays of the same size and another shape."""
    key = jax.random.key(0)
    keep = np.asarray(keep_mask(key, (64, 256), 0.5))
    assert len(np.unique(keep, axis=0)) == 64
    assert (keep.reshape(128, 128) != np.asarray(keep_mask(key, (128, 128), 0.5))).any()
