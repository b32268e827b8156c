"""Every implementation against the float64 oracle."""

import contextlib

import jax
import numpy as np
import pytest
from attention_suite import AttentionSuite, make_pattern
from named_shapes import Shape

from flax_bigbird.attention import BlockPattern, available_implementations
from flax_bigbird.attention.backends import mosaic_tpu
from flax_bigbird.attention.backends.interpret_mode import interpreted

REASONS = available_implementations()


class TestReference(AttentionSuite):
    implementation = "reference"


class TestXla(AttentionSuite):
    implementation = "xla"


@pytest.mark.skipif(REASONS["cpu"] != "", reason=REASONS["cpu"])
class TestCpu(AttentionSuite):
    implementation = "cpu"
    declines = ("float64", "float16")


class TestTriton(AttentionSuite):
    """Compiled on a GPU, interpreted elsewhere."""

    implementation = "triton"
    declines = ("float64",)

    @pytest.fixture(autouse=True)
    def _interpreted(self):
        with contextlib.nullcontext() if jax.default_backend() == "gpu" else interpreted():
            yield

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    @pytest.mark.parametrize(("size", "width"), [(16, 32), (40, 80), (128, 128)])
    def test_blocks_of_one_tile_and_of_several(self, size, width, dtype, rng):
        """A program's tile is 64 tokens at most: larger blocks are several programs."""
        shape = Shape(B=1, T=5 * size - 3, N=1, H=width, W=size, R=1)
        self.check(shape, make_pattern(shape, "random"), ["holes"], rng, dtype)
        self.check(shape, make_pattern(shape, "causal"), ["none"], rng, dtype)

    def test_long_lists_are_cut(self, rng):
        """There are more rows, and more blocks in one row's list, than a work item holds."""
        shape = Shape(B=2, T=37 * 2, N=2, H=4, W=2, R=3)
        self.check(shape, make_pattern(shape, "random"), ["right_padding", "holes"], rng)
        lists = [[i] for i in range(shape.M)]
        lists[5] = [*range(0, shape.M, 2), 0, 0, 4]
        self.check(shape, BlockPattern.from_lists(lists, shape.W), ["holes"], rng)


class TestMosaicTpu(AttentionSuite):
    """Compiled on a TPU, interpreted elsewhere."""

    implementation = "mosaic_tpu"
    declines = ("float64", "float16")

    @pytest.fixture(autouse=True)
    def _interpreted(self):
        with contextlib.nullcontext() if jax.default_backend() == "tpu" else interpreted():
            yield

    @pytest.mark.parametrize("axis", ["heads", "examples"])
    def test_lists_longer_than_scalar_memory(self, axis, rng, monkeypatch):
        """The call is cut in halves until they fit."""
        shape = Shape(B=2, T=24, N=2, H=4, W=4, R=2)
        pattern = make_pattern(shape, "random")
        if axis == "examples":
            rows = rng.integers(0, shape.M, (shape.B, 1, shape.M, 4)).astype(np.int32)
            pattern = BlockPattern(
                rows, np.ones_like(rows), np.array([[0], [4]], np.int32), shape.W
            )
        monkeypatch.setattr(mosaic_tpu, "_MAX_WORDS", 200)
        halves = []
        run_halves = mosaic_tpu._run_halves
        monkeypatch.setattr(
            mosaic_tpu, "_run_halves", lambda *a, **k: halves.append(1) or run_halves(*a, **k)
        )
        self.check(shape, pattern, ["right_padding", "none"], rng)
        assert halves
        monkeypatch.setattr(mosaic_tpu, "_MAX_WORDS", 10)
        with pytest.raises(NotImplementedError, match="at most 10 words"):
            self.check(shape, pattern, ["none"], rng)


def test_every_implementation_is_tested():
    tested = {cls.implementation for cls in AttentionSuite.__subclasses__()}
    assert tested == set(available_implementations())
