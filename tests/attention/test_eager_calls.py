"""Calls outside of `jax.jit`: plain JAX compiles its loops once, not in every call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_suite import make_inputs
from compilations import compilations
from named_shapes import Shape

from flax_bigbird.attention import (
    BlockPattern,
    bigbird_pattern,
    block_sparse_attention,
    full_attention,
    inspection,
    sparse_maps,
)
from flax_bigbird.attention.backends import xla_full
from flax_bigbird.attention.eager import compile_eager, is_tracing

SHAPE = Shape(B=2, T=60, N=2, H=8, W=5, R=0)


def transformed(attend):
    """Returns functions of q that call `attend` in each way that is not `jax.jit`."""
    return {
        "plain": attend,
        "grad": jax.grad(lambda q: attend(q).sum()),
        "vmap": lambda q: jax.vmap(attend)(q[None])[0],
    }


def block_sparse(q, k, v):
    pattern = bigbird_pattern(SHAPE.M, SHAPE.W)  # equal in every call, but another object
    mask = np.ones(q.shape[:2], bool)
    return block_sparse_attention(q, k, v, pattern, mask=mask, implementation="xla")


def full(q, k, v):
    return full_attention(q, k, v, implementation="xla")


@pytest.mark.parametrize("way", ["plain", "grad", "vmap"])
@pytest.mark.parametrize("attend", [block_sparse, full])
def test_the_second_call_compiles_nothing(attend, way, rng, monkeypatch):
    monkeypatch.setattr(xla_full, "_MAX_CHUNK_SCORES", 512)  # several chunks
    q, k, v, _ = (jnp.asarray(x, "float32") for x in make_inputs(SHAPE, rng))
    function = transformed(lambda q: attend(q, k, v))[way]
    with compilations() as first:
        want = function(q)
    assert first  # the listener hears of programs
    with compilations() as second:
        got = function(q)
    assert second == []
    np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(got, jax.jit(function)(q), atol=1e-6)


def add(x, tree):
    return x + tree["constant"]


def test_numpy_arrays_are_arguments_unless_they_are_inside_of_a_pytree():
    """As constants, each of their values would be compiled, and kept."""
    first, second = np.arange(2.0), np.arange(2.0, 4.0)
    tree = {"constant": first}
    compile_eager(add, (), first, tree)
    with compilations() as programs:
        got = compile_eager(add, (), second, tree)
    assert programs == []
    np.testing.assert_array_equal(got, [2, 4])
    with compilations() as programs:
        compile_eager(add, (), second, {"constant": second})
    assert programs != []


MAPS = {
    "block_attention": lambda q, p, mask: inspection.block_attention(q, q, p, mask=mask, scale=0.5),
    "block_map": lambda q, p, mask: sparse_maps.block_map(q, q, p, mask, 0.5),
    "attention_to_key": lambda q, p, mask: sparse_maps.attention_to_key(
        q, q, p, jnp.asarray(7), mask, 0.5
    ),
}


@pytest.mark.parametrize("name", MAPS)
def test_the_second_map_compiles_nothing(name, rng):
    inputs = make_inputs(SHAPE, rng)
    queries = [jnp.asarray(x[:1], "float32") for x in inputs[:2]]
    mask = jnp.ones(queries[0].shape[:2], bool)
    pattern = bigbird_pattern(SHAPE.M, SHAPE.W)
    MAPS[name](queries[0], pattern, mask)
    pattern = bigbird_pattern(SHAPE.M, SHAPE.W)
    with compilations() as second:
        got = MAPS[name](queries[1], pattern, mask)
    assert second == []
    want = jax.jit(lambda q: MAPS[name](q, pattern, mask))(queries[1])
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_static_pattern_of_other_values_is_another_program(rng):
    """Also if the array of a pattern is changed in place."""
    q, k, v, _ = (jnp.asarray(x, "float32") for x in make_inputs(SHAPE, rng))
    ids = np.zeros((1, 1, SHAPE.M, 1), np.int32)
    for block in (0, 3):
        ids[:] = block
        pattern = BlockPattern(ids, np.ones_like(ids), np.zeros((1, 0), np.int32), SHAPE.W)
        got = block_sparse_attention(q, k, v, pattern, implementation="xla")
        want = block_sparse_attention(q, k, v, pattern, implementation="reference")
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_what_counts_as_tracing():
    seen = []

    def look(x):
        seen.append(is_tracing())
        return x

    look(1.0)
    jax.grad(look)(1.0)
    jax.vmap(look)(jnp.ones(2))
    jax.jit(look)(1.0)
    jax.jit(jax.grad(look))(1.0)
    assert seen == [False, False, False, True, True]
