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

from flax_bigbird._mesh_axes import MESH_AXES, ROW_AXES, SEQUENCE, TENSOR


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


def current_mesh_axes() -> MeshAxes | None:
    """Returns the axes of the current mesh, or None if they have a single device together.

    Axes that are manual, because the caller is inside `jax.shard_map`, do not count: the arrays are
    those of one device there already.
    """
    mesh = jax.sharding.get_abstract_mesh()
    sizes = {
        name: size
        for name, size, kind in zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
        if kind == AxisType.Auto and name in MESH_AXES
    }
    if all(size == 1 for size in sizes.values()):
        return None
    split = {name: size for name, size in sizes.items() if size > 1}
    examples = tuple(name for name in ROW_AXES if name in split)
    return MeshAxes(
        names=frozenset(sizes),
        examples=examples or None,
        tokens=SEQUENCE if SEQUENCE in split else None,
        heads=TENSOR if TENSOR in split else None,
        num_example_shards=int(np.prod([split[name] for name in examples], dtype=int)),
        num_token_shards=split.get(SEQUENCE, 1),
        num_head_shards=split.get(TENSOR, 1),
    )


def num_token_shards() -> int:
    """Returns over how many devices the current mesh splits the tokens of an example."""
    axes = current_mesh_axes()
    return 1 if axes is None else axes.num_token_shards


def pad_axis(x: Any, axis: int, multiple: int) -> Any:
    """Pads an axis with zeros up to a multiple, NumPy arrays with NumPy."""
    padding = -x.shape[axis] % multiple
    if not padding:
        return x
    xp: Any = np if isinstance(x, np.ndarray) else jnp
    return xp.pad(x, [(0, padding if i == axis % x.ndim else 0) for i in range(x.ndim)])
