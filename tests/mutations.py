"""Random changes of files, as damage, wrong tools and attackers make them; a seed repeats them."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

HUGE = "1" + 400 * "0"
# Written into the file as they are; `json.dumps` would not write them.
RAW = ("NaN", "Infinity", "-Infinity", "1e999", HUGE, "9" * 5000, "[" * 100_000, "{", "")
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**63,
    10**12,
    0.5,
    -1.5,
    1e308,
    "",
    "x",
    "1",
    "a" * 5000,
    "\ud800",
    [],
    [1],
    ["x"],
    [[]],
    {},
    {"a": 1},
    {"0": "x"},
    {"-1": None},
    {"x": {"y": []}},
)


def attempt(function: Callable[..., Any], *arguments: Any) -> tuple[Any, BaseException | None]:
    """Returns the result of a call and None, or None and the exception that it raised."""
    try:
        return function(*arguments), None
    except BaseException as error:
        return None, error


def nested(depth: int, kind: str) -> str:
    """Returns the text of lists or objects inside each other."""
    start, end = {"list": ("[", "]"), "object": ('{"a": ', "}")}[kind]
    return depth * start + "1" + depth * end


def paths(content: Any, prefix: tuple[Any, ...] = (), limit: int = 400) -> list[tuple[Any, ...]]:
    """Returns the paths of all values in nested lists and objects, some of a long list."""
    found = [prefix] if prefix else []
    items: list[tuple[Any, Any]] = []
    if isinstance(content, dict):
        items = list(content.items())
    elif isinstance(content, list):
        items = list(enumerate(content))
        items = items[:: max(1, len(items) // 20)]
    for key, value in items:
        found += paths(value, (*prefix, key), limit)
        if len(found) > limit:
            break
    return found


def mutate_json(content: Any, generator: random.Random) -> tuple[str, str]:
    """Changes one value, key or container of a JSON document.

    Returns:
      The text of the file, and what was changed.
    """
    changed = copy.deepcopy(content)
    *parents, last = generator.choice(paths(content))
    target = changed
    for key in parents:
        target = target[key]
    kind = generator.choice(["value", "value", "value", "delete", "rename", "nest", "raw", "type"])
    name = "/".join(map(str, (*parents, last)))
    if kind == "delete":
        del target[last]
    elif kind == "rename" and isinstance(target, dict):
        target[generator.choice(["to_dict", "__class__", "x", str(last).upper(), ""])] = target.pop(
            last
        )
    elif kind in ("nest", "raw"):
        target[last] = "@raw@"
        depth = generator.choice([3, 60, 900])
        raw = nested(depth, generator.choice(["list", "object"]))
        raw = raw if kind == "nest" else generator.choice(RAW)
        return json.dumps(changed).replace('"@raw@"', raw), f"{kind} {name}"
    elif kind == "type":
        value = target[last]
        target[last] = generator.choice([str(value), [value], {"a": value}, bool(value)])
    else:
        target[last] = generator.choice(VALUES)
    return json.dumps(changed), f"{kind} {name}"


def mutate_bytes(content: bytes, generator: random.Random) -> tuple[bytes, str]:
    """Flips, inserts, removes, repeats or cuts bytes, more of them near the start."""
    end = len(content)
    near_start = generator.random() < 0.7
    position = generator.randrange(min(end, 600) if near_start else end)
    kind = generator.choice(
        ["flip", "random", "insert", "remove", "cut", "repeat", "zero", "empty"]
    )
    name = f"{kind} at {position}"
    size = generator.choice([1, 2, 8, 100])
    before, part, after = (
        content[:position],
        content[position : position + size],
        content[position + size :],
    )
    if kind == "flip":
        flipped = content[position] ^ (1 << generator.randrange(8))
        return before + bytes([flipped]) + content[position + 1 :], name
    replacement = {
        "random": generator.randbytes(len(part)),
        "insert": generator.randbytes(size) + part,
        "remove": b"",
        "repeat": part + part,
        "zero": bytes(len(part)),
    }
    if kind in replacement:
        return before + replacement[kind] + after, name
    return (before if kind == "cut" else b""), name
