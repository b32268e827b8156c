"""Holds the leaves of a file against those of a model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax_bigbird.checkpoint import names
from flax_bigbird.checkpoint.names import Flat, Path


@dataclasses.dataclass(frozen=True)
class Fit:
    """What a file has for a model: leaves that fit, and the names of the rest."""

    params: Flat
    missing: list[Path]
    unexpected: list[Path]
    mismatched: dict[Path, tuple[tuple[int, ...], tuple[int, ...]]]  # file's shape, model's


def fit(flat: Flat, expected: Mapping[Path, Any], prefix: str = "bert") -> Fit:
    """Sorts a file's leaves by the model's; the backbone's prefix is added or dropped."""
    params: Flat = {}
    unexpected: list[Path] = []
    mismatched: dict[Path, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for path, leaf in flat.items():
        target = names.place(path, expected, prefix)
        if target not in expected:
            if not names.is_droppable(path):
                unexpected.append(path)
        elif leaf.shape != tuple(expected[target].shape):
            mismatched[target] = (leaf.shape, tuple(expected[target].shape))
        else:
            params[target] = leaf
    missing = [path for path in expected if path not in params and path not in mismatched]
    return Fit(params, missing, sorted(unexpected), mismatched)


def listing(paths: list[Path], most: int = 12) -> str:
    """Names for a message, the first `most` of them."""
    shown = ", ".join("/".join(path) for path in paths[:most])
    return shown + (f" and {len(paths) - most} more" if len(paths) > most else "")
