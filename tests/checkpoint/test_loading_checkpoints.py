"""Tests loading weight files that are valid, broken, incomplete, or from another save."""

import json

import ml_dtypes
import numpy as np
import pytest
from checkpoint_trees import FORMATS, assert_trees_equal, example_tree, load_tree, save_tree
from flax import serialization
from flax.traverse_util import unflatten_dict
from safetensors.numpy import save_file

from flax_bigbird.checkpoint import CheckpointError, Source, load_weights, names

HEADS = {
    "safe": "model.safetensors",
    "safe-sharded": "model.safetensors.index.json",
    "msgpack": "flax_model.msgpack",
    "msgpack-sharded": "flax_model.msgpack.index.json",
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "dtype",
    [np.float32, np.float16, ml_dtypes.bfloat16, np.float64, np.int64, np.int32, np.uint8, bool],
)
def test_saved_weights_are_loaded_bit_for_bit(tmp_path, form, dtype):
    tree = {path: leaf.astype(dtype) for path, leaf in example_tree(1).items()}
    assert HEADS[form] in save_tree(tmp_path, tree, form)
    assert_trees_equal(load_tree(tmp_path), tree)


@pytest.mark.parametrize("form", FORMATS)
def test_shapes_are_those_of_the_weights_and_take_no_memory(tmp_path, form):
    tree = example_tree(1) | {("cls", "bias"): np.ones((), ml_dtypes.bfloat16)}
    save_tree(tmp_path, tree, form)
    shapes, _ = load_weights(Source(str(tmp_path)), tree, shapes_only=True)
    assert {path: (leaf.shape, leaf.dtype) for path, leaf in shapes.items()} == {
        path: (leaf.shape, leaf.dtype) for path, leaf in tree.items()
    }
    if form.startswith("safe"):
        assert not any(any(leaf.strides) or leaf.any() for leaf in shapes.values())


@pytest.mark.parametrize("metadata", [{"format": "flax"}, None])
@pytest.mark.parametrize("file", ["model.safetensors", "flax_model.safetensors"])
def test_safetensors_with_linen_names(tmp_path, metadata, file):
    tree = example_tree(1)
    save_file({".".join(path): leaf for path, leaf in tree.items()}, tmp_path / file, metadata)
    assert_trees_equal(load_tree(tmp_path), tree)


def test_sharded_safetensors_with_linen_names(tmp_path):
    tree = example_tree(1)
    weight_map = {}
    for i, (path, leaf) in enumerate(tree.items()):
        weight_map[".".join(path)] = shard = f"flax_model-{i}.safetensors"
        save_file({".".join(path): leaf}, tmp_path / shard, {"format": "flax"})
    index = tmp_path / "flax_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert_trees_equal(load_tree(tmp_path), tree)


def test_msgpack_arrays_in_chunks_are_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 128)
    save_tree(tmp_path, example_tree(1), "msgpack")
    assert b"__msgpack_chunked_array__" in (tmp_path / "flax_model.msgpack").read_bytes()
    assert_trees_equal(load_tree(tmp_path), example_tree(1))


def test_preferred_file_is_loaded(tmp_path):
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
        write(tmp_path / file, example_tree(value))
        assert_trees_equal(load_tree(tmp_path), example_tree(value))


@pytest.mark.parametrize("form", FORMATS)
def test_truncated_file_is_an_error(tmp_path, form):
    files = save_tree(tmp_path, example_tree(), form)
    path = tmp_path / files[0]
    content = path.read_bytes()
    for size in (0, 5, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"truncated or no .* file .*download it again"):
            load_tree(tmp_path)


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
def test_corrupt_safetensors_header_is_an_error(tmp_path, header):
    (tmp_path / "model.safetensors").write_bytes(header + bytes(4))
    with pytest.raises(CheckpointError, match="truncated or no safetensors file"):
        load_tree(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "flax_model.msgpack"])
def test_git_lfs_pointer_is_recognized(tmp_path, file):
    (tmp_path / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        load_tree(tmp_path)


@pytest.mark.parametrize("tree", [{"x": "text"}, {"x": {0: np.zeros(1)}}, {"x": None}])
def test_msgpack_without_named_arrays_is_an_error(tmp_path, tree):
    (tmp_path / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize(tree))
    with pytest.raises(CheckpointError, match="tree of named arrays"):
        load_tree(tmp_path)


@pytest.mark.parametrize("form", ["safe-sharded", "msgpack-sharded"])
def test_missing_shards_are_listed(tmp_path, form):
    files = save_tree(tmp_path, example_tree(), form)
    for file in files[:2]:
        (tmp_path / file).unlink()
    with pytest.raises(CheckpointError, match=rf"missing: {files[0]}, {files[1]}"):
        load_tree(tmp_path)


@pytest.mark.parametrize("form", ["safe-sharded", "msgpack-sharded"])
def test_index_of_another_save_is_an_error(tmp_path, form):
    save_tree(tmp_path, example_tree(), form)
    path = tmp_path / HEADS[form]
    index = json.loads(path.read_text())
    index["weight_map"]["cls.other"] = next(iter(index["weight_map"].values()))
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"1 tensor that its shard does not hold: cls.other"):
        load_tree(tmp_path)


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
def test_broken_index_is_an_error(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"must be a JSON index .*download it again"):
        load_tree(tmp_path)


def test_error_without_weights_lists_the_file_names(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"looked for model\.safetensors, .*pytorch_model\.bin"
    ):
        load_tree(tmp_path)
