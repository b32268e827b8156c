"""Attention inside `jax.shard_map` with its default `check_vma=True`: outputs and gradients."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from abstract_devices import abstract_mesh
from attention_suite import make_pattern
from jax.sharding import PartitionSpec as P
from named_shapes import Shape
from several_devices import run_with_devices
from test_accelerator_kernels import cannot_lower

from flax_bigbird.attention import vary_together
from flax_bigbird.attention.backends import mosaic_tpu, triton

PROGRAM = Path(__file__).parent / "shard_map_program.py"


def test_gradients_equal_those_of_one_device():
    """Sharded examples, heads and both; replicated arrays; rematerialization; every backend."""
    lines = run_with_devices([str(PROGRAM)]).splitlines()
    ran = [line for line in lines if "declines" not in line]
    assert len(ran) >= 26, lines
    for line in ran:
        assert float(line.rsplit(": ", 1)[1]) <= 1e-5, line


@pytest.mark.parametrize(
    ("module", "platform"), [(triton, "cuda"), (mosaic_tpu, "tpu")], ids=["gpu", "tpu"]
)
def test_the_accelerators_kernels_lower(module, platform):
    """Pallas is interpreted without the types of `check_vma=True`, but it is lowered with them."""
    reason = cannot_lower(module, platform)
    if reason:
        pytest.skip(reason)
    shape = Shape(B=2, T=256, N=2, H=64, W=16, R=1)
    pattern = make_pattern(shape, "random")

    def step(q, k, v, mask):
        def loss(q, k, v):
            q, k, v, masks = vary_together(q, k, v, mask)
            out = module._run(q, k, v, pattern, mask=masks, scale=0.125)
            return jax.lax.psum(out.sum(), "data")

        return jax.value_and_grad(loss, (0, 1, 2))(q, k, v)

    mesh = abstract_mesh(platform, (1,), ("data",), jax.sharding.AxisType.Auto)
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(P("data"), P(), P(), P("data")),
        out_specs=(P(), (P("data"), P(), P())),
    )
    x = jax.ShapeDtypeStruct((shape.B, shape.T, shape.N, shape.H), jnp.float32)
    mask = jax.ShapeDtypeStruct((shape.B, shape.T), bool)
    text = jax.jit(mapped).trace(x, x, x, mask).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("triton" if platform == "cuda" else "tpu_custom_call") >= 3


def test_nothing_changes_outside_shard_map():
    arrays = (jnp.ones(2), np.ones(3), None)
    for one, other in zip(vary_together(*arrays), arrays, strict=True):
        assert one is other
    jaxpr = jax.make_jaxpr(lambda x, y: vary_together(x, y))(jnp.ones(2), jnp.ones(3))
    assert not jaxpr.eqns
