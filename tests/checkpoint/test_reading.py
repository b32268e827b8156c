"""Files of weights that are sound, broken, incomplete, or of another save."""

import json

import ml_dtypes
import numpy as np
import pytest
from checkpoint_tools import SHARDED, leaves, read, same
from flax import serialization
from flax.traverse_util import unflatten_dict
from safetensors.numpy import save_file

from flax_bigbird import checkpoint
from flax_bigbird.checkpoint import CheckpointError, names

FORMS = [(safe, size) for safe in (True, False) for size in ("10GB", SHARDED)]
HEADS = {
    (True, "10GB"): "model.safetensors",
    (True, SHARDED): "model.safetensors.index.json",
    (False, "10GB"): "flax_model.msgpack",
    (False, SHARDED): "flax_model.msgpack.index.json",
}


def save(folder, tree, form=(True, "10GB")):
    safe, size = form
    return checkpoint.save_checkpoint(
        folder, tree, {}, max_shard_size=size, safe_serialization=safe
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "dtype",
    [np.float32, np.float16, ml_dtypes.bfloat16, np.float64, np.int64, np.int32, np.uint8, bool],
)
def test_what_was_written_is_read(tmp_path, form, dtype):
    tree = {path: leaf.astype(dtype) for path, leaf in leaves(1).items()}
    assert HEADS[form] in save(tmp_path, tree, form)
    same(read(tmp_path), tree)


@pytest.mark.parametrize("metadata", [{"format": "flax"}, None])
@pytest.mark.parametrize("file", ["model.safetensors", "flax_model.safetensors"])
def test_flax_named_safetensors(tmp_path, metadata, file):
    tree = leaves(1)
    save_file({".".join(path): leaf for path, leaf in tree.items()}, tmp_path / file, metadata)
    same(read(tmp_path), tree)


def test_sharded_flax_named_safetensors(tmp_path):
    tree = leaves(1)
    weight_map = {}
    for i, (path, leaf) in enumerate(tree.items()):
        weight_map[".".join(path)] = shard = f"flax_model-{i}.safetensors"
        save_file({".".join(path): leaf}, tmp_path / shard, {"format": "flax"})
    index = tmp_path / "flax_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    same(read(tmp_path), tree)


def test_large_arrays_of_msgpack_come_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 128)
    save(tmp_path, leaves(1), (False, "10GB"))
    assert b"__msgpack_chunked_array__" in (tmp_path / "flax_model.msgpack").read_bytes()
    same(read(tmp_path), leaves(1))


def test_order_of_preference(tmp_path):
    order = {
        "flax_model.safetensors": lambda path, tree: save_file(
            {".".join(p): leaf for p, leaf in tree.items()}, path, {"format": "flax"}
        ),
        "flax_model.msgpack": lambda path, tree: path.write_bytes(
            serialization.msgpack_serialize(unflatten_dict(tree))
        ),
        "model.safetensors": lambda path, tree: save_file(names.to_torch(tree), path),
    }
    (tmp_path / "pytorch_model.bin").write_bytes(b"would be refused")
    for value, (file, write) in enumerate(order.items()):
        write(tmp_path / file, leaves(value))
        same(read(tmp_path), leaves(value))


@pytest.mark.parametrize("form", FORMS)
def test_truncated(tmp_path, form):
    files = save(tmp_path, leaves(), form)
    path = tmp_path / files[0]
    content = path.read_bytes()
    for size in (0, 5, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"truncated or no .* file .*download it again"):
            read(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        b"\xff" * 8,
        (10**6).to_bytes(8, "little"),
        (4).to_bytes(8, "little") + b"{{{{",
        (57).to_bytes(8, "little") + b'{"x":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}   ',
        (57).to_bytes(8, "little") + b'{"x":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}   ',
    ],
)
def test_a_corrupt_safetensors_header(tmp_path, header):
    (tmp_path / "model.safetensors").write_bytes(header + bytes(4))
    with pytest.raises(CheckpointError, match="truncated or no safetensors file"):
        read(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "flax_model.msgpack"])
def test_a_git_lfs_pointer_is_named(tmp_path, file):
    (tmp_path / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        read(tmp_path)


@pytest.mark.parametrize("tree", [{"x": "text"}, {"x": {0: np.zeros(1)}}, {"x": None}])
def test_msgpack_of_something_else(tmp_path, tree):
    (tmp_path / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize(tree))
    with pytest.raises(CheckpointError, match="tree of named arrays"):
        read(tmp_path)


@pytest.mark.parametrize("safe", [True, False])
def test_a_missing_shard(tmp_path, safe):
    files = save(tmp_path, leaves(), (safe, SHARDED))
    for file in files[:2]:
        (tmp_path / file).unlink()
    with pytest.raises(CheckpointError, match=rf"missing: {files[0]}, {files[1]}"):
        read(tmp_path)


@pytest.mark.parametrize("safe", [True, False])
def test_an_index_of_another_save(tmp_path, safe):
    save(tmp_path, leaves(), (safe, SHARDED))
    path = tmp_path / HEADS[safe, SHARDED]
    index = json.loads(path.read_text())
    index["weight_map"]["cls.other"] = next(iter(index["weight_map"].values()))
    path.write_text(json.dumps(index))
    with pytest.raises(
        CheckpointError, match=r"1 tensors that their shards do not hold: cls.other"
    ):
        read(tmp_path)


@pytest.mark.parametrize(
    "index",
    [
        "{",
        "[]",
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": {"x": 3}}',
        '{"weight_map": {"x": "../x.safetensors"}}',
        "\x00",
    ],
)
def test_a_broken_index(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"must be a JSON index .*download it again"):
        read(tmp_path)


def test_a_folder_without_weights_names_what_was_looked_for(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"looked for model\.safetensors, .*pytorch_model\.bin"
    ):
        read(tmp_path)
