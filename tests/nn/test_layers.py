"""Embeddings, activations, attention probabilities and patterns, compared with their formulas."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from tiny_models import B, D, T

from flax_bigbird.config import SparsityConfig
from flax_bigbird.nn.activations import ACTIVATIONS, activation
from flax_bigbird.nn.attention import full_attention_probabilities
from flax_bigbird.nn.embeddings import BigBirdEmbeddings
from flax_bigbird.nn.heads import MeanPoolingHead
from flax_bigbird.nn.patterns import layer_pattern


def embed(config, **kwargs) -> tuple[Any, ...]:
    """Returns the ids, their positions, the variables and the output."""
    module = BigBirdEmbeddings(config)
    ids = jnp.asarray(tiny_models.inputs()["input_ids"])
    positions = jnp.broadcast_to(jnp.arange(T), ids.shape)
    variables = module.init(jax.random.PRNGKey(0), ids, ids % 2, positions)
    return ids, positions, variables, module.apply(variables, ids, ids % 2, positions, **kwargs)


@pytest.mark.parametrize("rescale", [False, True])
def test_embeddings(rescale):
    config = tiny_models.config(rescale_embeddings=rescale)
    ids, positions, variables, got = embed(config)
    tables = {name: leaf.get("embedding") for name, leaf in variables["params"].items()}
    words = tables["word_embeddings"][ids] * (D**0.5 if rescale else 1)
    x = words + tables["token_type_embeddings"][ids % 2] + tables["position_embeddings"][positions]
    want = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-12)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_embeddings_are_normalized_after_dropout():
    """Every token has mean 0 and variance 1, in training too."""
    config = tiny_models.config(hidden_dropout_prob=0.5)
    rngs = {"dropout": jax.random.PRNGKey(1)}
    *_, got = embed(config, deterministic=False, rngs=rngs)
    np.testing.assert_allclose(got.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(got.var(-1), 1, atol=1e-4)


def test_full_attention_counts_keys_by_weight():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.standard_normal((B, 5, 2, 4)), jnp.float32) for _ in range(2))
    weight = jnp.asarray(rng.integers(0, 3, (B, 1, 5, 5)).astype(np.float32)).at[..., 0].set(1)
    scores = np.exp(np.einsum("btnh,bsnh->bnts", q, k, dtype=np.float64) / 2)
    want = np.asarray(weight) * scores
    want /= want.sum(-1, keepdims=True)
    np.testing.assert_allclose(full_attention_probabilities(q, k, weight), want, atol=1e-6)


def test_activations_are_those_that_transformers_names():
    """Every name gives a finite function; unknown names list the known ones."""
    x = jnp.linspace(-12, 12, 97)
    for function in ACTIVATIONS.values():
        assert np.isfinite(function(x)).all()
    tanh_form = 0.5 * x * (1 + jnp.tanh((2 / jnp.pi) ** 0.5 * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(activation("gelu_new")(x), tanh_form, atol=1e-5)
    with pytest.raises(ValueError, match=r"one of gelu, .* got 'nope'"):
        activation("nope")


def sparsity(config) -> SparsityConfig:
    return SparsityConfig.from_hf(config)


def test_where_full_attention_ends():
    """(5 + 2R) W tokens for an encoder; a decoder goes by `attention_type` alone."""
    for num_random, limit in ((0, 20), (1, 28), (3, 44)):
        config = tiny_models.config(num_random_blocks=num_random)
        assert sparsity(config).uses_full_attention(limit)
        assert not sparsity(config).uses_full_attention(limit + 1)
    decoder = tiny_models.config(is_decoder=True)
    assert not sparsity(decoder).uses_full_attention(1)
    full = tiny_models.config(is_decoder=True, attention_type="original_full")
    assert sparsity(full).uses_full_attention(4096)


def same(a, b) -> bool:
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_the_rule_is_hf_unless_the_configuration_says():
    assert sparsity(tiny_models.config()).random_attention == "hf"
    assert sparsity(tiny_models.config(random_attention=None)).random_attention == "hf"
    evaluation = layer_pattern(sparsity(tiny_models.config()), 0, 48, train=False)
    middle = evaluation.counts[0, 0, 3][evaluation.blocks[0, 0, 3] == 0]
    assert middle[0] == 1 + tiny_models.R, "block 0 stands for all random blocks"
    assert not same(evaluation, layer_pattern(sparsity(tiny_models.config()), 0, 48, train=True))


@pytest.mark.parametrize("rule", ["google", "fixed"])
def test_rules_that_are_the_same_in_training(rule):
    config = tiny_models.config(random_attention=rule)
    for causal in (False, True):
        config.is_decoder = causal
        one = layer_pattern(sparsity(config), 0, 48, train=False)
        assert same(one, layer_pattern(sparsity(config), 0, 48, train=True))
        assert not same(one, layer_pattern(sparsity(config), 1, 48, train=False)), "layers differ"


def test_seed_of_the_fixed_rule():
    patterns = [
        layer_pattern(
            sparsity(tiny_models.config(random_attention="fixed", random_attention_seed=seed)),
            0,
            48,
            train=False,
        )
        for seed in (None, 0, 1)
    ]
    assert same(patterns[0], patterns[1])
    assert not same(patterns[0], patterns[2])


@pytest.mark.parametrize("rule", ["hf", "google", "fixed"])
def test_a_decoders_rows_depend_on_the_row_alone(rule):
    """A longer pattern begins with the shorter one."""
    config = tiny_models.config(
        is_decoder=True, random_attention=rule, num_random_blocks=2, block_size=64
    )
    longest = layer_pattern(sparsity(config), 1, 40 * 64, train=False)

    def rows(pattern, upto):
        return [
            sorted(zip(b[c > 0].tolist(), c[c > 0].tolist(), strict=True))
            for b, c in zip(pattern.blocks[0, -1, :upto], pattern.counts[0, -1, :upto], strict=True)
        ]

    for num_blocks in (1, 2, 9, 10, 16, 32, 39):
        shorter = layer_pattern(sparsity(config), 1, num_blocks * 64, train=False)
        assert rows(shorter, num_blocks) == rows(longest, num_blocks)


@pytest.mark.parametrize(("rate", "drops"), [(None, False), (0.0, False), (0.5, True)])
def test_means_are_dropped_only_if_the_configuration_says_so(rate, drops):
    """The rate of the hidden states would change a mean more than another document does."""
    config = tiny_models.config(hidden_dropout_prob=0.5, classifier_dropout=rate)
    head = MeanPoolingHead(config)
    x = jnp.asarray(np.random.default_rng(0).normal(1.0, 0.1, (B, T, D)), jnp.float32)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = head.init(keys, x, None)
    evaluated = head.apply(params, x, None)
    trained = head.apply(params, x, None, deterministic=False, rngs={"dropout": keys["dropout"]})
    assert tiny_models.differ(trained, evaluated) == drops
