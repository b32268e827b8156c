"""Writes checkpoints so that a crash at any moment leaves the old files whole."""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flax_bigbird.checkpoint import names
from flax_bigbird.checkpoint.errors import CheckpointError

_OURS = re.compile(r"(model|flax_model)(-\d{5}-of-\d{5})?\.(safetensors|msgpack)(\.index\.json)?$")


def prepare_folder(folder: str | os.PathLike[str]) -> Path:
    """Makes the folder and shows that it can be written to, before any work.

    Raises:
      CheckpointError: it is a file, or not writable.
    """
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".probe-"):
            pass
    except OSError as error:
        what = "is a file" if path.is_file() else f"cannot be written to ({error.strerror})"
        raise CheckpointError(f"{path} must be a writable folder; it {what}") from error
    return path


@contextlib.contextmanager
def staged(folder: Path):
    """Collects files and puts them in place together at the end: `stage(name, write)`.

    `write` gets a temporary path in the same folder. Nothing under its final name changes before
    all are complete and on disk; a failure removes the temporary files.
    """
    waiting: list[tuple[Path, Path]] = []

    def stage(name: str, write: Callable[[Path], Any]) -> None:
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.", suffix=".tmp")
        os.close(handle)
        waiting.append((Path(temporary), folder / name))
        write(Path(temporary))
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())

    try:
        yield stage
        mode = 0o666 & ~_umask()
        for temporary, final in waiting:
            os.chmod(temporary, mode)
            os.replace(temporary, final)
        _sync_folder(folder)
    except OSError as error:
        raise CheckpointError(
            f"{folder} could not be written ({error}): the files that were there are untouched"
        ) from error
    finally:
        for temporary, _ in waiting:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Sorted, indented JSON."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def stage_weights(
    stage: Callable[[str, Callable[[Path], Any]], None],
    flat: Mapping[names.Path, Any],
    *,
    max_shard_size: int | str,
    safe_serialization: bool,
) -> set[str]:
    """Stages the weights, in shards when they are larger; returns the names of the files.

    `safe_serialization` writes PyTorch names in `model.safetensors`, else `flax_model.msgpack`.
    """
    from huggingface_hub import split_state_dict_into_shards_factory

    host = {path: np.asarray(leaf) for path, leaf in flat.items()}
    if safe_serialization:
        tensors, pattern = names.to_pytorch(host), "model{suffix}.safetensors"
    else:
        tensors = {"/".join(path): leaf for path, leaf in host.items()}
        pattern = "flax_model{suffix}.msgpack"
    split = split_state_dict_into_shards_factory(
        tensors,
        get_storage_size=lambda leaf: leaf.nbytes,
        filename_pattern=pattern,
        max_shard_size=max_shard_size,
    )
    write = _write_safetensors if safe_serialization else _write_msgpack
    files = set(split.filename_to_tensors)
    for file, members in split.filename_to_tensors.items():
        part = {name: tensors[name] for name in members}
        stage(file, lambda path, part=part: write(path, part))
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        name = pattern.format(suffix="") + ".index.json"
        stage(name, lambda path: write_json(path, index))
        files.add(name)
    return files


def remove_stale(folder: Path, written: set[str]) -> None:
    """Removes the weights of an earlier save, which a reader might prefer to those just written."""
    for path in folder.iterdir():
        if _OURS.match(path.name) and path.name not in written:
            path.unlink()


def _write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    contiguous = {name: np.ascontiguousarray(leaf) for name, leaf in tensors.items()}
    save_file(contiguous, path, metadata={"format": "pt"})


def _write_msgpack(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    from flax.serialization import to_bytes
    from flax.traverse_util import unflatten_dict

    path.write_bytes(to_bytes(unflatten_dict(dict(tensors), sep="/")))


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
