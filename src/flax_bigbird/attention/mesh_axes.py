"""The axes of the mesh that attention is split over: examples, tokens and heads.

    axis        splits                                  of arrays [B, T, N, H]
    "data"      examples                                B
    "fsdp"      examples (and parameters)               B
    "sequence"  the tokens of each example              T
    "tensor"    heads (and the wide axis of the MLP)    N

The mesh is that of `jax.set_mesh`, which is read while a function is traced. A mesh may lack any of
these axes. Without a mesh, and with one device, nothing changes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

EXAMPLE_AXES = ("data", "fsdp")
TOKEN_AXIS = "sequence"
HEAD_AXIS = "tensor"


class MeshAxes(NamedTuple):
    """The automatic axes of the current mesh that have one of the names above.

    Attributes:
      names: Those axes, of size 1 too.
      examples: The axes over which examples are split, or None.
      tokens: The axis over which tokens are split, or None.
      heads: The axis over which heads are split, or None.
      num_example_shards, num_token_shards, num_head_shards: The sizes; 1 if nothing is split.
    """

    names: frozenset[str]
    examples: tuple[str, ...] | None
    tokens: str | None
    heads: str | None
    num_example_shards: int
    num_token_shards: int
    num_head_shards: int


def mesh_axes() -> MeshAxes | None:
    """Returns the axes of the current mesh, or None if they have a single device together.

    Axes that are manual, because the caller is inside `jax.shard_map`, do not count: the arrays are
    those of one device there already.
    """
    mesh = jax.sharding.get_abstract_mesh()
    sizes = {
        name: size
        for name, size, kind in zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
        if kind == AxisType.Auto and name in (*EXAMPLE_AXES, TOKEN_AXIS, HEAD_AXIS)
    }
    if all(size == 1 for size in sizes.values()):
        return None
    split = {name: size for name, size in sizes.items() if size > 1}
    examples = tuple(name for name in EXAMPLE_AXES if name in split)
    return MeshAxes(
        names=frozenset(sizes),
        examples=examples or None,
        tokens=TOKEN_AXIS if TOKEN_AXIS in split else None,
        heads=HEAD_AXIS if HEAD_AXIS in split else None,
        num_example_shards=int(np.prod([split[name] for name in examples], dtype=int)),
        num_token_shards=split.get(TOKEN_AXIS, 1),
        num_head_shards=split.get(HEAD_AXIS, 1),
    )


def num_token_shards() -> int:
    """Returns over how many devices the current mesh splits the tokens of an example."""
    axes = mesh_axes()
    return 1 if axes is None else axes.num_token_shards


def constrain_tokens(x: Any) -> Any:
    """Splits hidden states `[B, T, D]` by examples and tokens, if there is a mesh.

    Axes that do not divide their size stay as XLA chooses.
    """
    axes = mesh_axes()
    if axes is None or x.ndim != 3 or not isinstance(x.shape[0], int):
        return x
    unconstrained = P.UNCONSTRAINED
    examples = axes.examples if x.shape[0] % axes.num_example_shards == 0 else unconstrained
    tokens = axes.tokens if x.shape[1] % axes.num_token_shards == 0 else unconstrained
    return jax.lax.with_sharding_constraint(x, P(examples, tokens, unconstrained))


def pad_axis(x: Any, axis: int, multiple: int) -> Any:
    """Pads an axis with zeros up to a multiple, NumPy arrays with NumPy."""
    padding = -x.shape[axis] % multiple
    if not padding:
        return x
    xp: Any = np if isinstance(x, np.ndarray) else jnp
    return xp.pad(x, [(0, padding if i == axis % x.ndim else 0) for i in range(x.ndim)])
