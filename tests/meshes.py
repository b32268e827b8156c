"""Meshes of the simulated devices, with the axes that the package splits arrays over."""

import itertools
import math

import jax
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "sequence", "tensor")


def make_mesh(sizes: dict[str, int]) -> Mesh:
    """Returns a mesh of the first devices, with automatic axes in the usual order."""
    names = tuple(name for name in AXES if name in sizes)
    shape = tuple(sizes[name] for name in names)
    devices = jax.devices()[: math.prod(shape)]
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names), devices=devices)


def all_sizes(num_devices: int) -> list[dict[str, int]]:
    """Returns the sizes of all meshes of so many devices, without axes of size 1."""
    powers = [2**i for i in range(num_devices.bit_length())]
    shapes = itertools.product(powers, repeat=len(AXES))
    return [
        {name: size for name, size in zip(AXES, shape, strict=True) if size > 1}
        for shape in shapes
        if math.prod(shape) == num_devices
    ]
