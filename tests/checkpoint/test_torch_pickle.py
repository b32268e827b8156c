"""Tests that PyTorch's pickles are loaded without PyTorch and without running their code."""

import io
import json
import os
import pickle
import zipfile

import hypothesis.strategies as st
import numpy as np
import pytest
from checkpoint_models import GOLDENS
from hypothesis import given

from flax_bigbird.checkpoint import CheckpointError
from flax_bigbird.checkpoint.torch_pickle import load_torch_pickle

FOLDER = GOLDENS / "torch_bin"
FILES = ("zip.bin", "stream.bin")


@pytest.mark.parametrize("file", FILES)
def test_tensors_saved_by_torch_are_loaded(file):
    tensors = load_torch_pickle(FOLDER / file)
    dtypes = json.loads((FOLDER / "dtypes.json").read_text())
    with np.load(FOLDER / "values.npz") as values:
        assert set(tensors) == set(values.files)
        for name in values.files:
            assert str(tensors[name].dtype) == dtypes[name]
            assert tensors[name].shape == values[name].shape
            tensor = tensors[name].astype(values[name].dtype)
            np.testing.assert_array_equal(tensor, values[name], err_msg=name)


class Call:
    """Is pickled as a call of any function with `args`."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def write_archive(path, program, **storages):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", program)
        for key, values in storages.items():
            file.writestr(f"archive/data/{key}", values)
    return path


def torch_tensor(*args):
    """Returns a pickle of `{"x": _rebuild_tensor_v2(storage, *args)}` over 6 float32 values."""
    out = io.BytesIO()
    out.write(b"\x80\x02}U\x01xctorch._utils\n_rebuild_tensor_v2\n(")
    out.write(b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x06tQ")
    for arg in args:
        out.write(pickle.dumps(arg, 2)[2:-1])
    out.write(b"tRs.")
    return out.getvalue()


@pytest.mark.parametrize(
    ("function", "args"),
    [(os.system, ("touch {}",)), (eval, ("open({!r}, 'w')",)), (os.mkdir, ("{}",))],
)
@pytest.mark.parametrize("form", ["zip", "bare", "stream"])
def test_pickled_code_is_refused_and_not_run(tmp_path, function, args, form):
    trace = tmp_path / "trace"
    hostile = Call(function, *(arg.format(str(trace)) for arg in args))
    path = tmp_path / "pytorch_model.bin"
    program = pickle.dumps({"x": hostile}, 2)
    if form == "zip":
        write_archive(path, program)
    elif form == "stream":
        head = (FOLDER / "stream.bin").read_bytes()[:14]
        path.write_bytes(head + b"." + program)
    else:
        path.write_bytes(program)
    with pytest.raises(CheckpointError, match="refused") as error:
        load_torch_pickle(path)
    if form != "bare":
        name = f"{function.__module__}.{function.__name__}".replace("builtins", "__builtin__")
        assert f"names {name}, which weights do not need" in str(error.value)
    assert not trace.exists()


@pytest.mark.parametrize(
    "name", ["torch._utils._rebuild_tensor", "torch.load", "numpy.dtype", "collections.deque"]
)
def test_names_that_are_not_allowed_are_refused(tmp_path, name):
    module, _, word = name.rpartition(".")
    path = write_archive(tmp_path / "x.bin", f"c{module}\n{word}\n.".encode())
    with pytest.raises(CheckpointError, match=f"names {name}"):
        load_torch_pickle(path)


@pytest.mark.parametrize(
    "name",
    [
        b"torch._utils\n_rebuild_tensor_v2",
        b"torch._utils\n_rebuild_parameter",
        b"torch\nFloatStorage",
        b"collections\nOrderedDict",
    ],
)
@pytest.mark.parametrize("state", [b"}U\x01xK\x01s", b"(N}U\x07__doc__K\x01st"])
def test_allowed_objects_cannot_be_modified(tmp_path, name, state):
    path = write_archive(tmp_path / "x.bin", b"\x80\x02c" + name + b"\n" + state + b"b.")
    with pytest.raises(CheckpointError, match=r"attribute|item assignment|immutable"):
        load_torch_pickle(path)


def test_pickle_built_by_torch_tensor_is_valid(tmp_path):
    values = np.arange(6, dtype=np.float32)
    program = torch_tensor(1, (2, 2), (3, 1), False, None)
    path = write_archive(tmp_path / "x.bin", program, **{"0": values.tobytes()})
    np.testing.assert_array_equal(load_torch_pickle(path)["x"], [[1, 2], [4, 5]])


@pytest.mark.parametrize(
    "args",
    [
        (0, (7,), (1,)),
        (6, (1,), (1,)),
        (0, (2, 2), (5, 1)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (2, 2), (1,)),
        (0, (2.0,), (1,)),
        (10**30, (2,), (1,)),
    ],
)
def test_tensor_outside_its_storage_is_refused(tmp_path, args):
    program = torch_tensor(*args)
    path = write_archive(tmp_path / "x.bin", program, **{"0": bytes(24)})
    with pytest.raises(CheckpointError, match="refused"):
        load_torch_pickle(path)


def test_huge_expanded_tensor_takes_no_memory(tmp_path):
    program = torch_tensor(0, (10**6, 10**6), (0, 0))
    path = write_archive(tmp_path / "x.bin", program, **{"0": bytes(24)})
    assert load_torch_pickle(path)["x"].shape == (10**6, 10**6)


@pytest.mark.parametrize(
    ("program", "storage", "message"),
    [
        (torch_tensor(0, (6,), (1,)), bytes(20), "shorter than stated"),
        (pickle.dumps({"x": 1}, 2), b"", "more than named tensors: 'x'"),
        (pickle.dumps([1], 2), b"", "no dictionary of tensors"),
        (b"", b"", "refused"),
    ],
)
def test_content_other_than_tensors_is_refused(tmp_path, program, storage, message):
    path = write_archive(tmp_path / "x.bin", program, **{"0": storage})
    with pytest.raises(CheckpointError, match=message):
        load_torch_pickle(path)


@pytest.mark.parametrize("file", FILES)
def test_truncated_file_is_refused(tmp_path, file):
    content = (FOLDER / file).read_bytes()
    path = tmp_path / "pytorch_model.bin"
    for size in range(0, len(content), 37):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="refused"):
            load_torch_pickle(path)


@given(data=st.data(), file=st.sampled_from(FILES))
def test_flipped_bytes_raise_checkpoint_error_or_give_tensors(tmp_path_factory, data, file):
    content = bytearray((FOLDER / file).read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[at] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "flipped.bin"
    path.write_bytes(content)
    try:
        tensors = load_torch_pickle(path)
    except CheckpointError:
        return
    assert all(isinstance(tensor, np.ndarray) for tensor in tensors.values())
