"""Saves checkpoints atomically: a crash leaves the old checkpoint or the new one, never a mixture.

All files are first written to a hidden staging directory inside the target folder and flushed to
disk. They are then moved into place in an order in which a single step changes which weights
`loading` finds:

1. the shards, under names that no file has yet (`model-00001-of-00002.safetensors`, or
   `model-2-00001-of-00002.safetensors` if an earlier save uses that name), so that the shards of
   the old index stay;
2. the text files, `config.json` last;
3. the entry file, which `loading` looks for: `model.safetensors`, `flax_model.msgpack`, or the
   index of the shards. This step commits the save, unless an earlier save left entry files that
   `loading` prefers. In that case the entry file is moved before the text files, and the step that
   commits the save is the removal of the most preferred entry file;
4. removal of what else earlier saves left: first entry files, then their shards.

The step that commits the save directly follows the move of `config.json`. Only a crash between
these two steps leaves the old weights beside the new configuration.

Only files that this module writes are removed. A `pytorch_model.bin` stays, because `loading`
prefers the new weights to it.
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
from flax_bigbird.checkpoint.sharding import plan_weight_files

_ENTRY_FILES = (  # in the order in which `loading` prefers them
    "model.safetensors",
    "model.safetensors.index.json",
    "flax_model.msgpack",
    "flax_model.msgpack.index.json",
)
_SHARD = re.compile(
    r"(model(-\d+)?-\d{5}-of-\d{5}\.safetensors|flax_model(-\d+)?-\d{5}-of-\d{5}\.msgpack)"
)
_STAGING_PREFIX = ".saving-"
_STAGING_TIMEOUT = 3600.0  # seconds after its last change until a staging directory is abandoned

_Writer = Callable[[Path], Any]


def save_checkpoint(
    folder: str | os.PathLike[str],
    flat: Mapping[names.Path, Any],
    text_files: Mapping[str, str],
    *,
    max_shard_size: int | str = "10GB",
    safe_serialization: bool = True,
) -> list[str]:
    """Saves weights and text files to a folder and replaces an earlier checkpoint there.

    Args:
      folder: the target, which is created if necessary.
      flat: the parameters by path, as NumPy or fully addressable JAX arrays.
      text_files: the content of text files by name, in the order in which they are moved.
      max_shard_size: the size above which weights are split, in bytes or as text: "5GB" (10^9 bytes
        each), "5GiB" (2^30 bytes each), "5Gb" (bits, as in `transformers`), and the same for K, M
        and T.
      safe_serialization: True writes `model.safetensors` with PyTorch's names, False
        `flax_model.msgpack`.

    Returns:
      The names of all files that were written.

    Raises:
      ValueError: if parameters, names or sizes cannot be saved; nothing is written.
      CheckpointError: if the folder is a file or not writable, or if writing fails; the weights of
        an earlier checkpoint are intact.
    """
    _check_leaves(flat)
    path = prepare_directory(folder)
    leaves = {key: np.asarray(leaf) for key, leaf in flat.items()}
    tensors = names.to_torch(leaves) if safe_serialization else leaves
    entry_file, files, index = plan_weight_files(path, tensors, max_shard_size, safe_serialization)
    write = _write_safetensors if safe_serialization else _write_msgpack
    weights = {file: (lambda to, part=part: write(to, part)) for file, part in files.items()}
    texts = {name: _text_writer(text) for name, text in text_files.items()}
    shards = {} if index is None else weights
    entry = weights if index is None else {entry_file: _text_writer(_to_json(index))}
    before = _ENTRY_FILES[: _ENTRY_FILES.index(entry_file)]
    preferred = [name for name in before if (path / name).exists()]
    stages = [shards, entry, texts] if preferred else [shards, texts, entry]
    _publish(path, stages, preferred)
    written = [*shards, *texts, *entry]
    _remove_earlier_saves(path, set(written))
    return written


def prepare_directory(folder: str | os.PathLike[str]) -> Path:
    """Creates the target folder and checks that files can be written to it, before any work.

    Raises:
      CheckpointError: if it is a file, is not writable, or has a folder where a file must go.
    """
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path, prefix=_STAGING_PREFIX):
            pass
    except OSError as error:
        reason = "is a file" if path.is_file() else f"cannot be written to ({error.strerror})"
        raise CheckpointError(
            f"a model is saved to a writable folder; {path} {reason}: choose another, or free "
            "some space"
        ) from error
    folders = [name for name in (*_ENTRY_FILES, "config.json") if (path / name).is_dir()]
    if folders:
        raise CheckpointError(
            f"{path} has folders in the place of files ({', '.join(folders)}): remove them, or "
            "choose another folder"
        )
    return path


def weight_file_patterns() -> list[str]:
    """Returns glob patterns of every weight file that a save may leave or replace."""
    return [*_ENTRY_FILES, "model-*-of-*.safetensors", "flax_model-*-of-*.msgpack"]


def remove_staging_directories(folder: Path, *, min_age: float = 0.0) -> None:
    """Removes the staging directories of saves to a folder that were killed.

    Args:
      folder: The folder.
      min_age: The number of seconds since the last change of a directory that is removed. 0 is for
        a folder to which no other process saves.
    """
    for path in folder.glob(f"{_STAGING_PREFIX}*"):
        with contextlib.suppress(OSError):
            last_change = max(p.stat().st_mtime for p in (path, *path.iterdir()))
            if time.time() - last_change >= min_age:
                shutil.rmtree(path, ignore_errors=True)


def _check_leaves(flat: Mapping[names.Path, Any]) -> None:
    """Raises `ValueError` for leaves that are not arrays, before any is copied off a device."""
    wrong = [
        f"{'/'.join(path)} is {type(leaf).__name__}"
        for path, leaf in flat.items()
        if np.dtype(getattr(leaf, "dtype", object)).kind in "OUSMm"
    ]
    if wrong:
        raise ValueError(
            f"every leaf of params must be a numeric array; {', '.join(wrong[:12])}: unbox or "
            "remove it"
        )


def _publish(folder: Path, stages: list[dict[str, _Writer]], preferred: list[str]) -> None:
    """Writes all files to a staging directory and moves them into place, stage by stage.

    Then removes `preferred`, older entry files that `loading` prefers to the new one, the most
    preferred of them last.
    """
    unlisted: list[Path] = []  # shards that are in place before an index lists them
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=_STAGING_PREFIX) as name:
            staging = Path(name)
            _write_stages(staging, stages)
            for stage in stages:
                for file in stage:
                    if _SHARD.fullmatch(file):
                        unlisted.append(folder / file)
                    os.replace(staging / file, folder / file)
                    if file in _ENTRY_FILES:
                        unlisted.clear()
                if stage is stages[0]:
                    flush_to_disk(folder)
            for name in reversed(preferred):
                (folder / name).unlink()
            flush_to_disk(folder)
    except OSError as error:
        raise CheckpointError(
            f"{folder} could not be written ({error}): the weights of an earlier checkpoint are "
            "intact; free some space, or choose another folder"
        ) from error
    finally:
        for path in unlisted:
            path.unlink(missing_ok=True)


def _write_stages(staging: Path, stages: list[dict[str, _Writer]]) -> None:
    """Writes all files with the mode that the process' umask gives new files, and flushes them."""
    probe = staging / "mode"
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    for file, write in (pair for stage in stages for pair in stage.items()):
        write(staging / file)
        (staging / file).chmod(mode)
        flush_to_disk(staging / file)


def _remove_earlier_saves(folder: Path, written: set[str]) -> None:
    """Removes the weights of earlier saves, and staging directories of saves that were killed."""
    entry_files = [name for name in reversed(_ENTRY_FILES) if name not in written]
    shards = [
        path.name
        for path in folder.iterdir()
        if _SHARD.fullmatch(path.name) and path.name not in written
    ]
    try:
        for name in entry_files:
            (folder / name).unlink(missing_ok=True)
        flush_to_disk(folder)
        for name in shards:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"{folder} holds the new weights, and older ones that could not be removed ({error}): "
            "remove them"
        ) from error
    remove_staging_directories(folder, min_age=_STAGING_TIMEOUT)


def _to_json(content: Any) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def _text_writer(content: str) -> _Writer:
    return lambda path: path.write_text(content, encoding="utf-8")


def _write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except SafetensorError as error:  # which wraps the error of the operating system
        raise OSError(str(error)) from error


def _write_msgpack(path: Path, leaves: Mapping[names.Path, np.ndarray]) -> None:
    from flax.serialization import msgpack_serialize
    from flax.traverse_util import unflatten_dict

    path.write_bytes(msgpack_serialize(unflatten_dict(dict(leaves))))
