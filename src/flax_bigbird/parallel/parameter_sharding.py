"""Which parameter is split along which axes of a mesh, and the optimizer state with it."""

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from flax_bigbird._mesh_axes import FSDP, SEQUENCE, TENSOR
from flax_bigbird.parallel.mesh import replicated

RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    # The end of a parameter's path, and the mesh axis of each of its dimensions.
    (r"word_embeddings/embedding", (TENSOR, FSDP)),
    (r"position_embeddings/embedding", (SEQUENCE, FSDP)),  # the positions of a device's tokens
    (r"embedding", (None, FSDP)),
    (r"self/(query|key|value)/kernel", (FSDP, TENSOR)),  # the heads are side by side
    (r"self/(query|key|value)/bias", (TENSOR,)),
    (r"intermediate/dense/kernel", (FSDP, TENSOR)),
    (r"intermediate/dense/bias", (TENSOR,)),
    (r"output/dense/kernel", (TENSOR, FSDP)),  # of attention and of the feed-forward block
    (r"decoder/kernel", (FSDP, TENSOR)),
    (r"predictions/bias", (TENSOR,)),
    (r"kernel", (FSDP, None)),  # the pooler and the heads
    (r".*", ()),  # biases and LayerNorm, a thousandth of the parameters: on every device
)
"""The first rule whose pattern matches the end of a path decides."""


def parameter_spec(path: str, shape: tuple[int, ...], sizes: dict[str, int]) -> PartitionSpec:
    """Returns how a parameter is split.

    An axis that does not divide the dimension of its rule splits none, except `fsdp`, which then
    splits another one that it divides.

    Args:
      path: The names of the parameter, joined by "/".
      shape: Its shape.
      sizes: The sizes of the axes of the mesh.
    """
    rule = next(axes for end, axes in RULES if re.search(rf"(^|/){end}$", path))
    rule = rule if len(rule) == len(shape) else ()
    wanted = {axis: i for i, axis in enumerate(rule) if axis and sizes.get(axis, 1) > 1}
    axes: list[str | None] = [None] * len(shape)
    for axis in (TENSOR, SEQUENCE):
        if axis in wanted and shape[wanted[axis]] % sizes[axis] == 0:
            axes[wanted[axis]] = axis
    if FSDP in wanted:
        candidates = [wanted[FSDP], *(i for i in range(len(shape)) if i != wanted[FSDP])]
        free = (i for i in candidates if axes[i] is None and shape[i] % sizes[FSDP] == 0)
        if (index := next(free, None)) is not None:
            axes[index] = FSDP
    return PartitionSpec(*axes)


def parameter_shardings(mesh: Mesh | AbstractMesh, params: Any) -> Any:
    """Returns the sharding of each parameter.

    Args:
      mesh: The mesh.
      params: The parameters, or their shapes.
    """
    sizes = dict(mesh.shape)

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, parameter_spec("/".join(_names(path)), leaf.shape, sizes))

    return jax.tree_util.tree_map_with_path(sharding, params)


def optimizer_shardings(mesh: Mesh | AbstractMesh, optimizer: Any, params: Any) -> Any:
    """Returns the sharding of each array of the optimizer's state.

    An array that belongs to a parameter, such as a mean of its gradients, is split as the parameter
    is: its path in the state ends with the path of the parameter, in whatever transformations,
    masks and labels it is nested. All others, such as the number of steps, are on every device.

    Args:
      mesh: The mesh.
      optimizer: The optimizer of optax.
      params: The parameters, or their shapes.
    """
    shardings = jax.tree.leaves(parameter_shardings(mesh, params))
    flat = jax.tree_util.tree_leaves_with_path(params)
    known = {
        _names(path): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(flat, shardings, strict=True)
    }
    everywhere = replicated(mesh)

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = _names(path)
        for start in range(len(names)):
            shape, found = known.get(names[start:], (None, everywhere))
            if shape == leaf.shape:
                return found
        return everywhere

    state = jax.eval_shape(optimizer.init, params)
    return jax.tree_util.tree_map_with_path(sharding, state)


def place_tree(tree: Any, shardings: Any) -> Any:
    """Returns arrays that every process holds as a whole, split over the devices of all."""

    def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return leaf
        value = np.asarray(leaf)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(place, tree, shardings)


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    """Returns the keys of dictionaries in a path of a pytree; other entries have no name."""
    return tuple(str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey))
