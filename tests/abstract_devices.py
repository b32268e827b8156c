"""Meshes of accelerators that are not here, to lower programs for them."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType

H100 = {"device_kind": "NVIDIA H100 80GB HBM3", "num_cores": 132, "platform": "gpu"}


def abstract_mesh(
    platform: str,
    sizes: Sequence[int] = (1,),
    names: Sequence[str] = ("device",),
    axis_type: AxisType = AxisType.Explicit,
) -> AbstractMesh:
    """Returns a mesh of devices of a platform.

    JAX 0.12 lowers kernels for the GPU that the mesh names, if there is none on the machine. JAX
    0.10 lowers them for any GPU.

    Args:
      platform: "cuda" or "tpu".
      sizes: The sizes of the axes.
      names: The names of the axes.
      axis_type: The type of all axes. A mesh around a program as a whole is explicit.
    """
    options: dict[str, Any] = {}
    if platform == "cuda" and jax.__version_info__ >= (0, 12):
        options["abstract_device"] = jax.sharding.AbstractDevice(**H100)
    return AbstractMesh(tuple(sizes), tuple(names), (axis_type,) * len(sizes), **options)
