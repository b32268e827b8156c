"""Reads the weights of a checkpoint in any of the formats they are published in."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from flax_bigbird.checkpoint import names
from flax_bigbird.checkpoint.errors import CheckpointError
from flax_bigbird.checkpoint.hub import Source
from flax_bigbird.checkpoint.names import Flat
from flax_bigbird.checkpoint.pickles import read_pickle

# In order of preference: our own output, then the two Flax formats, then pickles, which hold the
# same weights wherever a safer file stands beside them.
WEIGHT_FILES = (
    "model.safetensors",
    "flax_model.msgpack",
    "flax_model.safetensors",
    "pytorch_model.bin",
)


def read_weights(source: Source, expected: Mapping[names.Path, object]) -> tuple[Flat, Path]:
    """The first weights found, as a flat linen tree in the files' dtypes, and their file.

    Args:
      source: the folder or repository.
      expected: the leaves of the model they are for.

    Raises:
      CheckpointError: no weights, a broken file, or a missing shard.
    """
    for file in WEIGHT_FILES:
        path = source.get(file)
        if path is not None:
            return _READERS[path.suffix]([path], expected), path
        index = source.get(f"{file}.index.json")
        if index is not None:
            shards = [_shard(source, index, name) for name in _shard_names(index)]
            return _READERS[Path(file).suffix](shards, expected), index
    where = f"{source.name}/{source.subfolder}" if source.subfolder else source.name
    raise CheckpointError(
        f"no weights in {where!r}: looked for {', '.join(WEIGHT_FILES)} and their "
        ".index.json (a Hub id is looked up in the cache alone when offline)"
    )


def _shard_names(index: Path) -> list[str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(weight_map.values()))
        if not all(isinstance(name, str) and Path(name).name == name for name in shards):
            raise ValueError("a shard's name is not a plain file name")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index} is not an index of shards ({error}): download it again"
        ) from error
    return shards


def _shard(source: Source, index: Path, name: str) -> Path:
    path = source.get(name)
    if path is None:
        raise CheckpointError(
            f"{index.name} lists the shard {name}, which is missing: copy or download it again"
        )
    return path


def _read_safetensors(paths: list[Path], expected: Mapping[names.Path, object]) -> Flat:
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, np.ndarray] = {}
    metadata: dict[str, str] = {}
    for path in paths:
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = metadata | (file.metadata() or {})
                tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{path} is truncated or no safetensors file ({error}): download it again"
            ) from error
    if names.is_flax_named(tensors, metadata):
        return {tuple(name.split(".")): tensor for name, tensor in tensors.items()}
    return names.from_pytorch(tensors, expected)


def _read_msgpack(paths: list[Path], expected: Mapping[names.Path, object]) -> Flat:
    from flax.serialization import msgpack_restore
    from flax.traverse_util import flatten_dict

    flat: Flat = {}
    for path in paths:
        try:
            tree = msgpack_restore(path.read_bytes())
            flat |= {tuple(k): np.asarray(v) for k, v in flatten_dict(tree).items()}
        except Exception as error:  # msgpack raises what the bytes make it
            raise CheckpointError(
                f"{path} is truncated or no Flax msgpack file ({error}): download it again"
            ) from error
        if not all(isinstance(k, str) for path_ in flat for k in path_):
            raise CheckpointError(f"{path} holds no tree of named parameters")
    return flat


def _read_pickles(paths: list[Path], expected: Mapping[names.Path, object]) -> Flat:
    tensors: dict[str, np.ndarray] = {}
    for path in paths:
        tensors |= read_pickle(path)
    return names.from_pytorch(tensors, expected)


_READERS: dict[str, Callable[[list[Path], Mapping[names.Path, object]], Flat]] = {
    ".safetensors": _read_safetensors,
    ".msgpack": _read_msgpack,
    ".bin": _read_pickles,
}
