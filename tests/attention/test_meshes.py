"""Attention whose examples, heads and tokens are split over devices, and what they send."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from abstract_devices import abstract_mesh
from attention_suite import make_pattern
from jax.sharding import AxisType
from named_shapes import Shape
from several_devices import run_with_devices
from test_accelerator_kernels import cannot_lower

from flax_bigbird.attention import (
    api,
    block_sparse_attention,
    full_attention,
    sharded_block_sparse_attention,
    sharded_full_attention,
)
from flax_bigbird.attention.backends import mosaic_tpu, triton
from flax_bigbird.attention.mesh_axes import current_mesh_axes

FOLDER = Path(__file__).parent
BENCHMARKS = FOLDER.parents[1] / "benchmarks"


def check(count: int, rng: np.random.Generator) -> None:
    seed = int(rng.integers(2**31))
    lines = run_with_devices([str(FOLDER / "mesh_program.py"), str(seed), str(count)], 8)
    assert len(lines.splitlines()) >= (count or 34)
    for line in lines.splitlines():
        assert float(line.rsplit(": ", 1)[1]) <= 1e-5, line


def test_gradients_equal_those_of_one_device(rng):
    """Random meshes that split tokens, kinds of patterns, lengths, masks and backends."""
    check(6, rng)


@pytest.mark.slow
def test_gradients_on_all_meshes(rng):
    """Every mesh of 2, 4 and 8 devices."""
    check(0, rng)


def test_the_second_call_outside_jit_compiles_nothing():
    lines = run_with_devices([str(FOLDER / "eager_mesh_program.py")], 2).splitlines()
    assert len(lines) == 6
    for line in lines:
        assert line.endswith(": []"), line


def test_what_is_sent_is_what_is_read():
    """Read from the compiled program: nothing is gathered, and only random blocks grow with T."""
    results = {}
    program = [str(FOLDER / "communication_program.py"), str(BENCHMARKS)]
    for line in run_with_devices(program, 8).splitlines():
        result = json.loads(line)
        results[result["kind"], result["length"]] = result
    for (kind, length), result in results.items():
        shape = Shape(**result["shape"])
        sent = result["sent"]
        assert not {"all-gather", "reduce-scatter"} & sent.keys(), result
        keys, mask = 2 * shape.W * shape.H * 4, shape.W
        # Keys and values go forward twice, as the backward pass repeats it, and gradients back.
        # XLA may merge the two where there is no loop over heads.
        block = shape.N * (3 * keys + 2 * mask)
        if kind == "hf_evaluation":  # the heads share one mask
            block = shape.N * 3 * keys + 2 * mask
        rows = 2 * shape.N * shape.W * (2 * shape.H + 2) * 4
        assert sent["all-reduce"] <= 3 * rows + result["shared"] * block
        all_keys = shape.N * (length // shape.W) * keys
        if kind == "traced":  # of one round
            assert 0 < sent["all-to-all"] < 3 * all_keys / 2
            continue
        for name, count in (
            ("collective-permute", result["edges"]),
            ("all-to-all", result["scattered"]),
        ):
            assert 2 * shape.N * keys * count <= sent.get(name, 0) <= block * count, result
    short, long = (results["hf_evaluation", length]["sent"] for length in (1024, 4096))
    assert short == long
    for kind in ("hf_evaluation", "random"):
        short, long = (results[kind, length]["temporary"] for length in (1024, 4096))
        assert long <= 4.5 * short, kind


@pytest.mark.parametrize(
    ("module", "platform", "name"),
    [(triton, "cuda", "triton"), (mosaic_tpu, "tpu", "mosaic_tpu")],
    ids=["gpu", "tpu"],
)
def test_the_accelerators_kernels_lower(module, platform, name, monkeypatch):
    """Forward and backward, with tokens and heads split over four devices that are not here."""
    reason = cannot_lower(module, platform)
    if reason:
        pytest.skip(reason)
    monkeypatch.setitem(api._LAST_ROWS, name, api._with_all_rows(module._run))
    shape = Shape(B=1, T=512, N=2, H=64, W=16, R=1)
    pattern = make_pattern(shape, "random")

    def step(q, k, v, mask):
        def loss(q, k, v):
            out = sharded_block_sparse_attention(q, k, v, pattern, mask=mask, implementation=name)
            return out.sum()

        return jax.grad(loss, (0, 1, 2))(q, k, v)

    mesh = abstract_mesh(platform, (2, 2), ("sequence", "tensor"), AxisType.Auto)
    x = jax.ShapeDtypeStruct((shape.B, shape.T, shape.N, shape.H), jnp.float32)
    mask = jax.ShapeDtypeStruct((shape.B, shape.T), bool)
    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(step).trace(x, x, x, mask)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("triton" if platform == "cuda" else "tpu_custom_call") >= 3


def test_the_backward_pass_does_not_repeat_the_kernel():
    """It repeats the exchange alone. The jaxpr of the gradients holds each custom call once."""
    if api.available_implementations()["cpu"]:
        pytest.skip("there is no native library")
    shape = Shape(B=1, T=64, N=2, H=4, W=4, R=1)
    pattern = make_pattern(shape, "random")
    x = jax.ShapeDtypeStruct((shape.B, shape.T, shape.N, shape.H), jnp.float32)

    def step(q, k, v):
        def loss(q, k, v):
            out = sharded_block_sparse_attention(q, k, v, pattern, implementation="cpu")
            return out.sum()

        return jax.grad(loss, (0, 1, 2))(q, k, v)

    mesh = jax.sharding.AbstractMesh((2,), ("sequence",), (AxisType.Auto,))
    with jax.sharding.use_abstract_mesh(mesh):
        text = jax.jit(step).trace(x, x, x).lower(lowering_platforms=("cpu",)).as_text()
    assert text.count("@flax_bigbird_attention(") == 1
    assert text.count("@flax_bigbird_attention_gradient(") == 1


def test_nothing_changes_without_a_mesh(rng):
    shape = Shape(B=1, T=13, N=2, H=4, W=4, R=1)
    pattern = make_pattern(shape, "random")
    x = jnp.asarray(rng.standard_normal((shape.B, shape.T, shape.N, shape.H)), "float32")
    assert current_mesh_axes() is None
    np.testing.assert_array_equal(
        sharded_block_sparse_attention(x, x, x, pattern), block_sparse_attention(x, x, x, pattern)
    )
    np.testing.assert_array_equal(sharded_full_attention(x, x, x), full_attention(x, x, x))


def test_axes_that_count():
    """Automatic axes of the four names count; manual ones, and others, do not."""
    kinds = (AxisType.Auto, AxisType.Manual, AxisType.Auto, AxisType.Auto)
    mesh = jax.sharding.AbstractMesh((2, 2, 3, 1), ("data", "sequence", "other", "tensor"), kinds)
    with jax.sharding.use_abstract_mesh(mesh):
        axes = current_mesh_axes()
    assert axes is not None
    assert axes.names == {"data", "tensor"}
    assert (axes.examples, axes.tokens, axes.heads) == (("data",), None, None)
    assert (axes.num_example_shards, axes.num_token_shards, axes.num_head_shards) == (2, 1, 1)


def test_bad_calls_are_refused_under_a_mesh():
    shape = Shape(B=1, T=13, N=2, H=4, W=4, R=1)
    pattern = make_pattern(shape, "random")
    x = jax.ShapeDtypeStruct((shape.B, 20, shape.N, shape.H), jnp.float32)
    mesh = jax.sharding.AbstractMesh((2,), ("sequence",), (AxisType.Auto,))

    def attend(x):
        return sharded_block_sparse_attention(x, x, x, pattern)

    with jax.sharding.use_abstract_mesh(mesh), pytest.raises(ValueError, match="4 rows of 4"):
        jax.eval_shape(attend, x)
