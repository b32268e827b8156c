"""One suite that every implementation of block-sparse attention passes.

A backend's test file subclasses `AttentionSuite` and names its implementation.
"""

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from named_shapes import TESTED, Shape

from flax_bigbird.attention import (
    BlockPattern,
    bigbird_pattern,
    block_sparse_attention,
    random_blocks,
)

MASKS = ("all_real", "right_padding", "holes", "empty_example", "all_masked")


def make_pattern(shape: Shape, kind: str) -> BlockPattern:
    """Builds a static pattern of a kind that models use."""
    if kind == "hf_evaluation":
        return bigbird_pattern(shape.M, shape.W, extra_first=shape.R)
    causal = kind == "causal"
    random = random_blocks.fixed(shape.M, shape.R, shape.N, 0, causal=causal)
    return bigbird_pattern(shape.M, shape.W, random=random, causal=causal)


def make_mask(shape: Shape, kind: str, rng: np.random.Generator) -> Any:
    """Returns `[B, T]` booleans, or None for the kind "none"."""
    mask = np.ones((shape.B, shape.T), bool)
    if kind == "none":
        return None
    if kind == "right_padding":
        mask = np.arange(shape.T) < rng.integers(1, shape.T + 1, (shape.B, 1))
    elif kind == "holes":
        mask = rng.random((shape.B, shape.T)) < 0.6
    elif kind == "empty_example":
        mask[-1] = False
    elif kind == "all_masked":
        mask[:] = False
    return mask


def make_inputs(shape: Shape, rng: np.random.Generator) -> list[np.ndarray]:
    """Returns q, k, v and a cotangent of the output."""
    return [rng.standard_normal((shape.B, shape.T, shape.N, shape.H)) for _ in range(4)]


@functools.partial(jax.jit, static_argnames="implementation")
def forward_and_gradients(q, k, v, pattern, mask, d_out, implementation):
    """Returns `(out, d_q, d_k, d_v)`, with every array traced, the pattern included."""

    def attend(q, k, v):
        return block_sparse_attention(q, k, v, pattern, mask=mask, implementation=implementation)

    out, pull = jax.vjp(attend, q, k, v)
    return (out, *pull(d_out))


def with_static_pattern(pattern: BlockPattern, implementation: str):
    """Returns the same function with the pattern folded into the program.

    Keep the result: it holds the compiled program.
    """

    @jax.jit
    def run(q, k, v, mask, d_out):
        def attend(q, k, v):
            return block_sparse_attention(
                q, k, v, pattern, mask=mask, implementation=implementation
            )

        out, pull = jax.vjp(attend, q, k, v)
        return (out, *pull(d_out))

    return run


class AttentionSuite:
    """Compares output and gradients with the float64 oracle, on random inputs."""

    implementation: ClassVar[str]
    declines: ClassVar[tuple[str, ...]] = ()  # dtypes
    tolerance: ClassVar[dict[str, float]] = {
        "float64": 1e-12,
        "float32": 1e-5,
        "float16": 1e-2,
        "bfloat16": 8e-2,
    }

    def compare(self, got, inputs, pattern, mask, *, case: str = "") -> None:
        """Compares `(out, d_q, d_k, d_v)` with the oracle, on the inputs after rounding."""
        q, k, v, d_out = inputs
        dtype = np.asarray(q).dtype.name
        real = np.ones(q.shape[:2], bool) if mask is None else np.asarray(mask)
        want = oracle.attend(q, k, v, pattern, mask=real, scale=q.shape[-1] ** -0.5, d_out=d_out)
        for name, ours, theirs in zip(want._fields, got, want, strict=True):
            ours = np.asarray(ours, np.float64)
            assert ours.shape == theirs.shape, name
            worst = np.abs(ours - theirs).max()
            bound = self.tolerance[dtype] * max(1.0, np.abs(theirs).max())
            assert worst <= bound, f"{case} {name}: differs by {worst:.1e} > {bound:.1e}"
        assert not np.asarray(got[0])[~real].any(), "outputs at padded queries must be 0"

    def check(self, shape, pattern, masks, rng, dtype="float32", run=None) -> None:
        """Draws inputs for each kind of mask, runs the implementation and compares."""
        run = run or with_static_pattern(pattern, self.implementation)
        for kind in masks:
            mask = make_mask(shape, kind, rng)
            inputs = [jnp.asarray(x, dtype) for x in make_inputs(shape, rng)]
            q, k, v, d_out = inputs
            got = run(q, k, v, mask, d_out)
            assert all(x.dtype == dtype for x in got)
            self.compare(got, inputs, pattern, mask, case=kind)

    @pytest.mark.parametrize("name", TESTED)
    def test_random_blocks(self, name, rng):
        shape = TESTED[name]
        self.check(shape, make_pattern(shape, "random"), MASKS, rng)

    @pytest.mark.parametrize("name", ["four_blocks", "ragged", "no_random"])
    def test_hf_evaluation(self, name, rng):
        shape = TESTED[name]
        self.check(shape, make_pattern(shape, "hf_evaluation"), MASKS, rng)

    @pytest.mark.parametrize("name", ["one_token", "two_blocks", "blocks_of_one", "odd_sizes"])
    def test_causal(self, name, rng):
        shape = TESTED[name]
        self.check(shape, make_pattern(shape, "causal"), MASKS, rng)

    @pytest.mark.parametrize("name", ["four_blocks", "ragged"])
    def test_without_a_mask(self, name, rng):
        shape = TESTED[name]
        self.check(shape, make_pattern(shape, "random"), ["none"], rng)

    @pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
    def test_dtypes(self, dtype, rng):
        shape = TESTED["ragged"]
        with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("standard"):
            if dtype in self.declines:
                with pytest.raises(NotImplementedError, match=dtype):
                    self.check(shape, make_pattern(shape, "random"), ["holes"], rng, dtype)
                return
            self.check(shape, make_pattern(shape, "random"), ["holes"], rng, dtype)

    @pytest.mark.parametrize("kind", ["random", "causal"])
    def test_traced_pattern(self, kind, rng):
        shape = TESTED["ragged"]
        pattern = make_pattern(shape, kind)
        traced = jax.tree.map(jnp.asarray, pattern)

        def run(q, k, v, mask, d_out):
            return forward_and_gradients(q, k, v, traced, mask, d_out, self.implementation)

        self.check(shape, pattern, ["holes"], rng, run=run)

    @pytest.mark.parametrize("traced", [False, True], ids=["static", "traced"])
    def test_rows_per_example_and_head(self, traced, rng):
        """Blocks [B, N, M, K] and global rows [B, G], one of them listed twice."""
        shape = TESTED["bigbird"]
        blocks = rng.integers(0, shape.M, (shape.B, shape.N, shape.M, 4)).astype(np.int32)
        counts = rng.integers(0, 4, blocks.shape).astype(np.int32)
        rows = np.array([[0, 5], [3, 3]], np.int32)
        pattern = BlockPattern(blocks, counts, rows, shape.W)
        if traced:
            pattern = jax.tree.map(jnp.asarray, pattern)

        def run(q, k, v, mask, d_out):
            return forward_and_gradients(q, k, v, pattern, mask, d_out, self.implementation)

        static = with_static_pattern(pattern, self.implementation)
        self.check(shape, pattern, ["holes"], rng, run=run if traced else static)

    def test_a_block_read_twice_weighs_twice(self):
        """With all scores equal, the output is the mean over the multiset."""
        pattern = BlockPattern.from_lists([[0, 1, 1], [1], [0, 0, 0, 2]], 1)
        x = jnp.zeros((1, 3, 1, 1))
        v = jnp.asarray([0.0, 3.0, 8.0]).reshape(x.shape)
        out = block_sparse_attention(x, x, v, pattern, implementation=self.implementation)
        np.testing.assert_allclose(out.ravel(), [2.0, 3.0, 2.0], rtol=1e-6)

    def test_a_row_without_blocks_gives_zero(self, rng):
        shape = Shape(B=1, T=6, N=1, H=4, W=2, R=0)
        pattern = BlockPattern.from_lists([[0, 1], [], [2]], shape.W)
        self.check(shape, pattern, ["all_real", "holes"], rng)

    def test_causal_global_rows_read_the_past_only(self, rng):
        shape = Shape(B=1, T=12, N=1, H=4, W=3, R=0)
        lists = [[0], [1], [0, 1, 2, 3], [3]]
        pattern = BlockPattern.from_lists(lists, shape.W, global_rows=(1, 3), causal=True)
        self.check(shape, pattern, ["all_real", "holes"], rng)

    @pytest.mark.parametrize("kind", ["random", "causal"])
    def test_masked_contents_reach_nothing(self, kind, rng):
        """Neither the output nor a gradient depends on what a masked token holds."""
        shape = TESTED["ragged"]
        pattern = make_pattern(shape, kind)
        run = with_static_pattern(pattern, self.implementation)
        for poison in (np.nan, np.inf, -np.inf):
            mask = make_mask(shape, "holes", rng)
            keep = mask[..., None, None]
            clean = [jnp.asarray(np.where(keep, x, 0), "float32") for x in make_inputs(shape, rng)]
            q, k, v, d_out = (jnp.where(keep, x, poison) for x in clean)
            got = run(q, k, v, mask, d_out)
            self.compare(got, clean, pattern, mask, case=str(poison))
            for gradient in got[1:]:
                assert not np.asarray(gradient)[~mask].any()

    def test_large_scores_do_not_overflow(self, rng):
        shape = TESTED["bigbird"]
        pattern = make_pattern(shape, "random")
        mask = make_mask(shape, "holes", rng)
        q, k, v, d_out = (jnp.asarray(x, "float32") for x in make_inputs(shape, rng))
        q, k = q * 1e3, k * 1e3
        got = with_static_pattern(pattern, self.implementation)(q, k, v, mask, d_out)
        assert all(np.isfinite(x).all() for x in got)
        real = np.asarray(mask)
        want = oracle.attend(q, k, v, pattern, mask=real, scale=8**-0.5, d_out=d_out)
        np.testing.assert_allclose(got[0], want.out, atol=1e-2)

    def test_scale(self, rng):
        shape = TESTED["one_block"]
        pattern = make_pattern(shape, "random")
        q, k, v, _ = (jnp.asarray(x, "float32") for x in make_inputs(shape, rng))

        @functools.partial(jax.jit, static_argnums=1)
        def run(q, scale):
            return block_sparse_attention(
                q, k, v, pattern, scale=scale, implementation=self.implementation
            )

        np.testing.assert_allclose(run(q, 0.25), run(q / 2, None), atol=1e-6)

    def test_vmap(self, rng):
        """Over every array, and over the pattern's arrays too."""
        shape = TESTED["four_blocks"]
        patterns = [make_pattern(shape, "hf_evaluation") for _ in range(2)]
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *patterns)
        data = [[jnp.asarray(x, "float32") for x in make_inputs(shape, rng)] for _ in range(2)]
        mask = np.stack([make_mask(shape, "holes", rng) for _ in range(2)])

        def run(q, k, v, pattern, mask, d_out):
            return forward_and_gradients(q, k, v, pattern, mask, d_out, self.implementation)

        q, k, v, d_out = (jnp.stack(x) for x in zip(*data, strict=True))
        got = jax.vmap(run)(q, k, v, stacked, mask, d_out)
        for i, inputs in enumerate(data):
            self.compare([x[i] for x in got], inputs, patterns[i], mask[i])

    def test_checkpoint_changes_nothing(self, rng):
        shape = TESTED["bigbird"]
        pattern = make_pattern(shape, "random")
        mask = make_mask(shape, "holes", rng)
        inputs = [jnp.asarray(x, "float32") for x in make_inputs(shape, rng)]
        q, k, v, d_out = inputs

        def attend(q, k, v):
            return block_sparse_attention(
                q, k, v, pattern, mask=mask, implementation=self.implementation
            )

        @jax.jit
        def run(q, k, v):
            out, pull = jax.vjp(jax.checkpoint(attend), q, k, v)
            return (out, *pull(d_out))

        self.compare(run(q, k, v), inputs, pattern, mask)

    def test_outside_jit(self, rng):
        shape = TESTED["one_token"]
        pattern = make_pattern(shape, "random")
        inputs: list[Any] = [jnp.asarray(x, "float32") for x in make_inputs(shape, rng)]
        q, k, v, d_out = inputs

        def attend(q, k, v):
            return block_sparse_attention(q, k, v, pattern, implementation=self.implementation)

        out, pull = jax.vjp(attend, q, k, v)
        self.compare((out, *pull(d_out)), inputs, pattern, None)
