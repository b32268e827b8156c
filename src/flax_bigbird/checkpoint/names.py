"""Parameter names: PyTorch's dotted ones to the leaves of a linen tree, and back.

The rule is general, so that a user's own module follows it too: levels are joined by dots, and the
last word and the axes change by a table.

    linen            PyTorch     leaf
    x/kernel         x.weight    a dense layer: [in, out] to [out, in]; a convolution:
                                 [*window, in, out] to [out, in, *window]
    x/embedding      x.weight    a table, unchanged
    x/scale          x.weight    LayerNorm, unchanged
    x/anything       x.anything  unchanged

Back, `weight` says too little; the tree that the tensors are meant for decides. What is special to
BigBird is `settle_decoder`, `OLD_NAMES` and `is_optional_pooler`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from flax_bigbird.checkpoint.errors import CheckpointError

Path = tuple[str, ...]
Flat = dict[Path, np.ndarray]


def _kernel_to_weight(leaf: np.ndarray) -> np.ndarray:
    return leaf.transpose(leaf.ndim - 1, leaf.ndim - 2, *range(leaf.ndim - 2))


def _weight_to_kernel(leaf: np.ndarray) -> np.ndarray:
    return leaf.transpose(*range(2, leaf.ndim), 1, 0)


class _Rule(NamedTuple):
    """A last word of a linen path, PyTorch's word for it, and what happens to the axes."""

    word: re.Pattern[str]
    torch_word: str
    to_torch: Callable[[np.ndarray], np.ndarray] | None = None
    to_linen: Callable[[np.ndarray], np.ndarray] | None = None


RULES = (
    _Rule(re.compile("kernel"), "weight", _kernel_to_weight, _weight_to_kernel),
    _Rule(re.compile("embedding|scale"), "weight"),
)

# Names of older PyTorch files to today's; None drops the tensor, a buffer that is no parameter.
OLD_NAMES: tuple[tuple[re.Pattern[str], str | None], ...] = (
    (re.compile(r"(LayerNorm|layer_norm)\.gamma$"), r"\1.weight"),
    (re.compile(r"(LayerNorm|layer_norm)\.beta$"), r"\1.bias"),
    (re.compile(r"(^|\.)embeddings\.(position_ids|token_type_ids)$"), None),
)

_DECODER = re.compile(r"^(?P<head>(?:.*\.)?cls\.predictions\.)decoder\.(?P<leaf>weight|bias)$")
_DECODER_KERNEL = ("cls", "predictions", "decoder", "kernel")
_BIAS = ("cls", "predictions", "bias")
_TABLE = re.compile(r"(^|\.)word_embeddings\.weight$")
_POOLER = re.compile(r"^(bert/)?pooler/(kernel|bias)$")


def torch_name(path: Path) -> str:
    """The PyTorch name of a linen leaf."""
    rule = _rule(path)
    return ".".join((*path[:-1], rule.torch_word if rule else path[-1]))


def _rule(path: Path) -> _Rule | None:
    return next((rule for rule in RULES if rule.word.fullmatch(path[-1])), None)


def is_flax_named(names: Iterable[str], metadata: Mapping[str, str] | None) -> bool:
    """Whether dotted names are linen's: by the file's metadata, then by the names themselves."""
    stated = (metadata or {}).get("format")
    if stated in ("flax", "pt"):
        return stated == "flax"
    last = [name.rsplit(".", 1)[-1] for name in names]
    linen = sum(word in ("kernel", "embedding", "scale") for word in last)
    return linen > last.count("weight")


def from_torch(
    tensors: Mapping[str, np.ndarray], expected: Iterable[Path], prefix: str = "bert"
) -> Flat:
    """A flat linen tree from PyTorch-named tensors; the inverse of `to_torch`.

    Args:
      tensors: by dotted name.
      expected: the paths of the tree they are meant for.
      prefix: of the backbone in that tree's task classes, added or dropped where that fits.

    Returns:
      Every tensor, under the expected path it is for, or a guessed path when it is for none.
      Buffers and copies of tied weights are left out.

    Raises:
      CheckpointError: several tensors are for one leaf (all such leaves are listed).
    """
    expected = set(expected)
    targets = {torch_name(path): path for path in expected}
    untied = any(path[-4:] == _DECODER_KERNEL for path in expected)
    pairs = []
    for name, tensor in settle_decoder(tensors, untied).items():
        current = name if _variant(name, targets, prefix) else _today(name)
        if current is None:
            continue
        known = _variant(current, targets, prefix)
        path = targets[known] if known else _guess(current, tensor)
        rule = _rule(path)
        # The rule needs two axes; a leaf of fewer is left as it is, both ways.
        turn = rule.to_linen if rule and tensor.ndim >= 2 else None
        pairs.append((name, path, turn(tensor) if turn else tensor))
    return _collect(pairs)


def from_linen(leaves: Mapping[Path, np.ndarray], expected: Iterable[Path], prefix: str) -> Flat:
    """A flat linen tree from linen-named leaves: the backbone's prefix added or dropped."""
    targets = {"/".join(path): path for path in expected}
    pairs = []
    for path, leaf in leaves.items():
        name = "/".join(path)
        known = _variant(name, targets, prefix, "/")
        pairs.append((name, targets[known] if known else path, leaf))
    return _collect(pairs)


def from_dotted(
    tensors: Mapping[str, np.ndarray], expected: Iterable[Path], prefix: str = "bert"
) -> Flat:
    """A flat linen tree from linen names joined by dots."""
    targets = {".".join(path): path for path in expected}
    pairs = []
    for name, leaf in tensors.items():
        known = _variant(name, targets, prefix)
        pairs.append((name, targets[known] if known else tuple(name.split(".")), leaf))
    return _collect(pairs)


def _variant(name: str, targets: Mapping[str, Path], prefix: str, dot: str = ".") -> str | None:
    """The name among the targets', as it is or with the prefix added or dropped."""
    start = prefix + dot
    for variant in (name, name.removeprefix(start), start + name):
        if variant in targets:
            return variant
    return None


def _today(name: str) -> str | None:
    for pattern, replacement in OLD_NAMES:
        if pattern.search(name):
            return None if replacement is None else pattern.sub(replacement, name)
    return name


def _guess(name: str, tensor: np.ndarray) -> Path:
    """The likely path of a tensor that the model has no place for, to name it in a message."""
    *levels, last = name.split(".")
    if last == "weight":
        table = bool(levels) and levels[-1].endswith("embeddings")
        last = "scale" if tensor.ndim == 1 else "embedding" if table else "kernel"
    return (*levels, last)


def _collect(pairs: Iterable[tuple[str, Path, np.ndarray]]) -> Flat:
    flat: Flat = {}
    sources: dict[Path, list[str]] = {}
    for name, path, leaf in pairs:
        flat[path] = leaf
        sources.setdefault(path, []).append(name)
    double = [f"{'/'.join(p)} ({' and '.join(names)})" for p, names in sources.items() if names[1:]]
    if double:
        raise CheckpointError(
            "every leaf must be in a checkpoint once; several tensors are for "
            f"{', '.join(sorted(double))}: remove all but one of each"
        )
    return flat


def settle_decoder(tensors: Mapping[str, np.ndarray], untied: bool) -> dict[str, np.ndarray]:
    """One name for the language-model head's weights, which files hold under several.

    Tied, `decoder.{weight,bias}` are copies of the word table and of `cls.predictions.bias`; they
    are dropped, unless they differ from what they should copy. Untied, the logits use `decoder.*`,
    so its bias is the head's, and the unread `cls.predictions.bias` is dropped.
    """
    out = dict(tensors)
    tables = [tensor for name, tensor in tensors.items() if _TABLE.search(name)]
    for name, tensor in tensors.items():
        match = _DECODER.match(name)
        if match is None:
            continue
        bias = match["head"] + "bias"
        if match["leaf"] == "weight":
            if not untied and any(_equal(tensor, table) for table in tables):
                del out[name]
        elif untied or bias not in tensors:
            out[bias] = out.pop(name)
        elif _equal(tensor, tensors[bias]):
            del out[name]
    return out


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)


def to_torch(flat: Mapping[Path, np.ndarray]) -> dict[str, np.ndarray]:
    """PyTorch-named tensors from a flat linen tree, contiguous.

    With untied embeddings the head's bias is written under both of its names.

    Raises:
      ValueError: two leaves have one PyTorch name (all are listed).
    """
    out: dict[str, np.ndarray] = {}
    sources: dict[str, list[Path]] = {}
    untied = any(path[-4:] == _DECODER_KERNEL for path in flat)

    def add(name: str, path: Path, leaf: Any) -> None:
        sources.setdefault(name, []).append(path)
        out[name] = np.asarray(leaf, order="C")

    for path, leaf in flat.items():
        rule = _rule(path)
        turn = rule.to_torch if rule and leaf.ndim >= 2 else None
        add(torch_name(path), path, turn(leaf) if turn else leaf)
        if untied and path[-3:] == _BIAS:
            add(".".join((*path[:-1], "decoder", "bias")), path, leaf)
    shared = [
        f"{name} ({' and '.join('/'.join(p) for p in paths)})"
        for name, paths in sources.items()
        if len(paths) > 1
    ]
    if shared:
        raise ValueError(
            f"leaves must differ in their PyTorch names; these do not: {', '.join(shared)}. "
            "Rename one of each, or save with safe_serialization=False"
        )
    return out


def is_optional_pooler(path: Path) -> bool:
    """A pooler, which HF-Torch keeps for tasks that never read it."""
    return bool(_POOLER.match("/".join(path)))
