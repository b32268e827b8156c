"""Constrains hidden states to the devices of a mesh; without a mesh, nothing changes."""

import math

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float

from flax_bigbird._mesh_axes import ROW_AXES, SEQUENCE


def constrain_states(x: Float[Array, "..."], last_axis: str | None = None) -> Float[Array, "..."]:
    """Returns hidden states that are split over the mesh of `jax.set_mesh`, if there is one.

    XLA would otherwise be free to gather the examples of a batch instead of the parameters. An axis
    whose size the devices do not divide is not split, nor is one of a mesh axis that is manual, as
    inside `jax.shard_map`.

    Args:
      x: `[B, T, D]`; other ranks are returned as they are.
      last_axis: The mesh axis that D is split over.
    """
    sizes = automatic_axes()
    if not sizes or x.ndim != 3:
        return x

    def axes_of(names: tuple[str, ...], size: int) -> tuple[str, ...] | None:
        used = tuple(name for name in names if name in sizes)
        return used if used and size % math.prod(sizes[n] for n in used) == 0 else None

    names = (ROW_AXES, (SEQUENCE,), () if last_axis is None else (last_axis,))
    axes = [axes_of(names, size) for names, size in zip(names, x.shape, strict=True)]
    if not any(axes):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))


def replicate(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns an array that every device of the mesh of `jax.set_mesh` has as a whole."""
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def automatic_axes() -> dict[str, int]:
    """Returns the sizes above 1 of the axes of the mesh that JAX splits arrays over."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
    return {name: size for name, size, kind in axes if kind == AxisType.Auto and size > 1}
