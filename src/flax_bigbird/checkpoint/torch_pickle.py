"""Loads `pytorch_model.bin` without PyTorch and without running the code in it.

Such a file is a pickle that describes tensors, and their values beside it: in a zip archive
(PyTorch 1.6 and later), or after it in one stream (earlier versions). A pickle is a program. The
unpickler here accepts only the few types below and refuses every other name before it is looked up.
The objects that it builds have no attributes to set, and a tensor cannot read memory outside its
own storage.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from flax_bigbird.checkpoint.errors import CheckpointError

_STORAGE_DTYPES: dict[str, Any] = {
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
_MAGIC = 0x1950A86A20F9469CFC6C  # the first value of the stream format
_STREAM_START = b"\x80\x02\x8a\x0a" + _MAGIC.to_bytes(10, "little")
_REMEDY = (
    "download it again, or convert it where PyTorch is installed: safetensors.torch.save_file("
    'torch.load("pytorch_model.bin", weights_only=True), "model.safetensors")'
)


class _StorageType(NamedTuple):
    """Replaces `torch.FloatStorage` and its siblings in a pickle."""

    dtype: Any


class _Storage(NamedTuple):
    """A buffer that tensors are views of.

    `values` holds one array. It is a list because the stream format stores the values after the
    pickle, so that they are added later.
    """

    dtype: Any
    values: list[np.ndarray]


class _Tensor(NamedTuple):
    """A view of a storage; the offset and the strides are counted in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def view(self) -> np.ndarray:
        """Returns a read-only view, after checking that it lies inside the storage."""
        (values,) = self.storage.values
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        if 0 in self.shape:
            return np.zeros(self.shape, values.dtype)
        if last >= values.size:
            raise pickle.UnpicklingError("a tensor reads past the end of its storage")
        strides = [s * values.itemsize for s in self.stride]
        return np.lib.stride_tricks.as_strided(
            values[self.offset :], self.shape, strides, writeable=False
        )


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_hooks: Any) -> _Tensor:
    """Replaces `torch._utils._rebuild_tensor_v2`."""
    integers = (offset, *shape, *stride)
    if not isinstance(storage, _Storage) or len(shape) != len(stride):
        raise pickle.UnpicklingError("a tensor's storage, shape and stride do not fit")
    if not all(type(n) is int and n >= 0 for n in integers):
        raise pickle.UnpicklingError(
            "a tensor's offset, shape or stride is not a non-negative integer"
        )
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(data: Any, *_hooks: Any) -> _Tensor:
    """Replaces `torch._utils._rebuild_parameter`."""
    if not isinstance(data, _Tensor):
        raise pickle.UnpicklingError("a parameter is not a tensor")
    return data


class _Builder(NamedTuple):
    """Wraps a function for a pickle, which can call it but, unlike a function, not modify it."""

    function: Callable[..., _Tensor]

    def __call__(self, *args: Any) -> _Tensor:
        return self.function(*args)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Builder(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _Builder(_rebuild_parameter),
} | {("torch", name): _StorageType(dtype) for name, dtype in _STORAGE_DTYPES.items()}


class _Unpickler(pickle.Unpickler):
    """An unpickler that refuses every name that is not in `_ALLOWED`.

    Args:
      file: the pickle.
      open_storage: returns the storage for the key, the type, the element count and the further
        fields of a persistent id. If it is None, all names and storages are refused.
    """

    def __init__(self, file: Any, open_storage: Callable[..., _Storage] | None = None):
        super().__init__(file, encoding="utf-8")
        self._open_storage = open_storage

    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((module, name))
        if allowed is None or self._open_storage is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which weights do not need")
        return allowed

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, count, *rest = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise pickle.UnpicklingError(f"it names an unknown kind of storage {kind!r}")
        if self._open_storage is None or type(key) is not str or type(count) is not int:
            raise pickle.UnpicklingError("it names a storage where none is allowed")
        return self._open_storage(key, storage_type, count, rest)


def load_torch_pickle(path: Path) -> dict[str, np.ndarray]:
    """Loads the tensors of a PyTorch file, by name.

    Raises:
      CheckpointError: if the file is broken, holds anything but tensors, or names any other type.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(len(_STREAM_START))
        if zipfile.is_zipfile(path):
            state = _load_zip(path)
        elif head == _STREAM_START:
            state = _load_stream(path)
        else:
            raise pickle.UnpicklingError("it is truncated, or not a PyTorch file")
        return _tensors(state)
    except Exception as error:  # the bytes of a broken or hostile file can raise anything
        raise CheckpointError(
            f"{path} must hold a state dict of tensors and is refused: "
            f"{error or type(error).__name__}; {_REMEDY}"
        ) from error


def _tensors(state: Any) -> dict[str, np.ndarray]:
    """Returns the arrays of a state dict, which may be nested in a training checkpoint."""
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state:
        raise pickle.UnpicklingError("it holds no dictionary of tensors")
    others = [
        repr(name)
        for name, value in state.items()
        if not (type(name) is str and isinstance(value, _Tensor))
    ]
    if others:
        raise pickle.UnpicklingError(f"it holds more than named tensors: {', '.join(others[:8])}")
    return {name: value.view() for name, value in state.items()}


def _load_zip(path: Path) -> Any:
    """Loads the zip format: `data.pkl`, and one member `data/KEY` for each storage."""
    with zipfile.ZipFile(path) as archive:
        programs = [n for n in archive.namelist() if n.rsplit("/", 1)[-1] == "data.pkl"]
        if len(programs) != 1:
            raise pickle.UnpicklingError(
                f"it must hold one file data.pkl, and holds {len(programs)}"
            )
        if archive.getinfo(programs[0]).compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError("it is compressed, which PyTorch never does")
        root = programs[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise pickle.UnpicklingError("its values are big-endian")
        storages: dict[str, _Storage] = {}

        def open_storage(key: str, storage_type: _StorageType, count: int, rest: list) -> _Storage:
            dtype = np.dtype(storage_type.dtype)
            if key not in storages:
                member = archive.getinfo(f"{root}data/{key}")
                if member.compress_type != zipfile.ZIP_STORED or rest:
                    raise pickle.UnpicklingError(f"storage {key} is compressed or a view")
                if member.file_size < count * dtype.itemsize:
                    raise pickle.UnpicklingError(f"storage {key} is shorter than stated")
                values = np.frombuffer(archive.read(member), dtype, count)
                storages[key] = _Storage(dtype, [values])
            if storages[key].dtype != dtype:
                raise pickle.UnpicklingError(f"storage {key} has two types")
            return storages[key]

        return _Unpickler(io.BytesIO(archive.read(programs[0])), open_storage).load()


def _load_stream(path: Path) -> Any:
    """Loads the stream format.

    It is a sequence of pickles (the magic number, the version, the properties of the system, the
    state dict and the keys of the storages), followed by the element count and the values of every
    storage.
    """
    with open(path, "rb") as file:
        magic, version, system = (_Unpickler(file).load() for _ in range(3))
        if magic != _MAGIC or version != 1001 or not isinstance(system, dict):
            raise pickle.UnpicklingError(f"it has the unknown version {version!r}")
        if not system.get("little_endian", True):
            raise pickle.UnpicklingError("its values are big-endian")
        storages: dict[str, _Storage] = {}

        def open_storage(key: str, storage_type: _StorageType, count: int, rest: list) -> _Storage:
            if any(part is not None for part in rest):
                raise pickle.UnpicklingError("it holds a view of a storage (PyTorch before 0.4)")
            dtype = np.dtype(storage_type.dtype)
            storage = storages.setdefault(key, _Storage(dtype, []))
            if storage.dtype != dtype:
                raise pickle.UnpicklingError(f"storage {key} has two types")
            return storage

        state = _Unpickler(file, open_storage).load()
        keys = _Unpickler(file).load()
        if not isinstance(keys, list) or sorted(keys) != sorted(storages):
            raise pickle.UnpicklingError(
                "its list of storages differs from the storages of its tensors"
            )
        for key in keys:
            count = int.from_bytes(file.read(8), "little", signed=True)
            dtype = storages[key].dtype
            raw = file.read(max(count, 0) * dtype.itemsize)
            if count < 0 or len(raw) != count * dtype.itemsize:
                raise pickle.UnpicklingError("it is truncated")
            storages[key].values.append(np.frombuffer(raw, dtype))
        return state
