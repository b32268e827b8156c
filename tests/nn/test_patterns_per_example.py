"""Patterns per example: the rows of each example are those of its own length, for every length."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers import BigBirdConfig

from flax_bigbird.attention import count_example_blocks
from flax_bigbird.config import SparsityConfig
from flax_bigbird.nn.patterns import layer_pattern

# Block size, random blocks, position table, padded length: with lengths that the paper treats by
# themselves (blocks of 128: 1024, 2048 and 3072 tokens), and without.
SIZES = [(128, 1, 4096, 3200), (128, 2, 2048, 3328), (4, 1, 80, 60), (4, 0, 80, 40)]
RULES = [("hf", False), ("hf", True), ("google", True), ("fixed", False)]


def make_sparsity(size: int, num_random: int, table: int, rule: str) -> SparsityConfig:
    own_keys: dict[str, Any] = {"random_attention": rule, "random_attention_seed": 3}
    config = BigBirdConfig(
        block_size=size,
        num_random_blocks=num_random,
        num_attention_heads=2,
        hidden_size=8,
        max_position_embeddings=table,
        **own_keys,
    )
    return SparsityConfig.from_hf(config)


def table(pattern, example: int) -> np.ndarray:
    """Returns how often each row reads each block, `[N, M, M]`, global rows included."""
    blocks, counts = np.asarray(pattern.blocks), np.asarray(pattern.counts)
    at = example % blocks.shape[0]
    listed = blocks[at][..., None] == np.arange(pattern.num_blocks)
    out = (listed * counts[at][..., None]).sum(-2)
    rows = np.asarray(pattern.global_rows)
    out[:, rows[example % len(rows)]] = 1
    return np.broadcast_to(out, (2, *out.shape[1:]))


@pytest.mark.parametrize(("rule", "train"), RULES)
@pytest.mark.parametrize(("size", "num_random", "positions", "length"), SIZES)
def test_every_length_has_its_own_rows(size, num_random, positions, length, rule, train):
    sparsity = make_sparsity(size, num_random, positions, rule)
    max_blocks = -(-length // size)
    lengths = list(range(1, max_blocks + 1))
    build = functools.partial(layer_pattern, sparsity, 1, length, train=train)
    pattern = jax.jit(lambda num_blocks: build(num_blocks=num_blocks))(jnp.asarray(lengths))
    for example, own in enumerate(lengths):
        got = table(pattern, example)
        if own <= sparsity.max_full_attention_blocks:
            want = np.ones((2, own, own), int)
        else:
            want = table(layer_pattern(sparsity, 1, own * size, train=train), 0)
        read = got[:, :own, :own]
        np.testing.assert_array_equal(read, want, err_msg=f"{own} blocks")
        # Rows past the example's own read nothing; the global rows' keys past it are masked.
        assert not got[:, own:].any(), own
        assert not got[:, 1 : own - 1, own:].any(), own


def test_a_redraw_stays_inside_the_example():
    """The blocks are distinct, outside window and globals, of the example's own, and shared."""
    sparsity = make_sparsity(4, 2, 200, "hf")
    lengths = np.array([10, 14, 20, 20])
    pattern = jax.jit(
        lambda key: layer_pattern(
            sparsity, 0, 80, train=True, key=key, num_blocks=jnp.asarray(lengths)
        )
    )(jax.random.key(1))
    for example, own in enumerate(lengths):
        rows = table(pattern, example)[:, :own, :own]
        for head in rows:
            for i in range(2, own - 2):
                expected = {0, i - 1, i, i + 1, own - 1}
                assert set(np.flatnonzero(head[i])) >= expected
                assert head[i].sum() == len(expected) + 2
                assert head[i].max() == 1
    np.testing.assert_array_equal(table(pattern, 2), table(pattern, 3))
    assert (table(pattern, 2)[0] != table(pattern, 2)[1]).any()


def test_number_of_blocks_of_an_example():
    """Holes and left padding are inside an example; an empty one has one block."""
    mask = np.zeros((5, 12), bool)
    mask[0, :] = mask[1, 0] = mask[2, [0, 7]] = mask[3, [5, 8]] = True
    got = count_example_blocks(jnp.asarray(mask), 4)
    np.testing.assert_array_equal(got, [3, 1, 2, 3, 1])
