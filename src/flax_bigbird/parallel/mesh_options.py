"""Parses and checks the option `mesh`, such as "data=2,fsdp=4". This module needs no JAX."""

import math
from typing import Any

from flax_bigbird._mesh_axes import DATA, FSDP, MESH_AXES, TENSOR
from flax_bigbird.data.errors import OptionError

REMAINING = -1
"""The size of an axis that takes the devices which the other axes leave."""

_EXAMPLE = "write a mesh such as data=2,fsdp=4"


def parse_mesh(text: str | None) -> dict[str, int]:
    """Returns the sizes of the axes of a mesh, in the order of `MESH_AXES`, those of size 1 too.

    Args:
      text: Pairs of an axis and its size, such as "data=2,fsdp=4". One size may be -1, which takes
        the devices that the others leave; `data` is -1 if it is not named and no other is -1. None
        is a mesh of one axis, `data`.

    Raises:
      OptionError: if the text is not such a list.
    """
    sizes: dict[str, int] = {}
    for pair in [] if text is None else text.split(","):
        name, separator, value = (part.strip() for part in pair.partition("="))
        if not separator or not name:
            raise OptionError(
                f"must be pairs of an axis and its size; got {text!r}: {_EXAMPLE}", option="mesh"
            )
        if name not in MESH_AXES:
            raise OptionError(
                f"the axes of mesh must be among {', '.join(MESH_AXES)}; got {name!r}: rename it"
            )
        if name in sizes:
            raise OptionError(
                f"must name an axis once; got {name} twice in {text!r}: leave one out",
                option="mesh",
            )
        sizes[name] = _parse_size(name, value)
    if list(sizes.values()).count(REMAINING) > 1:
        raise OptionError(
            f"one axis of mesh may be -1, the devices that the others leave; got {text!r}: give "
            "the sizes of the others"
        )
    if DATA not in sizes:
        sizes[DATA] = 1 if REMAINING in sizes.values() else REMAINING
    return {name: sizes.get(name, 1) for name in MESH_AXES}


def resolve_mesh(text: str | None, num_devices: int) -> dict[str, int]:
    """Returns the sizes of the axes of a mesh of all devices, in the order of `MESH_AXES`.

    Args:
      text: The option, see `parse_mesh`.
      num_devices: The number of devices of all processes.

    Raises:
      OptionError: if the mesh does not have that many devices.
    """
    sizes = parse_mesh(text)
    given = math.prod(size for size in sizes.values() if size != REMAINING)
    open_axis = next((name for name, size in sizes.items() if size == REMAINING), None)
    if open_axis is None and given != num_devices:
        raise OptionError(
            f"the sizes of mesh must multiply to the number of devices, {num_devices}; got "
            f"{text!r}, which makes {given}: change one, or leave data out, which then takes the "
            "devices that remain"
        )
    if open_axis is not None and num_devices % given:
        raise OptionError(
            f"the sizes of mesh must divide the number of devices, {num_devices}; got {text!r}, "
            f"which makes {given}: change one"
        )
    if open_axis is not None:
        sizes[open_axis] = num_devices // given
    return sizes


def check_mesh_fits_model(sizes: dict[str, int], config: Any) -> None:
    """Raises `OptionError` if the axes of a mesh cannot split a model.

    Args:
      sizes: The sizes of the axes.
      config: The model's configuration.
    """
    for name, count, what in (
        (TENSOR, config.num_attention_heads, "attention heads"),
        (TENSOR, config.intermediate_size, "units of the feed-forward layers"),
        (FSDP, config.hidden_size, "units of the hidden states"),
    ):
        if count % sizes.get(name, 1):
            raise OptionError(
                f"the axis {name} of mesh must divide the model's {count:,} {what}; got "
                f"{name}={sizes[name]}: choose a divisor of {count:,}"
            )


def _parse_size(name: str, value: str) -> int:
    try:
        size = int(value)
    except ValueError:
        size = 0
    if size < 1 and size != REMAINING:
        raise OptionError(
            "the size of an axis of mesh must be a whole number of at least 1, or -1 for the "
            f"devices that the others leave; got {name}={value}: change it"
        )
    return size
