"""The types of arrays inside `jax.shard_map`."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from flax_bigbird.attention.manual_axes import vary_over

AXES = ("data", "sequence")


@pytest.mark.parametrize(
    ("spec", "check_vma", "varying"),
    [
        (P(), True, ()),
        (P("data"), True, AXES),
        (P("data", "sequence"), True, AXES),
        (P("data"), False, ()),
    ],
)
def test_an_operand_of_a_collective_varies_over_all_axes_or_none(spec, check_vma, varying):
    """JAX 0.12 rejects an operand that varies over some of the axes of a collective."""
    types = []

    def maximum(x):
        x = vary_over(AXES, x)
        types.append(jax.typeof(x).manual_axis_type.varying)
        return jax.lax.pmax(x, AXES)

    program = jax.shard_map(
        maximum,
        mesh=jax.make_mesh((1, 1), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 2),
        in_specs=spec,
        out_specs=P(),
        check_vma=check_vma,
    )
    x = np.arange(6, dtype=np.int32).reshape(2, 3)
    np.testing.assert_array_equal(jax.jit(program)(x), x)
    assert types
    assert set(types) == {frozenset(varying)}
