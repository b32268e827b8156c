"""Creates the mesh of a run, and runs functions under it."""

import contextlib
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from flax_bigbird._mesh_axes import MESH_AXES
from flax_bigbird.parallel.mesh_options import resolve_mesh


def create_mesh(text: str | None, devices: Any = None) -> Mesh | None:
    """Returns the mesh of the option `mesh`, over all devices of all processes.

    All axes are `Auto`: JAX chooses where values live that nothing constrains. The devices of a
    process are neighbors along the last axes, so that `tensor` and `sequence`, which communicate
    most, stay inside a host if they fit.

    Args:
      text: The option, such as "data=2,fsdp=4"; None for `data` over all devices.
      devices: The devices; by default, all.

    Returns:
      The mesh; None for a single device.

    Raises:
      OptionError: if the mesh does not have as many devices as there are.
    """
    devices = jax.devices() if devices is None else devices
    sizes = resolve_mesh(text, len(devices))
    if len(devices) == 1:
        return None
    types = (AxisType.Auto,) * len(MESH_AXES)
    return jax.make_mesh(tuple(sizes.values()), MESH_AXES, axis_types=types, devices=devices)


def under(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """Returns a context in which functions are traced for a mesh; nothing changes without one."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Returns the sharding of an array that every device has as a whole."""
    return NamedSharding(mesh, PartitionSpec())
