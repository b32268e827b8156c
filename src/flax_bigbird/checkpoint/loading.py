"""Loads the weights of a checkpoint from any of the file formats that checkpoints come in."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flax_bigbird._messages import pluralize
from flax_bigbird.checkpoint import names
from flax_bigbird.checkpoint.errors import CheckpointError
from flax_bigbird.checkpoint.hub import Source
from flax_bigbird.checkpoint.names import Flat
from flax_bigbird.checkpoint.torch_pickle import load_torch_pickle

# In order of preference; each file is preferred to its index of shards. The file that we write
# comes first, so that the last save into a folder wins. The other Flax formats follow. Pickles come
# last: a safer file beside them holds the same weights. `saving` relies on this order.
WEIGHT_FILES = (
    "model.safetensors",
    "flax_model.msgpack",
    "flax_model.safetensors",
    "pytorch_model.bin",
)

# The arrays of a file by name or path, and the file's metadata.
_Content = tuple[dict[Any, np.ndarray], Mapping[str, str]]


def load_weights(
    source: Source,
    expected: Iterable[names.Path],
    prefix: str = "bert",
    *,
    shapes_only: bool = False,
) -> tuple[Flat, Path]:
    """Loads the preferred weights of a source as a flat linen tree.

    Args:
      source: the folder or repository.
      expected: the parameter paths of the model that the weights are loaded into.
      prefix: the name of the backbone in a task's tree.
      shapes_only: whether to return zeros that take no memory, of the shapes and dtypes of the
        file. Of safetensors, the header alone is read; other formats have none.

    Returns:
      The arrays by path, in the dtypes of the file, and the path of the file or of its index.

    Raises:
      CheckpointError: if there are no weights, a file is broken, a shard is missing, or an index
        does not fit its shards.
    """
    for file in WEIGHT_FILES:
        path, index = source.get(file), None
        if path is None:
            path = index = source.get(f"{file}.index.json")
        if path is None:
            continue
        load, to_tree = _FORMATS[Path(file).suffix]
        if shapes_only and load is _load_safetensors:
            load = _load_safetensors_shapes
        content = load(path) if index is None else _load_shards(source, index, load)
        return to_tree(content, set(expected), prefix), path
    raise CheckpointError(
        f"a checkpoint must hold weights; {source} has none: looked for {', '.join(WEIGHT_FILES)} "
        f"and the .index.json of each{source.hint}"
    )


def load_file(path: Path) -> Flat:
    """Loads one weight file as a flat linen tree, under the names that the file has.

    Raises:
      CheckpointError: if the file is missing or broken, or of an unknown kind.
    """
    load, to_tree = _format(path)
    return to_tree(load(path), set(), "bert")


def load_arrays(path: Path) -> dict[Any, np.ndarray]:
    """Loads one weight file as arrays under the names that the file has, whatever they belong to.

    Raises:
      CheckpointError: if the file is missing or broken, or of an unknown kind.
    """
    load, _ = _format(path)
    return load(path)[0]


def _format(path: Path) -> Any:
    """Returns the entry of `_FORMATS` for a file."""
    if path.suffix not in _FORMATS:
        raise CheckpointError(
            f"a weight file ends in {', '.join(_FORMATS)}; got {path}: pass the path of such a file"
        )
    if not path.is_file():
        raise CheckpointError(f"{path} is no file: check the path")
    return _FORMATS[path.suffix]


def _load_shards(source: Source, index: Path, load: Callable[[Path], _Content]) -> _Content:
    """Loads all shards that an index lists, and checks that they hold the tensors it lists."""
    weight_map = _parse_index(index)
    shards = sorted(set(weight_map.values()))
    paths = {name: source.get(name) for name in shards}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        raise CheckpointError(
            f"every shard that {index} lists must be beside it; missing: {', '.join(missing)}"
            f"{source.hint}: copy or download them again"
        )
    leaves: dict[Any, np.ndarray] = {}
    metadata: dict[str, str] = {}
    not_held: list[str] = []
    for shard, path in paths.items():
        assert path is not None
        content, shard_metadata = load(path)
        metadata |= shard_metadata
        held = {"/".join(key) if isinstance(key, tuple) else key for key in content}
        listed = {name for name, file in weight_map.items() if file == shard}
        not_held += [f"{name} ({shard})" for name in sorted(listed - held)]
        leaves |= content
    if not_held:
        one, many = "tensor that its shard does not hold", "tensors that their shards do not hold"
        raise CheckpointError(
            f"the shards must hold what {index} lists; it lists "
            f"{pluralize(len(not_held), one, many)}: {', '.join(not_held[:8])}: index and shards "
            "come from different saves; download all of them again"
        )
    return leaves, metadata


def _parse_index(index: Path) -> dict[str, str]:
    """Returns the `weight_map` of an index: the shard of every tensor."""
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = set(weight_map.values())
        suffix = Path(index.name.removesuffix(".index.json")).suffix
        wrong = [name for name in shards if not _is_shard_name(name, suffix)]
        if wrong or not shards:
            raise ValueError(
                f"its weight_map must name {suffix} files beside it; got {str(wrong[:3])[:200]}"
            )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{index} must be a JSON index of shards ({error!r}): download it again"
        ) from error
    return weight_map


def _is_shard_name(name: Any, suffix: str) -> bool:
    """Returns whether a shard is a file of the index's own format in the index's own folder."""
    return (
        isinstance(name, str)
        and len(name) < 200
        and bool(re.fullmatch(r"[\w.-]+", name))
        and name.endswith(suffix)
    )


def _broken(path: Path, kind: str, error: Exception) -> CheckpointError:
    """Returns the error for a file that cannot be parsed."""
    with open(path, "rb") as file:
        is_pointer = file.read(64).startswith(b"version https://git-lfs")
    remedy = "it is a git-lfs pointer: run `git lfs pull`" if is_pointer else "download it again"
    return CheckpointError(f"{path} is truncated or no {kind} file ({error}): {remedy}")


def _load_safetensors(
    path: Path, read: Callable[[Any, str], np.ndarray] = lambda file, name: file.get_tensor(name)
) -> _Content:
    """Returns the content of a file; `read` returns a tensor of an open one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: read(file, name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except AttributeError as error:  # NumPy has no such dtype
        raise CheckpointError(
            f"{path} holds tensors of a dtype that is not supported ({error}): convert them to "
            "float32, float16 or bfloat16"
        ) from error
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise _broken(path, "safetensors", error) from error


def _load_safetensors_shapes(path: Path) -> _Content:
    """Returns the content of a file with zeros, all of them one and the same, as its tensors."""

    def read(file: Any, name: str) -> np.ndarray:
        tensor = file.get_slice(name)
        shape = tensor.get_shape()
        dtype = tensor[:0].dtype if shape else file.get_tensor(name).dtype
        return np.broadcast_to(np.zeros((), dtype), shape)

    return _load_safetensors(path, read)


def _load_msgpack(path: Path) -> _Content:
    from flax.serialization import msgpack_restore
    from flax.traverse_util import flatten_dict

    try:
        tree = flatten_dict(msgpack_restore(path.read_bytes()))
    except Exception as error:  # broken bytes can raise anything
        raise _broken(path, "Flax msgpack", error) from error
    flat: dict[Any, np.ndarray] = {}
    for key, leaf in tree.items():
        if not all(isinstance(level, str) for level in key) or not hasattr(leaf, "dtype"):
            raise CheckpointError(
                f"{path} must hold a tree of named arrays; {'/'.join(map(str, key))} is "
                f"{type(leaf).__name__}: save the model's params with save_pretrained"
            )
        flat[key] = np.asarray(leaf)
    return flat, {}


def _load_pickle(path: Path) -> _Content:
    return load_torch_pickle(path), {}


def _from_names(content: _Content, expected: Iterable[names.Path], prefix: str) -> Flat:
    """Converts arrays by dotted name, which are either linen's or PyTorch's."""
    tensors, metadata = content
    is_linen = names.uses_linen_names(tensors, metadata)
    return (names.from_dotted if is_linen else names.from_torch)(tensors, expected, prefix)


def _from_paths(content: _Content, expected: Iterable[names.Path], prefix: str) -> Flat:
    """Converts arrays by linen path."""
    return names.from_linen(content[0], expected, prefix)


# How files of each suffix are parsed, and how their names are converted.
_FORMATS = {
    ".safetensors": (_load_safetensors, _from_names),
    ".msgpack": (_load_msgpack, _from_paths),
    ".bin": (_load_pickle, _from_names),
}
