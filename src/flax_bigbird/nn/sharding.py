"""Constrains hidden states to the devices of a mesh; without a mesh, nothing changes."""

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from flax_bigbird.attention import current_mesh_axes


def constrain_states(x: Float[Array, "..."], *, splits_last: bool = False) -> Float[Array, "..."]:
    """Returns hidden states that are split over the mesh of `jax.set_mesh`, if there is one.

    XLA would otherwise be free to gather the examples of a batch instead of the parameters. An axis
    whose size the devices do not divide is not split, nor is one of a mesh axis that is manual, as
    inside `jax.shard_map`.

    Args:
      x: `[B, T, D]`; other ranks are returned as they are.
      splits_last: Whether D is split, too, over the axis that splits heads.
    """
    axes = current_mesh_axes()
    if axes is None or x.ndim != 3:
        return x
    splits = (
        (axes.examples, axes.num_example_shards),
        (axes.tokens, axes.num_token_shards),
        (axes.heads if splits_last else None, axes.num_head_shards),
    )
    spec = [
        name if size % shards == 0 else None
        for size, (name, shards) in zip(x.shape, splits, strict=True)
    ]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec)) if any(spec) else x


def gather_parameter(x: Float[Array, "..."], rows: str | None = None) -> Float[Array, "..."]:
    """Returns a parameter that every device of the mesh of `jax.set_mesh` has as a whole.

    Args:
      x: The parameter.
      rows: The axis of the mesh over which its first axis stays split, or None.
    """
    if current_mesh_axes() is None:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(rows))
