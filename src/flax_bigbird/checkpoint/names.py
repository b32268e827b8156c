"""Parameter names: PyTorch's dotted ones to the leaves of a linen tree, and back.

The rule is general, so that a user's own module follows it too: dots become levels, and the last
word is renamed by what the leaf is.

    PyTorch                       linen                      leaf
    x.weight   [out, in]          x/kernel     [in, out]     a dense layer: transposed
    x.weight   [rows, width]      x/embedding  [rows, width]
    x.weight   [width]            x/scale      [width]       LayerNorm; `gamma` in old files
    x.bias                        x/bias                     `beta` in old files

What is special to BigBird: the decoder of the language-model head, which files hold as copies of
the word table and of `cls.predictions.bias`; poolers and buffers that no task reads.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np

Path = tuple[str, ...]
Flat = dict[Path, np.ndarray]

_LAST_WORDS = {
    "weight": ("kernel", "embedding", "scale"),
    "gamma": ("scale",),
    "beta": ("bias",),
}
_BIAS = ("cls", "predictions", "bias")
_DECODER_KERNEL = ("cls", "predictions", "decoder", "kernel")
_BUFFERS = re.compile(r"(^|\.)embeddings\.(position_ids|token_type_ids)$")
_DECODER = re.compile(r"(^|\.)cls\.predictions\.decoder\.(weight|bias)$")
_POOLER = re.compile(r"^(bert\.)?pooler\.(weight|bias|kernel)$")


def is_flax_named(names: Iterable[str], metadata: Mapping[str, str] | None) -> bool:
    """Whether dotted names are linen's: by the file's metadata, then by the names themselves."""
    stated = (metadata or {}).get("format")
    if stated in ("flax", "pt"):
        return stated == "flax"
    return any(name.rsplit(".", 1)[-1] in ("kernel", "embedding", "scale") for name in names)


def from_pytorch(tensors: Mapping[str, np.ndarray], expected: Mapping[Path, object]) -> Flat:
    """A linen tree, flat, from PyTorch-named tensors.

    Args:
      tensors: by dotted name.
      expected: the paths of the tree they are meant for, which tell a kernel from an embedding.

    Returns:
      Every tensor under its path; `fit` then says which of them the model has. Copies of tied
      weights, buffers, and a pooler the model does not have are dropped.
    """
    untied = any(path[-4:] == _DECODER_KERNEL for path in expected)
    flat: Flat = {}
    for name, tensor in tensors.items():
        if _BUFFERS.search(name):
            continue
        if _DECODER.search(name):
            # The decoder's bias is the head's; its weight is a copy of the word table when tied.
            if name.endswith("bias") and (untied or _sibling(name, "bias") not in tensors):
                flat[(*name.split(".")[:-2], "bias")] = tensor
            elif name.endswith("weight") and untied:
                flat[(*name.split(".")[:-1], "kernel")] = tensor.T
            continue
        if untied and _sibling_of_bias(name) in tensors:
            continue
        path = _linen_path(name, tensor, expected)
        flat[path] = tensor.T if path[-1] == "kernel" and tensor.ndim == 2 else tensor
    return flat


def _sibling(decoder_name: str, word: str) -> str:
    return ".".join([*decoder_name.split(".")[:-2], word])


def _sibling_of_bias(name: str) -> str:
    """`cls.predictions.decoder.bias` for `cls.predictions.bias`, which it overrides when untied."""
    if not name.endswith("cls.predictions.bias"):
        return ""
    return name.removesuffix("bias") + "decoder.bias"


def _linen_path(name: str, tensor: np.ndarray, expected: Mapping[Path, object]) -> Path:
    *levels, last = name.split(".")
    words = _LAST_WORDS.get(last, (last,))
    for word in words:
        path = (*levels, word)
        if place(path, expected) in expected:
            return path
    if last == "weight":
        table = bool(levels) and levels[-1].endswith("embeddings")
        return (*levels, "scale" if tensor.ndim == 1 else "embedding" if table else "kernel")
    return (*levels, words[0])


def place(path: Path, expected: Mapping[Path, object], prefix: str = "bert") -> Path:
    """The path in the expected tree, the backbone's prefix added or dropped where that fits."""
    if path in expected:
        return path
    if path[:1] == (prefix,) and path[1:] in expected:
        return path[1:]
    if (prefix, *path) in expected:
        return (prefix, *path)
    return path


def to_pytorch(flat: Mapping[Path, np.ndarray]) -> dict[str, np.ndarray]:
    """PyTorch-named tensors from a flat linen tree; the inverse of `from_pytorch`.

    With untied embeddings the head's bias is written under both of its names.
    """
    out: dict[str, np.ndarray] = {}
    untied = any(path[-4:] == _DECODER_KERNEL for path in flat)
    for path, leaf in flat.items():
        *levels, last = path
        word = "weight" if last in ("kernel", "scale", "embedding") else last
        transposed = last == "kernel" and leaf.ndim == 2
        out[".".join((*levels, word))] = np.ascontiguousarray(leaf.T) if transposed else leaf
        if untied and path[-3:] == _BIAS:
            out[".".join((*levels, "decoder", "bias"))] = leaf.copy()
    return out


def is_droppable(path: Path) -> bool:
    """A pooler, which HF-Torch keeps for tasks that never read it."""
    return bool(_POOLER.match(".".join(path)))
