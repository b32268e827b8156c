"""Reads from a compiled program what its devices send to each other."""

import math
import re
from collections import Counter
from collections.abc import Iterator

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
_OPERATION = re.compile(
    rf"= (?P<shape>\([^=]*?\)|\S+) (?P<name>{'|'.join(COLLECTIVES)})(?:-start)?\("
)
_ARRAY = re.compile(r"\b([a-z]+[0-9]*)\[([0-9,]*)\]")
_CALLED = re.compile(r"(body|to_apply|calls|branch_computations)=(\{[^}]*\}|%?[\w.-]+)")
_TRIPS = re.compile(r'known_trip_count.{0,5}\{"?n"?:"?(\d+)')


def collective_bytes(text: str) -> dict[str, int]:
    """Returns the bytes that each kind of collective of a program leaves on a device.

    What a loop sends counts as often as the loop runs, or once if that is not known.

    Args:
      text: The compiled program, from `compiled.as_text()`.
    """
    own: dict[str, Counter[str]] = {}
    calls: dict[str, list[tuple[str, int]]] = {}
    name = entry = ""
    for line in text.splitlines():
        line = _COMMENT.sub("", line)
        start = _COMPUTATION.match(line)
        if start:
            name = start[2]
            entry = name if start[1] else entry
            own[name], calls[name] = Counter(), []
        if not name or start:
            continue
        operation = _OPERATION.search(line)
        if operation:
            own[name][operation["name"]] += _array_bytes(operation["shape"])
        for kind, names in _CALLED.findall(line):
            trips = _TRIPS.search(line) if kind == "body" else None
            repeats = int(trips[1]) if trips else 1
            calls[name] += [(n, repeats) for n in re.findall(r"[\w.-]+", names)]

    def total(name: str) -> Counter[str]:
        result = Counter(own.get(name, {}))
        for called, repeats in calls.get(name, []):
            for kind, count in total(called).items():
                result[kind] += repeats * count
        return result

    return {kind: count for kind, count in total(entry).items() if count}


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
