"""The linear path equals the dense reference on any pattern, mask and shape."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from hypothesis import given, settings

from flax_bigbird.attention import BlockPattern, bigbird_pattern, block_sparse_attention
from flax_bigbird.attention.patterns.block_pattern import merge_repeats

# Shapes are few, so that most examples run what an earlier one compiled.
shapes = st.sampled_from([(1, 1, 1, 3, 2, 2), (2, 4, 2, 4, 3, 5), (2, 5, 1, 1, 4, 6)])


@st.composite
def calls(draw):
    """Draws `(q, k, v, d_out, mask, pattern)`."""
    batch, num_blocks, heads, width, size, row = draw(shapes)
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, num_blocks, (batch, heads, num_blocks, row)).astype(np.int32)
    counts = rng.integers(0, 1 + draw(st.integers(1, 3)), ids.shape).astype(np.int32)
    rows = rng.integers(0, num_blocks, (batch, 2)).astype(np.int32)
    pattern = BlockPattern(ids, counts, rows, size, draw(st.booleans()))
    length = num_blocks * size - draw(st.sampled_from([0, size - 1]))
    mask = rng.random((batch, length)) < draw(st.sampled_from([0.2, 0.7, 1.0]))
    arrays = rng.standard_normal((4, batch, length, heads, width)).astype(np.float32)
    return (*arrays, mask, pattern)


@jax.jit
def both_paths(q, k, v, d_out, mask, pattern):
    """Returns `(out, d_q, d_k, d_v)` of the linear path and of the reference."""

    def run(implementation):
        def attend(q, k, v):
            return block_sparse_attention(
                q, k, v, pattern, mask=mask, implementation=implementation
            )

        out, pull = jax.vjp(attend, q, k, v)
        return (out, *pull(d_out))

    return run("xla"), run("reference")


@given(calls())
@settings(max_examples=60)
def test_linear_path_equals_reference(call):
    *_, pattern = call
    call = (*call[:-1], jax.tree.map(jnp.asarray, pattern))
    for ours, theirs in zip(*both_paths(*call), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=2e-5)


@given(
    st.lists(st.lists(st.integers(-1, 6), min_size=4, max_size=4), min_size=3, max_size=3),
)
def test_merging_repeats_keeps_the_multiset(rows):
    ids = np.array(rows, np.int32)
    blocks, counts = merge_repeats(ids, ids >= 0)
    traced = merge_repeats(jnp.asarray(ids), jnp.asarray(ids >= 0))
    for row, got, count in zip(rows, blocks, counts, strict=True):
        listed = [int(b) for b, c in zip(got, count, strict=True) for _ in range(c)]
        assert listed == sorted(b for b in row if b >= 0)
        assert len(set(got[count > 0])) == (count > 0).sum(), "repeats are merged"
    width = blocks.shape[-1]
    for ours, theirs in zip(traced, (blocks, counts), strict=True):
        np.testing.assert_array_equal(ours[..., :width], theirs)
        assert not np.asarray(ours[..., width:]).any()


def expected_row(i, num_blocks, random, extra_first, causal):
    """Returns the blocks of one row as a multiset (paper, section 2 and appendix D)."""
    if causal:
        window = [b for b in {0, i - 1, i} if b >= 0]
        return window + [0] * (extra_first if i else 0) + [b for b in random if b >= 0]
    if i in (0, num_blocks - 1):
        return list(range(num_blocks))
    window = list({0, i - 1, i, i + 1, num_blocks - 1})
    return window + [0] * extra_first + [b for b in random if b >= 0]


def check_pattern(pattern, random, extra: int) -> None:
    num_blocks = pattern.num_blocks
    for head in range(len(random)):
        want = np.zeros((num_blocks, num_blocks), int)
        for i in range(num_blocks):
            listed = expected_row(i, num_blocks, random[head, i], extra, pattern.causal)
            np.add.at(want[i], listed, 1)
        np.testing.assert_array_equal(oracle.table(pattern, 0, head), want)


@pytest.mark.parametrize("causal", [False, True], ids=["encoder", "decoder"])
@given(st.integers(1, 9), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2**31))
def test_bigbird_pattern_is_the_specified_multiset(causal, num_blocks, num_random, extra, seed):
    """Random blocks may repeat, and may hit the window and the globals: each listing counts."""
    rng = np.random.default_rng(seed)
    random = rng.integers(-1, num_blocks, (2, num_blocks, num_random)).astype(np.int32)
    pattern = bigbird_pattern(num_blocks, 2, random=random, extra_first=extra, causal=causal)
    check_pattern(pattern, random, extra)


@pytest.mark.parametrize("causal", [False, True], ids=["encoder", "decoder"])
@pytest.mark.parametrize("num_blocks", [1, 2, 7])
def test_traced_bigbird_pattern_is_the_same(num_blocks, causal, rng):
    random = rng.integers(-1, num_blocks, (2, num_blocks, 3)).astype(np.int32)

    @jax.jit
    def build(random):
        return bigbird_pattern(num_blocks, 2, random=random, extra_first=1, causal=causal)

    check_pattern(build(random), random, 1)
