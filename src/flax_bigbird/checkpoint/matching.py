"""Compares the parameters of a checkpoint with those that a model expects."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax_bigbird.checkpoint import names
from flax_bigbird.checkpoint.names import Flat, Path

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class MatchedParams:
    """The parameters of a checkpoint that fit a model, and the names of those that do not.

    Attributes:
      params: the parameters whose name and shape the model expects, by path.
      missing: the paths that the model expects and the checkpoint lacks.
      unexpected: the paths that the checkpoint has and the model does not expect.
      mismatched: the paths whose shapes differ, with the checkpoint's shape and the model's.
    """

    params: Flat
    missing: list[Path]
    unexpected: list[Path]
    mismatched: dict[Path, tuple[Shape, Shape]]


def match_params(flat: Flat, expected: Mapping[Path, Any]) -> MatchedParams:
    """Sorts the parameters of a checkpoint by whether a model expects them.

    A pooler that the model does not have is dropped without being listed: PyTorch's
    `transformers` writes one for tasks that never use it.

    Args:
      flat: the checkpoint's arrays by path.
      expected: the model's parameters by path; only their `shape` is used.
    """
    params: Flat = {}
    unexpected: list[Path] = []
    mismatched: dict[Path, tuple[Shape, Shape]] = {}
    for path, leaf in flat.items():
        if path not in expected:
            if not names.is_optional_pooler(path):
                unexpected.append(path)
        elif leaf.shape != tuple(expected[path].shape):
            mismatched[path] = (leaf.shape, tuple(expected[path].shape))
        else:
            params[path] = leaf
    missing = sorted(path for path in expected if path not in flat)
    return MatchedParams(params, missing, sorted(unexpected), dict(sorted(mismatched.items())))


def format_paths(paths: list[Path], max_paths: int = 12) -> str:
    """Returns the first `max_paths` paths for a message, and how many more there are."""
    shown = ", ".join("/".join(path) for path in paths[:max_paths])
    return shown + (f" and {len(paths) - max_paths} more" if len(paths) > max_paths else "")
