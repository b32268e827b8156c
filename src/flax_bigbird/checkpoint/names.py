"""Converts parameter names between PyTorch's dotted names and the paths of a linen tree.

The conversion is a table from the last level of a linen path to PyTorch's name for it and a change
of axes. All other levels stay and are joined by dots:

    linen            PyTorch     array
    x/kernel         x.weight    dense layer: [in, out] becomes [out, in]; convolution:
                                 [*window, in, out] becomes [out, in, *window]
    x/embedding      x.weight    unchanged
    x/scale          x.weight    unchanged (LayerNorm)
    x/anything       x.anything  unchanged

The table knows nothing about BigBird, so a user's own modules are converted too. In the other
direction `weight` is ambiguous, and the tree that the tensors are loaded into decides. Specific to
BigBird are `OLD_TORCH_NAMES`, `resolve_decoder` and `is_optional_pooler`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from flax_bigbird.checkpoint.errors import CheckpointError

Path = tuple[str, ...]
Flat = dict[Path, np.ndarray]


class Transform(NamedTuple):
    """A change of an array's axes, and its inverse."""

    to_torch: Callable[[np.ndarray], np.ndarray]
    to_linen: Callable[[np.ndarray], np.ndarray]


def _kernel_to_weight(kernel: np.ndarray) -> np.ndarray:
    """Returns a kernel `[*window, in, out]` as `[out, in, *window]`; vectors are unchanged."""
    if kernel.ndim < 2:
        return kernel
    return kernel.transpose(kernel.ndim - 1, kernel.ndim - 2, *range(kernel.ndim - 2))


def _weight_to_kernel(weight: np.ndarray) -> np.ndarray:
    """Returns a weight `[out, in, *window]` as `[*window, in, out]`; vectors are unchanged."""
    if weight.ndim < 2:
        return weight
    return weight.transpose(*range(2, weight.ndim), 1, 0)


def _unchanged(array: np.ndarray) -> np.ndarray:
    return array


UNCHANGED = Transform(_unchanged, _unchanged)
TRANSPOSED = Transform(_kernel_to_weight, _weight_to_kernel)

# The last level of a linen path -> (PyTorch's name for it, transform).
LINEN_TO_TORCH: dict[str, tuple[str, Transform]] = {
    r"kernel": ("weight", TRANSPOSED),
    r"embedding|scale": ("weight", UNCHANGED),
}

# Names in older PyTorch files -> current names. None drops a buffer, which is not a parameter.
OLD_TORCH_NAMES: dict[str, str | None] = {
    r"(LayerNorm|layer_norm)\.gamma$": r"\1.weight",
    r"(LayerNorm|layer_norm)\.beta$": r"\1.bias",
    r"(^|\.)embeddings\.(position_ids|token_type_ids)$": None,
}

_DECODER = re.compile(r"^(?P<head>(?:.*\.)?cls\.predictions\.)decoder\.(?P<leaf>weight|bias)$")
_DECODER_KERNEL = ("cls", "predictions", "decoder", "kernel")
_HEAD_BIAS = ("cls", "predictions", "bias")
_WORD_EMBEDDINGS = re.compile(r"(^|\.)word_embeddings\.weight$")
_POOLER = re.compile(r"^(bert/)?pooler/(kernel|bias)$")


def _conversion(path: Path) -> tuple[str, Transform]:
    """Returns PyTorch's name for the last level of a linen path, and the transform."""
    for pattern, conversion in LINEN_TO_TORCH.items():
        if re.fullmatch(pattern, path[-1]):
            return conversion
    return path[-1], UNCHANGED


def torch_name(path: Path) -> str:
    """Returns the PyTorch name of a linen path."""
    return ".".join((*path[:-1], _conversion(path)[0]))


def uses_linen_names(names: Iterable[str], metadata: Mapping[str, str] | None) -> bool:
    """Returns whether dotted names are linen's rather than PyTorch's.

    The file's metadata decides if it states a format, and the names themselves otherwise.
    """
    stated = (metadata or {}).get("format")
    if stated in ("flax", "pt"):
        return stated == "flax"
    last = [name.rsplit(".", 1)[-1] for name in names]
    linen = sum(word in ("kernel", "embedding", "scale") for word in last)
    return linen > last.count("weight")


def from_torch(
    tensors: Mapping[str, np.ndarray], expected: Iterable[Path], prefix: str = "bert"
) -> Flat:
    """Converts PyTorch-named tensors to a flat linen tree; the inverse of `to_torch`.

    Args:
      tensors: the tensors by dotted name.
      expected: the paths of the tree that the tensors are loaded into.
      prefix: the name of the backbone in a task's tree. It is added to a name or removed from it
        if that gives an expected name.

    Returns:
      Every tensor under its expected path, or under a likely path if it is not expected. Buffers
      and copies of tied weights are left out.

    Raises:
      CheckpointError: if several tensors belong to one path; the message lists all such paths.
    """
    expected = set(expected)
    targets = {torch_name(path): path for path in expected}
    untied = any(path[-4:] == _DECODER_KERNEL for path in expected)
    converted = []
    for name, tensor in resolve_decoder(tensors, untied).items():
        current = name if _expected_name(name, targets, prefix) else _current_name(name)
        if current is None:
            continue
        known = _expected_name(current, targets, prefix)
        path = targets[known] if known else _likely_path(current, tensor)
        converted.append((name, path, _conversion(path)[1].to_linen(tensor)))
    return _to_tree(converted)


def from_linen(leaves: Mapping[Path, np.ndarray], expected: Iterable[Path], prefix: str) -> Flat:
    """Converts linen paths to the expected ones: the backbone's prefix is added or removed."""
    targets = {"/".join(path): path for path in expected}
    converted = []
    for path, leaf in leaves.items():
        name = "/".join(path)
        known = _expected_name(name, targets, prefix, "/")
        converted.append((name, targets[known] if known else path, leaf))
    return _to_tree(converted)


def from_dotted(
    tensors: Mapping[str, np.ndarray], expected: Iterable[Path], prefix: str = "bert"
) -> Flat:
    """Converts linen names that are joined by dots to a flat linen tree."""
    targets = {".".join(path): path for path in expected}
    converted = []
    for name, leaf in tensors.items():
        known = _expected_name(name, targets, prefix)
        converted.append((name, targets[known] if known else tuple(name.split(".")), leaf))
    return _to_tree(converted)


def to_torch(flat: Mapping[Path, np.ndarray]) -> dict[str, np.ndarray]:
    """Converts a flat linen tree to contiguous, PyTorch-named tensors.

    If the embeddings are untied, the bias of the language-modeling head is written under both of
    its names.

    Raises:
      ValueError: if two paths have the same PyTorch name; the message lists all of them.
    """
    tensors: dict[str, np.ndarray] = {}
    origins: dict[str, list[Path]] = {}
    untied = any(path[-4:] == _DECODER_KERNEL for path in flat)

    def add(name: str, path: Path, tensor: Any) -> None:
        origins.setdefault(name, []).append(path)
        tensors[name] = np.asarray(tensor, order="C")

    for path, leaf in flat.items():
        add(torch_name(path), path, _conversion(path)[1].to_torch(leaf))
        if untied and path[-3:] == _HEAD_BIAS:
            add(".".join((*path[:-1], "decoder", "bias")), path, leaf)
    shared = [
        f"{name} ({' and '.join('/'.join(p) for p in paths)})"
        for name, paths in origins.items()
        if len(paths) > 1
    ]
    if shared:
        raise ValueError(
            f"parameters must differ in their PyTorch names; these do not: {', '.join(shared)}. "
            "Rename one of each, or save with safe_serialization=False"
        )
    return tensors


def resolve_decoder(tensors: Mapping[str, np.ndarray], untied: bool) -> dict[str, np.ndarray]:
    """Gives each weight of the language-modeling head one name; files have it under several.

    If the embeddings are tied, `decoder.weight` and `decoder.bias` are copies of the word
    embeddings and of `cls.predictions.bias`. They are dropped, unless they differ from what they
    copy. If the embeddings are untied, the logits are computed with `decoder.bias`, so it becomes
    the bias of the head, and the unused `cls.predictions.bias` is dropped.
    """
    resolved = dict(tensors)
    tables = [tensor for name, tensor in tensors.items() if _WORD_EMBEDDINGS.search(name)]
    for name, tensor in tensors.items():
        match = _DECODER.match(name)
        if match is None:
            continue
        bias = match["head"] + "bias"
        if match["leaf"] == "weight":
            if not untied and any(_equal(tensor, table) for table in tables):
                del resolved[name]
        elif untied or bias not in tensors:
            resolved[bias] = resolved.pop(name)
        elif _equal(tensor, tensors[bias]):
            del resolved[name]
    return resolved


def is_optional_pooler(path: Path) -> bool:
    """Returns whether a path is a pooler's, which HF-Torch also saves for tasks without one."""
    return bool(_POOLER.match("/".join(path)))


def _expected_name(
    name: str, targets: Mapping[str, Path], prefix: str, separator: str = "."
) -> str | None:
    """Returns the variant of a name, with or without the prefix, that is expected, if any is."""
    start = prefix + separator
    for variant in (name, name.removeprefix(start), start + name):
        if variant in targets:
            return variant
    return None


def _current_name(name: str) -> str | None:
    """Returns the current form of a PyTorch name, or None for a buffer."""
    for pattern, replacement in OLD_TORCH_NAMES.items():
        if re.search(pattern, name):
            return None if replacement is None else re.sub(pattern, replacement, name)
    return name


def _likely_path(name: str, tensor: np.ndarray) -> Path:
    """Returns the likely linen path of a tensor that the model does not expect, for a message."""
    *levels, last = name.split(".")
    if last == "weight":
        is_table = bool(levels) and levels[-1].endswith("embeddings")
        last = "scale" if tensor.ndim == 1 else "embedding" if is_table else "kernel"
    return (*levels, last)


def _to_tree(converted: Iterable[tuple[str, Path, np.ndarray]]) -> Flat:
    """Builds a tree from `(name in the file, path, array)`; every path must occur once."""
    flat: Flat = {}
    origins: dict[Path, list[str]] = {}
    for name, path, leaf in converted:
        flat[path] = leaf
        origins.setdefault(path, []).append(name)
    repeated = [
        f"{'/'.join(path)} ({' and '.join(names)})"
        for path, names in origins.items()
        if len(names) > 1
    ]
    if repeated:
        raise CheckpointError(
            "a checkpoint must hold every parameter once; several tensors are for "
            f"{', '.join(sorted(repeated))}: remove all but one of each"
        )
    return flat


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
