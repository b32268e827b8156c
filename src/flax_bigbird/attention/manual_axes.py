"""The types of arrays inside `jax.shard_map`: over which axes of the mesh an array varies.

With `check_vma=True`, the default, JAX tracks which arrays differ between the devices of a manual
axis. Operations of JAX convert their operands where that is needed. A function with a gradient of
its own, a custom call and the initial value of a loop must do so themselves: a gradient has the
type of its argument, so that the gradient of an argument that is equal on all devices is the sum
over the devices. Outside `shard_map` nothing varies, and these functions change nothing.

See https://docs.jax.dev/en/latest/notebooks/shard_map.html, "Tracking how values vary over manual
mesh axes".
"""

from typing import Any

import jax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array


def vary_together(*trees: Any) -> tuple[Any, ...]:
    """Makes the arrays vary over the same axes of the mesh: those over which any of them does.

    The transpose of the conversion is the sum over these axes, which gives an argument that is
    equal on all devices its gradient.

    Args:
      *trees: Pytrees. NumPy arrays and other leaves, which are equal on all devices, stay as they
        are.

    Returns:
      The trees.
    """
    leaves, structure = jax.tree.flatten(trees)
    varying = [_varying(x) for x in leaves]
    axes = frozenset().union(*varying)
    if not axes:
        return trees
    leaves = [
        lax.pcast(x, tuple(sorted(axes - own)), to="varying")
        if isinstance(x, jax.Array) and own != axes
        else x
        for x, own in zip(leaves, varying, strict=True)
    ]
    return tuple(jax.tree.unflatten(structure, leaves))


def vary_over(axes: tuple[str, ...], x: Array) -> Array:
    """Makes an array that varies over some axes of the mesh vary over all of `axes`.

    JAX 0.12 requires the operand of a collective over several axes to vary over all of them or over
    none. JAX 0.10 converts it.

    Args:
      axes: Names of manual axes.
      x: The array. One that varies over no axis, and any array under `check_vma=False`, stays as it
        is.

    Returns:
      The array, which has the same values.
    """
    own = _varying(x)
    missing = tuple(sorted(frozenset(axes) - own))
    return lax.pcast(x, missing, to="varying") if own and missing else x


def shape_like(shape: tuple[int, ...], dtype: Any, like: Any) -> jax.ShapeDtypeStruct:
    """Returns the type of an output that varies over the same axes as the array `like`."""
    aval = jax.typeof(like)
    axes = aval.manual_axis_type
    # Axes have a meaning only together with the mesh that they belong to.
    sharding = NamedSharding(aval.sharding.mesh, PartitionSpec()) if axes.varying else None
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding, manual_axis_type=axes)


def _varying(x: Any) -> frozenset[Any]:
    """Returns the axes over which a leaf varies."""
    return jax.typeof(x).manual_axis_type.varying if isinstance(x, jax.Array) else frozenset()
