"""Reads `pytorch_model.bin` without PyTorch and without running what is in it.

Such a file is a zip archive of a pickle and one raw file per storage. A pickle is a program; ours
may name only the few types below, and every other name is refused before it is looked up.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from flax_bigbird.checkpoint.errors import CheckpointError

_STORAGE_DTYPES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class _StorageType(NamedTuple):
    dtype: Any


class _Storage(NamedTuple):
    values: np.ndarray


def _rebuild_tensor(storage, offset, shape, stride, *_ignored) -> np.ndarray:
    """A view of a storage, after checking that it lies inside it."""
    values = storage.values
    if not isinstance(storage, _Storage) or len(shape) != len(stride):
        raise pickle.UnpicklingError("a tensor's storage, shape and stride do not fit")
    if min((offset, *shape, *stride), default=0) < 0:
        raise pickle.UnpicklingError("a tensor has a negative offset, shape or stride")
    empty = 0 in shape
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if not empty and last >= values.size:
        raise pickle.UnpicklingError("a tensor reaches past the end of its storage")
    if empty:
        return np.zeros(shape, values.dtype)
    strides = [s * values.itemsize for s in stride]
    view = np.lib.stride_tricks.as_strided(values[offset:], shape, strides, writeable=False)
    return np.ascontiguousarray(view).reshape(shape)


def _rebuild_parameter(data, *_ignored) -> np.ndarray:
    return data


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
} | {("torch", name): _StorageType(dtype) for name, dtype in _STORAGE_DTYPES.items()}


class _Unpickler(pickle.Unpickler):
    def __init__(self, program: bytes, archive: zipfile.ZipFile, root: str):
        super().__init__(io.BytesIO(program))
        self._archive, self._root = archive, root
        self._storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((module, name))
        if allowed is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no weights need")
        return allowed

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, size = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise pickle.UnpicklingError(f"unknown persistent object {kind!r}")
        if key not in self._storages:
            raw = self._archive.read(f"{self._root}/data/{key}")
            values = np.frombuffer(raw, storage_type.dtype)
            if values.size < size:
                raise pickle.UnpicklingError(f"storage {key} is shorter than stated")
            self._storages[key] = _Storage(values)
        return self._storages[key]


def read_pickle(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch archive by name. Raises `CheckpointError`."""
    remedy = "convert it with PyTorch: safetensors.torch.save_file(torch.load(path), ...)"
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            head = file.read(16)
        what = (
            "was written by a PyTorch older than 1.6"
            if head.startswith(b"\x80\x02\x8a\nl\xfc\x9cF")
            else "is truncated or no PyTorch archive"
        )
        raise CheckpointError(f"{path} {what}: download it again, or {remedy}")
    try:
        with zipfile.ZipFile(path) as archive:
            programs = [n for n in archive.namelist() if n.endswith("data.pkl")]
            if len(programs) != 1:
                raise pickle.UnpicklingError(f"it holds {len(programs)} data.pkl, not 1")
            root = programs[0].removesuffix("/data.pkl")
            order = f"{root}/byteorder"
            if order in archive.namelist() and archive.read(order) != b"little":
                raise pickle.UnpicklingError("its numbers are big-endian")
            state = _Unpickler(archive.read(programs[0]), archive, root).load()
    except Exception as error:  # a broken program can fail in any way
        raise CheckpointError(f"{path} is refused: {error}. If you trust it, {remedy}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, np.ndarray) for v in state.values()):
        raise CheckpointError(f"{path} holds no dictionary of tensors: {remedy}")
    return {str(name): value for name, value in state.items()}
