"""Memory is linear in T: read from the compiled program, nothing is run."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from program_costs import temporary_bytes

from flax_bigbird.attention import bigbird_pattern, block_sparse_attention, random_blocks

W, N, H, R = 16, 2, 16, 3
SHORT, LONG = 2048, 8192


def compiled(length: int, *, gradient: bool, traced: bool = False, causal: bool = False):
    """The program of `length` tokens, with the mask as an argument."""
    num_blocks = length // W
    random = random_blocks.fixed(num_blocks, R, N, 0, causal=causal)
    pattern = bigbird_pattern(num_blocks, W, random=random, causal=causal)

    def forward(q, k, v, mask, pattern):
        return block_sparse_attention(q, k, v, pattern, mask=mask, implementation="xla")

    def total(q, k, v, mask, pattern):
        return forward(q, k, v, mask, pattern).sum()

    function = jax.grad(total, argnums=(0, 1, 2)) if gradient else forward
    x = jax.ShapeDtypeStruct((1, length, N, H), jnp.float32)
    mask = jax.ShapeDtypeStruct((1, length), bool)
    if traced:
        return jax.jit(function).lower(x, x, x, mask, jax.tree.map(jnp.asarray, pattern)).compile()
    static = lambda q, k, v, mask: function(q, k, v, mask, pattern)  # noqa: E731
    return jax.jit(static).lower(x, x, x, mask).compile()


def largest_array(program) -> int:
    """Entries of the largest array anywhere in the program."""
    shapes = re.findall(r"\b[a-z]+[0-9]*\[([0-9,]+)\]", program.as_text())
    return max(int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes)


@pytest.mark.parametrize("traced", [False, True], ids=["static", "traced"])
@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "gradient"])
def test_memory_grows_linearly(gradient, traced):
    short, long = (compiled(t, gradient=gradient, traced=traced) for t in (SHORT, LONG))
    used = [temporary_bytes(program) for program in (short, long)]
    assert used[1] <= 4.5 * used[0], f"{used[0]} bytes at {SHORT} tokens, {used[1]} at {LONG}"
    # The largest arrays: scores of two global rows with all keys, gathered keys of one step.
    linear = 4 * N * W * LONG
    assert largest_array(long) <= linear < LONG * LONG // 16


@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "gradient"])
def test_gathered_keys_are_never_whole(gradient):
    """A copy of every row's keys, kept for the backward pass, would be K times the keys."""
    program = compiled(LONG, gradient=gradient, causal=True)  # no global rows here
    gathered = (3 + R) * N * LONG * H
    assert largest_array(program) < gathered / 2


def test_the_dense_reference_is_quadratic():
    """The measure can tell: it flags the reference."""
    pattern = bigbird_pattern(SHORT // W, W)

    def run(q):
        return block_sparse_attention(q, q, q, pattern, implementation="reference")

    q = jax.ShapeDtypeStruct((1, SHORT, N, H), jnp.float32)
    program = jax.jit(run).lower(q).compile()
    assert largest_array(program) >= N * SHORT * SHORT
