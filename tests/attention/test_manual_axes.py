"""The types of arrays inside `jax.shard_map`."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from flax_bigbird.attention import exchange
from flax_bigbird.attention.manual_axes import vary_over

AXES = ("data", "sequence", "tensor")


def on_a_mesh(function, spec, **options):
    """Maps a function of one array over a mesh of one device, whose axes it may name."""
    mesh = jax.make_mesh((1, 1, 1), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=P(), **options)
    return jax.jit(mapped)


@pytest.mark.parametrize(
    ("spec", "check_vma", "varying"),
    [
        (P(), True, ()),
        (P("data"), True, AXES),
        (P("data", ("sequence", "tensor")), True, AXES),
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

    x = np.arange(6, dtype=np.int32).reshape(2, 3)
    np.testing.assert_array_equal(on_a_mesh(maximum, spec, check_vma=check_vma)(x), x)
    assert types
    assert set(types) == {frozenset(varying)}


def test_the_number_of_rounds_is_the_maximum_over_all_axes(monkeypatch):
    """Lists that are the same along an axis of the mesh, here "tensor"."""
    types, pmax = [], jax.lax.pmax

    def recorded(x, axes):
        types.append((frozenset(axes), jax.typeof(x).manual_axis_type.varying))
        return pmax(x, axes)

    monkeypatch.setattr(exchange.lax, "pmax", recorded)
    blocks = np.zeros((1, 4, 2), np.int32)

    def rounds(blocks):
        requests, *_ = exchange.plan_requests(blocks, blocks + 1, 2, "sequence", AXES)
        return requests.rounds

    assert on_a_mesh(rounds, P("data"))(blocks) == 0  # one device has all blocks
    assert types == [(frozenset(AXES), frozenset(AXES))]
