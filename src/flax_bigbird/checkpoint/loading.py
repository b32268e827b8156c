"""Reads the weights of a checkpoint in any of the formats they are published in."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flax_bigbird.checkpoint import names
from flax_bigbird.checkpoint.errors import CheckpointError
from flax_bigbird.checkpoint.hub import Source
from flax_bigbird.checkpoint.names import Flat
from flax_bigbird.checkpoint.torch_pickle import load_torch_pickle

# In order of preference, each before its index of shards: our own output first, so that it wins in
# a folder that was saved into; then the Flax formats; pickles last, which hold the same weights
# wherever a safer file stands beside them. `saving` counts on this order.
WEIGHT_FILES = (
    "model.safetensors",
    "flax_model.msgpack",
    "flax_model.safetensors",
    "pytorch_model.bin",
)

# A file's leaves by dotted or "/"-joined name or path, and what its header says.
_Content = tuple[dict[Any, np.ndarray], Mapping[str, str]]


def load_weights(
    source: Source, expected: Iterable[names.Path], prefix: str = "bert"
) -> tuple[Flat, Path]:
    """The first weights found, as a flat linen tree in the files' dtypes, and their file.

    Args:
      source: the folder or repository.
      expected: the leaves of the model they are for.
      prefix: of the backbone in a task's tree.

    Raises:
      CheckpointError: no weights, a broken file, a missing shard, an index that does not fit.
    """
    for file in WEIGHT_FILES:
        path, index = source.get(file), None
        if path is None:
            path = index = source.get(f"{file}.index.json")
        if path is None:
            continue
        read, to_tree = _READERS[Path(file).suffix]
        content = read(path) if index is None else _read_shards(source, index, read)
        return to_tree(content, set(expected), prefix), path
    raise CheckpointError(
        f"a checkpoint holds weights; none in {source}: looked for {', '.join(WEIGHT_FILES)} and "
        f"the .index.json of each{source.hint}"
    )


def _read_shards(source: Source, index: Path, read: Callable[[Path], _Content]) -> _Content:
    """All shards that an index lists, after checking that they hold what it says."""
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(weight_map.values()))
        if not shards or not all(Path(name).name == name for name in shards):
            raise ValueError("its weight_map does not name files beside it")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index} must be a JSON index of shards ({error!r}): download it again"
        ) from error
    paths = {name: source.get(name) for name in shards}
    absent = [name for name, path in paths.items() if path is None]
    if absent:
        raise CheckpointError(
            f"every shard that {index} lists must be beside it; missing: {', '.join(absent)}"
            f"{source.hint}: copy or download them again"
        )
    leaves: dict[Any, np.ndarray] = {}
    metadata: dict[str, str] = {}
    wrong: list[str] = []
    for name, path in paths.items():
        assert path is not None
        part, header = read(path)
        metadata |= header
        held = {"/".join(key) if isinstance(key, tuple) else key for key in part}
        wrong += [
            f"{k} ({name})" for k, shard in weight_map.items() if shard == name and k not in held
        ]
        leaves |= part
    if wrong:
        raise CheckpointError(
            f"{index} lists {len(wrong)} tensors that their shards do not hold: "
            f"{', '.join(wrong[:8])}: index and shards are of different saves; download all again"
        )
    return leaves, metadata


def _broken(path: Path, kind: str, error: Exception) -> CheckpointError:
    with open(path, "rb") as file:
        pointer = file.read(64).startswith(b"version https://git-lfs")
    what = "it is a git-lfs pointer: run `git lfs pull`" if pointer else "download it again"
    return CheckpointError(f"{path} is truncated or no {kind} file ({error}): {what}")


def _read_safetensors(path: Path) -> _Content:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except AttributeError as error:  # NumPy has no such dtype
        raise CheckpointError(
            f"{path} holds numbers of a type that is not read here ({error}): convert it to "
            "float32, float16 or bfloat16"
        ) from error
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise _broken(path, "safetensors", error) from error


def _read_msgpack(path: Path) -> _Content:
    from flax.serialization import msgpack_restore
    from flax.traverse_util import flatten_dict

    try:
        tree = flatten_dict(msgpack_restore(path.read_bytes()))
    except Exception as error:  # msgpack raises what the bytes make it
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


def _read_pickle(path: Path) -> _Content:
    return load_torch_pickle(path), {}


def _named(content: _Content, expected: Iterable[names.Path], prefix: str) -> Flat:
    tensors, metadata = content
    linen = names.is_flax_named(tensors, metadata)
    return (names.from_dotted if linen else names.from_torch)(tensors, expected, prefix)


def _tree(content: _Content, expected: Iterable[names.Path], prefix: str) -> Flat:
    return names.from_linen(content[0], expected, prefix)


_READERS = {
    ".safetensors": (_read_safetensors, _named),
    ".msgpack": (_read_msgpack, _tree),
    ".bin": (_read_pickle, _named),
}
