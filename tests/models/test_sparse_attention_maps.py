"""Tests the maps in linear time against those that score every key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from flax_bigbird import bigbird_attention_map
from flax_bigbird.models.attention_maps import attention_of_token, sparse_block_map

CASES = {
    "full": {},
    "sparse": {"length": 48},
    "fixed": {"length": 48, "random_attention": "fixed"},
    "padded": {"length": 48, "random_attention": "fixed", "padding_invariant": True, "real": 37},
    "short in a long bucket": {"length": 48, "padding_invariant": True, "real": 10},
}


def case(name: str):
    """Returns a model, token ids and a mask."""
    changes = dict(CASES[name])
    length, real = changes.pop("length", 20), changes.pop("real", None)
    model = tiny_models.model("ForMaskedLM", num_hidden_layers=2, **changes)
    ids = np.random.default_rng(0).integers(4, tiny_models.V, (1, length)).astype(np.int32)
    mask = np.ones_like(ids)
    mask[:, length if real is None else real :] = 0
    return model, jnp.asarray(ids), jnp.asarray(mask)


@pytest.mark.parametrize("name", CASES)
def test_what_a_token_reads_and_what_reads_it(name):
    model, ids, mask = case(name)
    rows = range(ids.shape[1])
    expected = bigbird_attention_map(model, ids, mask, rows=rows).weights[:, 0]  # [L, N, T, T]
    compute = jax.jit(lambda *arguments: attention_of_token(model, *arguments))
    for position in (0, 7, int(mask.sum()) - 1):
        reads, read_by = compute(model.params, ids, mask, jnp.int32(position))
        np.testing.assert_allclose(reads, expected[:, :, position], atol=1e-5)
        np.testing.assert_allclose(read_by, expected[..., position], atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_map_between_blocks(name):
    model, ids, mask = case(name)
    expected = bigbird_attention_map(model, ids, mask).weights[:, 0]
    compute = jax.jit(lambda *arguments: sparse_block_map(model, *arguments))
    np.testing.assert_allclose(compute(model.params, ids, mask), expected, atol=1e-5)


def test_no_array_is_of_the_size_of_the_text_squared():
    """The program of a text of 1,024 tokens has no array of 1,024 x 1,024 elements or more."""
    length = 1024
    model = tiny_models.model("Model", max_position_embeddings=length, num_random_blocks=1)
    ids = jnp.ones((1, length), jnp.int32)

    def compute(params):
        token = attention_of_token(model, params, ids, ids, jnp.int32(5))
        return token, sparse_block_map(model, params, ids, ids)

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (np.prod(v.aval.shape, dtype=int) for v in equation.outvars)
            for value in jax.tree.leaves(equation.params):
                if hasattr(value, "eqns"):  # a loop's or a function's own program
                    yield from sizes(value)

    program = jax.make_jaxpr(compute)(model.params)
    assert max(sizes(program.jaxpr)) < length * length
