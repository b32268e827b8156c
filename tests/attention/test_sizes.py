"""Absurd sizes of patterns, configurations and calls are errors that name limit and value."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from flax_bigbird.attention import (
    BlockPattern,
    bigbird_pattern,
    block_sparse_attention,
    full_attention,
    full_pattern,
)
from flax_bigbird.attention.backends import cpu
from flax_bigbird.config import MAX_VALUES, SparsityConfig

ABSURD = (2**20 + 1, 2**28, 2**31 - 1, 2**31, 2**32, 2**62, 2**63, 2**64, 0, -1, -(2**63))
needs_kernel = pytest.mark.skipif(cpu.unavailable() != "", reason=cpu.unavailable() or "runs")


def one_block(block_size: int) -> BlockPattern:
    zero = np.zeros((1, 1, 1, 1), np.int32)
    return BlockPattern(zero, zero + 1, np.zeros((1, 0), np.int32), block_size)


@pytest.mark.parametrize("size", ABSURD)
@pytest.mark.usefixtures("unchecked_annotations")
def test_patterns_of_absurd_blocks(size):
    rule = r"block_size must be an integer in 1\.\.1,048,576; got " + str(size)
    for build in (bigbird_pattern, full_pattern):
        with pytest.raises(ValueError, match=rule):
            build(4, size)
    with pytest.raises(ValueError, match=rule):
        BlockPattern.from_lists([[0]], size)
    x = jnp.zeros((1, 16, 1, 4))
    with pytest.raises(ValueError, match=r"block_size must be at most|1 row of"):
        block_sparse_attention(x, x, x, one_block(size))


@pytest.mark.parametrize("count", [2**20 + 1, 2**31, 2**63, -1])
@pytest.mark.usefixtures("unchecked_annotations")
def test_patterns_of_absurd_lengths(count):
    for build in (bigbird_pattern, full_pattern):
        with pytest.raises(ValueError, match=r"num_blocks must be an integer in 0\.\.1,048,576"):
            build(count, 4)
        with pytest.raises(ValueError, match=r"at most 2,147,483,647 tokens together; got 4,096 b"):
            build(4096, 2**20)
        wrong: Any
        for wrong in (1.5, True, "64"):
            with pytest.raises(ValueError, match=rf"block_size must be an integer.*got {wrong!r}"):
                build(4, wrong)


@needs_kernel
@pytest.mark.parametrize("size", [2**20 + 1, 2**28, 2**31 - 1, 2**31, 2**32, 2**62, 0, -1])
def test_the_kernel_checks_sizes_itself(size):
    """2^28 and 2^31 divided by zero; a program of another process passes no check of Python's."""
    x = jnp.zeros((1, 16, 1, 64))

    def attend(q, k, v):
        return cpu.block_sparse_attention(q, k, v, one_block(size), scale=1.0)

    with pytest.raises(Exception, match=rf"block size must lie in 1\.\.1048576; got {size}: build"):
        attend(x, x, x).block_until_ready()
    with pytest.raises(Exception, match=r"block size must lie in"):
        jax.block_until_ready(jax.jit(jax.grad(lambda q: attend(q, x, x).sum()))(x))


@needs_kernel
def test_the_kernel_takes_long_blocks_and_checks_the_number_of_rows():
    x = jnp.ones((1, 16, 1, 8))
    out = cpu.block_sparse_attention(x, x, x, one_block(2**14), scale=1.0)
    np.testing.assert_allclose(out, 1, rtol=1e-6)
    with pytest.raises(
        Exception, match="must have a row of 4 tokens for each of 16 queries; got 1"
    ):
        cpu.block_sparse_attention(x, x, x, one_block(4), scale=1.0).block_until_ready()


@needs_kernel
def test_calls_without_queries_or_keys():
    """Nothing is left unwritten: queries without keys are 0, as are gradients without queries."""
    some, none = jnp.ones((1, 5, 2, 4)), jnp.ones((1, 0, 2, 4))
    out = full_attention(some, none, none, implementation="cpu")
    np.testing.assert_array_equal(out, jnp.zeros_like(some))

    def total(k):
        return full_attention(none, k, k, implementation="cpu").sum()

    np.testing.assert_array_equal(jax.grad(total)(some), jnp.zeros_like(some))


@pytest.mark.parametrize("key", MAX_VALUES)
def test_configurations_of_absurd_sizes(key):
    """Lists of blocks of such sizes filled the memory, or were drawn for hours."""
    config = tiny_models.config()
    limit = MAX_VALUES[key]
    for value in (limit + 1, 2**31, 2**63, 2**64):
        setattr(config, key, value)
        words = f"config.{key} must be at most {limit:,}; got {value}"
        with pytest.raises(ValueError, match=words.replace(".", r"\.")):
            SparsityConfig.from_hf(config)
