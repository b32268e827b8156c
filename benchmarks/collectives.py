"""Reads from a compiled program what its devices compute and send to each other."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import numpy as np

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_BYTES |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}
_COMMENT = re.compile(r"/\*.*?\*/")
_COMPUTATION = re.compile(r"^(ENTRY )?%?(\S+) \(.*\{$")
_RESULT = re.compile(r"^(?:ROOT )?%?(?P<name>\S+) = (?P<shape>\([^=]*?\)|\S+) ")
_OPERATION = re.compile(
    rf"= (?P<shape>\([^=]*?\)|\S+) (?P<name>{'|'.join(COLLECTIVES)})(?:-start)?\("
)
_DOT = re.compile(
    r"= (?P<shape>\S+) dot\((?P<first>[^,]*?)%?(?P<name>[\w.-]+), .*"
    r"lhs_contracting_dims=\{(?P<axes>[0-9,]*)\}"
)
_ARRAY = re.compile(r"\b([a-z]+[0-9]*)\[([0-9,]*)\]")
_CALLED = re.compile(r"(body|to_apply|calls|branch_computations)=(\{[^}]*\}|%?[\w.-]+)")
_TRIPS = re.compile(r'known_trip_count.{0,5}\{"?n"?:"?(\d+)')
_GROUPS = re.compile(r"(?:replica_groups|source_target_pairs)=\{\{([0-9,]+)\}")
_GRID = r"\[([0-9,]+)\](?:T\(([0-9,]+)\))?"
_GROUP_GRID = re.compile(rf"replica_groups=\[([0-9,]+)\]<={_GRID}")
_GROUP_MESH = re.compile(
    rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\({_GRID}\))? \{{([^}}]*)\}}"
)


def collective_bytes(text: str) -> dict[str, int]:
    """Returns the bytes that each kind of collective of a program leaves on a device.

    What a loop sends counts as often as the loop runs, or once if that is not known.

    Args:
      text: The compiled program, from `compiled.as_text()`.
    """

    def count(line: str, shapes: Mapping[str, str]) -> Mapping[str, float]:
        operation = _OPERATION.search(line)
        return {operation["name"]: _array_bytes(operation["shape"])} if operation else {}

    return {kind: int(size) for kind, size in _sum_over_program(text, count).items() if size}


def received_bytes(text: str, sizes: Mapping[str, int]) -> dict[str, float]:
    """Returns the bytes that a device receives along the axes of its mesh.

    Rings are assumed: a sum over n devices moves twice (n - 1)/n of the array, and all other
    collectives move every byte once. Loops count as in `collective_bytes`.

    Args:
      text: The compiled program.
      sizes: The sizes of the axes of the mesh, whose devices are those of JAX in their order.

    Returns:
      The bytes by axis; axes that one collective joins are joined by "+".
    """

    def count(line: str, shapes: Mapping[str, str]) -> Mapping[str, float]:
        operation = _OPERATION.search(line)
        if not operation:
            return {}
        group, size = _first_group(line, sizes), _array_bytes(operation["shape"])
        others = len(group) - 1
        factor = {
            "all-reduce": 2 * others / len(group),
            "reduce-scatter": others,
            "collective-permute": 1,
        }.get(operation["name"], others / len(group))
        return {_joined_axes(group, sizes): factor * size}

    return {axes: size for axes, size in _sum_over_program(text, count).items() if size}


def matmul_flops(text: str) -> float:
    """Returns the floating-point operations of a device's matrix products, 2 for each term.

    Args:
      text: The compiled program. Loops count as in `collective_bytes`.
    """

    def count(line: str, shapes: Mapping[str, str]) -> Mapping[str, float]:
        dot = _DOT.search(line)
        if not dot:
            return {}
        first = _axes(dot["first"]) or _axes(shapes[dot["name"]])
        terms = math.prod(first[int(axis)] for axis in dot["axes"].split(",") if axis)
        return {"flops": 2.0 * terms * math.prod(_axes(dot["shape"]))}

    return _sum_over_program(text, count)["flops"]


def _sum_over_program(
    text: str, count: Callable[[str, Mapping[str, str]], Mapping[str, float]]
) -> Counter[str]:
    """Returns the sums of what is counted in each operation, as often as it runs.

    Args:
      text: The compiled program.
      count: A function of the line of an operation, and of the shapes of the results in the same
        computation by their names.
    """
    own: dict[str, Counter[str]] = {}
    calls: dict[str, list[tuple[str, int]]] = {}
    shapes: dict[str, str] = {}
    name = entry = ""
    for line in text.splitlines():
        line = _COMMENT.sub("", line)
        start = _COMPUTATION.match(line)
        if start:
            name, shapes = start[2], {}
            entry = name if start[1] else entry
            own[name], calls[name] = Counter(), []
        if not name or start:
            continue
        if result := _RESULT.match(line.strip()):
            shapes[result["name"]] = result["shape"]
        own[name].update(count(line, shapes))
        for kind, names in _CALLED.findall(line):
            trips = _TRIPS.search(line) if kind == "body" else None
            repeats = int(trips[1]) if trips else 1
            calls[name] += [(n, repeats) for n in re.findall(r"[\w.-]+", names)]

    def total(name: str) -> Counter[str]:
        result = Counter(own.get(name, {}))
        for called, repeats in calls.get(name, []):
            for kind, size in total(called).items():
                result[kind] += repeats * size
        return result

    return total(entry)


def _first_group(line: str, sizes: Mapping[str, int]) -> list[int]:
    """Returns the devices of the first group of a collective; without groups, all are one."""
    if groups := _GROUPS.search(line):
        return _numbers(groups[1])
    if grid := _GROUP_GRID.search(line):
        return _device_grid(grid[2], grid[3]).reshape(_numbers(grid[1]))[0].tolist()
    if mesh := _GROUP_MESH.search(line):
        axes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        shape = [int(size) for size in axes.values()]
        devices = _device_grid(mesh[2] or str(math.prod(shape)), mesh[3]).reshape(shape)
        used = re.findall(r"'(\w+)'", mesh[4])
        return devices[tuple(slice(None) if name in used else 0 for name in axes)].ravel().tolist()
    assert "replica_groups={}" in line or "replica_groups" not in line, line
    return list(range(math.prod(sizes.values())))


def _device_grid(shape: str, order: str | None) -> np.ndarray:
    """Returns all devices in their order, as an array whose axes are then transposed."""
    devices = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return np.transpose(devices, _numbers(order)) if order else devices


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _joined_axes(group: list[int], sizes: Mapping[str, int]) -> str:
    """Returns the axes along which the devices of a group differ, joined by "+"."""
    places = np.stack(np.unravel_index(group, tuple(sizes.values())))
    differs = (places != places[:, :1]).any(1)
    return "+".join(itertools.compress(sizes, differs))


def _axes(shape: str) -> list[int]:
    array = _ARRAY.search(shape)
    return [int(size) for size in array[2].split(",") if size] if array else []


def largest_collective(text: str, kind: str) -> int:
    """Returns the bytes that the largest collective of a kind leaves on a device, or 0."""
    return max((size for name, size in _collectives(text) if name == kind), default=0)


def count_collectives(text: str) -> dict[str, list[int]]:
    """Returns the number of collectives of each kind, and the bytes that they leave on a device.

    Unlike in `collective_bytes`, what a loop sends counts once.
    """
    found: dict[str, list[int]] = {}
    for name, size in _collectives(text):
        entry = found.setdefault(name, [0, 0])
        entry[0] += 1
        entry[1] += size
    return found


def _collectives(text: str) -> Iterator[tuple[str, int]]:
    """Yields the kind and the bytes of each collective in the text of a program."""
    for line in text.splitlines():
        operation = _OPERATION.search(_COMMENT.sub("", line))
        if operation:
            yield operation["name"], _array_bytes(operation["shape"])


def _array_bytes(shape: str) -> int:
    return sum(
        math.prod(int(size) for size in sizes.split(",") if size) * _BYTES[dtype]
        for dtype, sizes in _ARRAY.findall(shape)
    )
