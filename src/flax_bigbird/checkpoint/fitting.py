"""Holds the leaves of a file against those of a model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax_bigbird.checkpoint import names
from flax_bigbird.checkpoint.names import Flat, Path

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Fit:
    """What a file has for a model: leaves that fit, and the names of the rest."""

    params: Flat
    missing: list[Path]
    unexpected: list[Path]
    mismatched: dict[Path, tuple[Shape, Shape]]  # the file's shape, the model's


def fit(flat: Flat, expected: Mapping[Path, Any]) -> Fit:
    """Sorts a file's leaves by those of the model, which have a `shape`.

    A pooler that the model lacks is no surprise: HF-Torch writes one for tasks that never read it.
    """
    params: Flat = {}
    unexpected: list[Path] = []
    mismatched: dict[Path, tuple[Shape, Shape]] = {}
    for path, leaf in flat.items():
        if path not in expected:
            if not names.is_droppable(path):
                unexpected.append(path)
        elif leaf.shape != tuple(expected[path].shape):
            mismatched[path] = (leaf.shape, tuple(expected[path].shape))
        else:
            params[path] = leaf
    missing = sorted(path for path in expected if path not in flat)
    return Fit(params, missing, sorted(unexpected), dict(sorted(mismatched.items())))


def listing(paths: list[Path], most: int = 12) -> str:
    """Names for a message, the first `most` of them."""
    shown = ", ".join("/".join(path) for path in paths[:most])
    return shown + (f" and {len(paths) - most} more" if len(paths) > most else "")
