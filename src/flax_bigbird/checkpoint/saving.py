"""Writes checkpoints so that a crash at any moment leaves the old one or the new one, whole.

Everything is first written and flushed in a hidden folder inside the target. Then files move to
their places in an order in which only one step changes what `loading` sees of the weights:

1. shards, under names that no file has yet (`model-00001-of-00002.safetensors`, or if an earlier
   save's are there `model-2-00001-of-00002.safetensors`), so that the old index's shards stay;
2. the documents, `config.json` last;
3. the head: `model.safetensors`, `flax_model.msgpack` or the index of the shards. This step counts,
   unless there are heads of an earlier save that a reader prefers: then it comes before 2, and the
   step that counts is the removal of the one preferred most;
4. the rest of earlier saves is removed: heads, then their shards.

The step that counts directly follows the move of `config.json`: a crash between these two, and
only there, leaves the old weights beside the new configuration.

Only files that this module writes are removed; a `pytorch_model.bin`, which no reader prefers,
stays.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flax_bigbird.checkpoint import names
from flax_bigbird.checkpoint.atomic import flush_to_disk
from flax_bigbird.checkpoint.errors import CheckpointError

_HEADS = (  # in the readers' order of preference
    "model.safetensors",
    "model.safetensors.index.json",
    "flax_model.msgpack",
    "flax_model.msgpack.index.json",
)
_SHARD = re.compile(
    r"(model(-\d+)?-\d{5}-of-\d{5}\.safetensors|flax_model(-\d+)?-\d{5}-of-\d{5}\.msgpack)"
)
_STAGING = ".saving-"
_ABANDONED = 3600.0  # seconds since a hidden folder last changed, after which its save is dead

_Write = Callable[[Path], Any]


def save_checkpoint(
    folder: str | os.PathLike[str],
    flat: Mapping[names.Path, Any],
    documents: Mapping[str, str],
    *,
    max_shard_size: int | str = "10GB",
    safe_serialization: bool = True,
) -> list[str]:
    """Writes weights and text files into a folder, in place of what was saved there before.

    Args:
      folder: made if need be.
      flat: the leaves of the tree, NumPy or fully addressable JAX arrays.
      documents: name to content, in the order in which they are put in place.
      max_shard_size: bytes, or text such as "5GB".
      safe_serialization: PyTorch names in `model.safetensors`; else `flax_model.msgpack`.

    Returns:
      The names of all files written.

    Raises:
      ValueError: leaves, names or sizes that cannot be written; nothing is.
      CheckpointError: the folder is a file or not writable, or writing failed; the weights that
        were there are whole.
    """
    _check_leaves(flat)
    path = prepare_directory(folder)
    leaves = {key: np.asarray(leaf) for key, leaf in flat.items()}
    tensors = names.to_torch(leaves) if safe_serialization else leaves
    head, shards, index = _plan(path, tensors, max_shard_size, safe_serialization)
    form = _write_safetensors if safe_serialization else _write_msgpack
    parts = {file: (lambda to, part=part: form(to, part)) for file, part in shards.items()}
    texts = {name: _text(text) for name, text in documents.items()}
    last = parts if index is None else {head: _text(_json(index))}
    first = {} if index is None else parts
    shadows = [name for name in _HEADS[: _HEADS.index(head)] if (path / name).exists()]
    _publish(path, [first, last, texts] if shadows else [first, texts, last], shadows)
    written = [*first, *texts, *last]
    _remove_stale(path, set(written))
    return written


def prepare_directory(folder: str | os.PathLike[str]) -> Path:
    """Makes the folder and shows that it can be written to, before any work.

    Raises:
      CheckpointError: it is a file, not writable, or has a folder in the place of a file.
    """
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path, prefix=_STAGING):
            pass
    except OSError as error:
        what = "is a file" if path.is_file() else f"cannot be written to ({error.strerror})"
        raise CheckpointError(
            f"a model is saved to a writable folder; {path} {what}: choose another, or make room"
        ) from error
    folders = [name for name in (*_HEADS, "config.json") if (path / name).is_dir()]
    if folders:
        raise CheckpointError(
            f"{path} has folders in the place of files ({', '.join(folders)}): remove them, or "
            "choose another folder"
        )
    return path


def weight_file_patterns() -> list[str]:
    """Glob patterns of every file of weights that a save may leave or replace."""
    return [*_HEADS, "model-*-of-*.safetensors", "flax_model-*-of-*.msgpack"]


def _check_leaves(flat: Mapping[names.Path, Any]) -> None:
    """Raises for what is no array of numbers, before anything is copied off a device."""
    wrong = [
        f"{'/'.join(path)} is {type(leaf).__name__}"
        for path, leaf in flat.items()
        if np.dtype(getattr(leaf, "dtype", object)).kind in "OUSMm"
    ]
    if wrong:
        raise ValueError(
            f"every leaf of params must be an array of numbers; {', '.join(wrong[:12])}: unbox or "
            "remove it"
        )


def _plan(
    folder: Path, tensors: dict[Any, np.ndarray], max_shard_size: int | str, safe: bool
) -> tuple[str, dict[str, dict[Any, np.ndarray]], dict[str, Any] | None]:
    """The head's name, the content of each file of weights, and the index if they are shards."""
    from huggingface_hub import split_state_dict_into_shards_factory

    stem, suffix = ("model", ".safetensors") if safe else ("flax_model", ".msgpack")
    keys = {key if isinstance(key, str) else "/".join(key): key for key in tensors}
    try:
        if isinstance(max_shard_size, int) and max_shard_size <= 0:
            raise ValueError("it is not positive")
        split = split_state_dict_into_shards_factory(
            {name: tensors[key] for name, key in keys.items()},
            get_storage_size=lambda leaf: leaf.nbytes,
            filename_pattern=f"{stem}{{suffix}}{suffix}",
            max_shard_size=max_shard_size,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"max_shard_size must be a number of bytes or text such as '5GB'; got "
            f"{max_shard_size!r} ({error})"
        ) from error
    rename = _free_names(folder, list(split.filename_to_tensors)) if split.is_sharded else str
    files = {
        rename(file): {keys[name]: tensors[keys[name]] for name in members}
        for file, members in split.filename_to_tensors.items()
    }
    if not split.is_sharded:
        return stem + suffix, files, None
    weight_map = {name: rename(file) for name, file in split.tensor_to_filename.items()}
    index = {"metadata": split.metadata, "weight_map": weight_map}
    return f"{stem}{suffix}.index.json", files, index


def _free_names(folder: Path, shards: list[str]) -> Callable[[str], str]:
    """Renames shards so that none has the name of a file that is there."""
    generation = 1
    while True:
        tag = "" if generation == 1 else f"-{generation}"

        def rename(file: str, tag: str = tag) -> str:
            return re.sub(r"^(flax_model|model)", rf"\g<1>{tag}", file)

        if not any((folder / rename(file)).exists() for file in shards):
            return rename
        generation += 1


def _publish(folder: Path, stages: list[dict[str, _Write]], shadows: list[str]) -> None:
    """Writes all files into a hidden folder and moves them into place, stage by stage.

    Then removes `shadows`, older files that hide the new ones, the one preferred most at the end.
    """
    shards: list[Path] = []  # in place, and not yet named by an index
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=_STAGING) as name:
            staging = Path(name)
            probe = staging / "mode"
            probe.touch()
            mode = probe.stat().st_mode & 0o777  # what the process' umask leaves
            for file, write in (pair for stage in stages for pair in stage.items()):
                write(staging / file)
                (staging / file).chmod(mode)
                flush_to_disk(staging / file)
            for stage in stages:
                for file in stage:
                    if _SHARD.fullmatch(file):
                        shards.append(folder / file)
                    os.replace(staging / file, folder / file)
                    if file in _HEADS:
                        shards.clear()
                if stage is stages[0]:
                    flush_to_disk(folder)
            for name in reversed(shadows):
                (folder / name).unlink()
            flush_to_disk(folder)
    except OSError as error:
        raise CheckpointError(
            f"{folder} could not be written ({error}): weights that were there are whole; make "
            "room, or choose another folder"
        ) from error
    finally:
        for path in shards:
            path.unlink(missing_ok=True)


def _remove_stale(folder: Path, written: set[str]) -> None:
    """Removes the weights of earlier saves, which agree with nothing any more."""
    heads = [name for name in reversed(_HEADS) if name not in written]
    shards = [
        p.name for p in folder.iterdir() if _SHARD.fullmatch(p.name) and p.name not in written
    ]
    try:
        for name in heads:
            (folder / name).unlink(missing_ok=True)
        flush_to_disk(folder)
        for name in shards:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"{folder} holds the new weights, beside older ones that could not be removed "
            f"({error}): remove them"
        ) from error
    for path in folder.glob(f"{_STAGING}*"):
        with contextlib.suppress(OSError):
            last = max(p.stat().st_mtime for p in (path, *path.iterdir()))
            if time.time() - last > _ABANDONED:
                shutil.rmtree(path, ignore_errors=True)


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def _text(content: str) -> _Write:
    return lambda path: path.write_text(content, encoding="utf-8")


def _write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except SafetensorError as error:  # its wrapping of what the system answered
        raise OSError(str(error)) from error


def _write_msgpack(path: Path, leaves: Mapping[names.Path, np.ndarray]) -> None:
    from flax.serialization import msgpack_serialize
    from flax.traverse_util import unflatten_dict

    path.write_bytes(msgpack_serialize(unflatten_dict(dict(leaves))))
