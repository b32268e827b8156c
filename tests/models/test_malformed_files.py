"""Malformed files of a checkpoint: one `CheckpointError` that names the file, and nothing silent.

Seeds are fixed, so that a failure can be repeated; `-m slow` runs many more mutations.
"""

import collections
import json
import random
import shutil
import warnings
from typing import Any

import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
import tiny_models
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict
from mutations import attempt, mutate_bytes, mutate_json, nested
from safetensors.numpy import load_file, save_file

from flax_bigbird.checkpoint import CheckpointError, CheckpointWarning, Source
from flax_bigbird.config import SparsityConfig
from flax_bigbird.models.config_loading import load_config
from flax_bigbird.models.config_rules import _FILE_RULES, MAX_NESTING

# Users have no checks of annotations; these would hide the exceptions that users get.
pytestmark = pytest.mark.usefixtures("unchecked_annotations", "limited_time")

few_and_many = pytest.mark.parametrize(
    "count", [pytest.param(1, id="few"), pytest.param(8, id="many", marks=pytest.mark.slow)]
)


@pytest.fixture(scope="module")
def content():
    """A config.json that has every key which is read."""
    config = tiny_models.config(
        architectures=["BigBirdModel"], problem_type="regression", random_attention="fixed"
    )
    values = {
        "random_attention_seed": 1,
        "padding_invariant": True,
        "num_window_blocks": 3,
        "num_leading_global_blocks": 1,
        "num_trailing_global_blocks": 1,
        "max_user_global_blocks": 8,
    }
    return config.to_dict() | values | {"num_labels": tiny_models.LABELS, "dtype": "float32"}


def load(folder, text):
    (folder / "config.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    return load_config(Source(str(folder)))


def load_and_use(folder, text):
    config = load(folder, text)
    tiny_models.task_class("Model")(config, _do_init=False)
    config.to_json_string()


def test_the_content_is_valid(tmp_path, content):
    config = load(tmp_path, json.dumps(content))
    assert config.hidden_size == tiny_models.D
    assert SparsityConfig.from_hf(config).random_attention == "fixed"


WRONG = {
    "list": [1],
    "object": {"a": 1},
    "nested": [[[]]],
    "text": "nonsense",
    "huge": 10**30,
    "negative": -(2**40),
    "not a number": float("nan"),
    "infinite": float("inf"),
}
NO_LIMIT = {"dtype", "torch_dtype", "transformers_version", "attention_implementation"}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("key", sorted(_FILE_RULES))
def test_a_wrong_value_names_the_file_and_the_key(tmp_path, content, key, name):
    is_text = key in {*NO_LIMIT, "model_type", "hidden_act", "random_attention", "attention_type"}
    is_valid = {"list": ("eos_token_id",), "object": ("label2id",), "text": NO_LIMIT}
    if key in is_valid.get(name, ()):
        return
    text = json.dumps(content | {key: WRONG[name]})
    with pytest.raises(CheckpointError) as error:
        load(tmp_path, text)
    message = str(error.value)
    assert str(tmp_path) in message
    assert key in message or (is_text and name == "text" and "big_bird" in message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_labels": 10**12, "id2label": None}, "num_labels must be at most 1,048,576"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be at most 1,024"),
        ({"vocab_size": 2**31}, "vocab_size must be at most 2,147,483,647; got 2147483648"),
        ({"hidden_size": True}, "hidden_size must be an integer; got True"),
        ({"vocab_size": 10**400}, "vocab_size must be at most .*; got an integer of 401 digits"),
        ({"id2label": ["a", "b"]}, "id2label must map integers to texts"),
        ({"id2label": {"a": "b"}}, "id2label must map integers to texts"),
        ({"label2id": {"a": "b"}}, "label2id must map texts to integers"),
        ({"architectures": "BigBirdModel"}, "architectures must be a list of texts"),
        ({"to_dict": 1}, "'to_dict' is no key of a configuration"),
        ({"__class__": "x"}, "'__class__' is no key of a configuration"),
        ({"per_layer_config": {"0": {}}}, "per_layer_config must be null"),
        ({"num_attention_heads": 3}, "hidden_size must be a multiple of"),
        ({"model_type": "bert"}, "load models of type 'big_bird'; config.json .* says 'bert'"),
        ({"attention_implementation": "nonsense"}, "implementation must be one of"),
    ],
)
def test_limits_and_types(tmp_path, content, changes, message):
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path, json.dumps(content | changes))


def test_values_that_contradict_each_other(tmp_path, content):
    (tmp_path / "config.json").write_text(json.dumps(content | {"num_attention_heads": 3}))
    with pytest.raises(CheckpointError, match=r"config\.json of .*hidden_size must be a multiple"):
        tiny_models.task_class("Model").from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["list", "object"])
@pytest.mark.parametrize("depth", [MAX_NESTING + 1, 900, 100_000])
def test_deep_nesting(tmp_path, content, kind, depth):
    text = json.dumps(content | {"x": "@"}).replace('"@"', nested(depth, kind))
    with pytest.raises(CheckpointError, match=r"nested at most 50 levels|is not JSON"):
        load(tmp_path, text)


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '{"a": ' + 5000 * "9" + "}", "\ud800"])
def test_files_that_hold_no_object(tmp_path, text):
    with pytest.raises(
        CheckpointError, match=r"config\.json (is not JSON|must hold a JSON object)"
    ):
        load(tmp_path, text)


@pytest.mark.filterwarnings("ignore")
@few_and_many
def test_mutated_configurations(tmp_path, content, count):
    outcomes = collections.Counter()
    for seed in range(150 * count):
        text, change = mutate_json(content, random.Random(seed))
        _, error = attempt(load_and_use, tmp_path, text)
        is_expected = isinstance(error, CheckpointError) and "config.json" in str(error)
        if error is not None and not is_expected:
            raise AssertionError(f"seed {seed}: {change}") from error
        outcomes["loaded" if error is None else "refused"] += 1
    assert min(outcomes.values()) > 20, outcomes


FORMATS = {
    "safetensors": {},
    "msgpack": {"safe_serialization": False},
    "sharded safetensors": {"max_shard_size": 3000},
    "sharded msgpack": {"max_shard_size": 3000, "safe_serialization": False},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each format."""
    model = tiny_models.model("ForSequenceClassification")
    root = tmp_path_factory.mktemp("formats")
    for name, options in FORMATS.items():
        model.save_pretrained(root / name, **options)
    return {name: root / name for name in FORMATS}


@pytest.fixture
def copy_of(folders, tmp_path):
    """Returns a copy of the folder of a format."""

    def copy(name):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        return shutil.copytree(folders[name], folder)

    return copy


def load_params(folder) -> tuple[dict[Any, Any], bool]:
    """Returns the parameters by path, and whether a warning was given."""
    cls = tiny_models.task_class("ForSequenceClassification")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, params = cls.from_pretrained(folder, _do_init=False)
    return flatten_dict(params), any(w.category is CheckpointWarning for w in caught)


def expected_params() -> dict[Any, Any]:
    return flatten_dict(tiny_models.model("ForSequenceClassification").params)


KERNEL = ("classifier", "dense", "kernel")


@pytest.mark.parametrize(
    "dtype",
    [np.int32, np.int64, np.uint8, np.bool_, np.complex64, jnp.float8_e4m3fn],
    ids=lambda dtype: np.dtype(dtype).name,
)
def test_parameters_of_another_dtype(copy_of, dtype):
    folder = copy_of("msgpack")
    path = folder / "flax_model.msgpack"
    tree: dict[Any, Any] = flatten_dict(serialization.msgpack_restore(path.read_bytes()))
    tree[KERNEL] = np.asarray(tree[KERNEL]).astype(dtype)
    path.write_bytes(serialization.msgpack_serialize(unflatten_dict(tree)))
    name = np.dtype(dtype).name
    message = rf"float64; in .*flax_model\.msgpack, 1 are not: classifier/dense/kernel is {name}"
    with pytest.raises(CheckpointError, match=message):
        load_params(folder)


def test_integer_weights_in_safetensors(copy_of):
    folder = copy_of("safetensors")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["classifier.dense.weight"] = tensors["classifier.dense.weight"].astype(np.int32)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"classifier/dense/kernel is int32"):
        load_params(folder)


def change_tree(path, generator):
    """Changes one leaf of a msgpack file, and returns how."""
    flat = flatten_dict(serialization.msgpack_restore(path.read_bytes()))
    key = generator.choice(sorted(flat))
    leaf = np.asarray(flat.pop(key))
    changes = {
        "renamed": lambda: {(*key[:-1], f"{key[-1]}x"): leaf},
        "moved": lambda: {("x", *key): leaf},
        "below itself": lambda: {(*key, "y"): leaf},
        "integers": lambda: {key: leaf.astype(np.int64)},
        "bits": lambda: {key: leaf.view(np.int32)},
        "truths": lambda: {key: leaf > 0},
        "text": lambda: {key: "x"},
        "null": lambda: {key: None},
        "list": lambda: {key: [1.0, 2.0]},
        "number": lambda: {key: 3.5},
        "shape": lambda: {key: leaf[None]},
        "missing": lambda: {},
    }
    kind = generator.choice([*changes, "key", "deep"])
    if kind == "key":
        path.write_bytes(msgpack.packb({3: 1.0}))
    elif kind == "deep":
        path.write_bytes(100_000 * b"\x81\xa1a" + b"\x01")
    else:
        path.write_bytes(serialization.msgpack_serialize(unflatten_dict(flat | changes[kind]())))
    return f"{kind}: {'/'.join(key)}"


SHARDS = ("/etc/passwd", "../x.safetensors", "..", ".", "", "a" * 5000, "x\0y", "config.json", 3)


def change_index(path, generator):
    """Changes one value of an index of shards, and returns how."""
    content = json.loads(path.read_text())
    if generator.random() < 0.5:
        text, change = mutate_json(content, generator)
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        return change
    name = generator.choice(sorted(content["weight_map"]))
    content["weight_map"][name] = shard = generator.choice(SHARDS)
    path.write_text(json.dumps(content))
    return f"{name} in {str(shard)[:20]!r}"


def change_file(folder, generator):
    """Changes one file of weights or index.

    Returns:
      How, and whether the parameters cannot be those that were saved.
    """
    path = generator.choice(sorted(p for p in folder.iterdir() if p.name != "config.json"))
    if path.suffix == ".json":
        return f"{path.name}: {change_index(path, generator)}", True
    if path.suffix == ".msgpack" and generator.random() < 0.6:
        return f"{path.name}: {change_tree(path, generator)}", True
    content, change = mutate_bytes(path.read_bytes(), generator)
    path.write_bytes(content)
    return f"{path.name}: {change}", False


@few_and_many
def test_mutated_weights(copy_of, count):
    """They are refused, give a warning, or have the names, shapes and dtypes of the model.

    Nothing but a checksum, which published checkpoints lack, shows other values.
    """
    expected = expected_params()
    outcomes = collections.Counter()
    for seed in range(60 * count):
        generator = random.Random(seed)
        folder = copy_of(generator.choice(list(FORMATS)))
        change, is_structural = change_file(folder, generator)
        loaded, error = attempt(load_params, folder)
        if error is not None:
            is_shape = isinstance(error, ValueError) and "must have the shapes" in str(error)
            is_expected = is_shape or isinstance(error, CheckpointError)
            if not is_expected or str(folder) not in str(error):
                raise AssertionError(f"seed {seed}: {change}") from error
            outcomes["refused"] += 1
            continue
        params, warned = loaded
        outcomes["warned" if warned else "loaded"] += 1
        if warned:
            continue
        for path, leaf in expected.items():
            found = params[path]
            assert found.shape == leaf.shape, f"seed {seed}: {change}"
            assert jnp.issubdtype(found.dtype, jnp.floating), f"seed {seed}: {change}"
            if is_structural:
                assert np.array_equal(found, leaf), f"seed {seed}: {change}"
    assert outcomes["refused"] > 20, outcomes


@pytest.mark.parametrize("shard", SHARDS, ids=lambda shard: str(shard)[:12].replace("\0", "0"))
def test_an_index_names_files_beside_it(copy_of, shard):
    folder = copy_of("sharded safetensors")
    path = folder / "model.safetensors.index.json"
    content = json.loads(path.read_text())
    content["weight_map"]["classifier.dense.weight"] = shard
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"index\.json must be a JSON index of shards"):
        load_params(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"weight_map": ' + nested(900, "object") + "}"])
def test_a_deeply_nested_index(copy_of, text):
    folder = copy_of("sharded msgpack")
    (folder / "flax_model.msgpack.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json must be a JSON index of shards"):
        load_params(folder)


def test_a_malformed_generation_config(tmp_path):
    model = tiny_models.model("ForCausalLM")
    model.save_pretrained(tmp_path)
    for text in ("[", "[]", '{"max_length": "x", "do_sample": {}}', '{"cache_config": 3}'):
        (tmp_path / "generation_config.json").write_text(text)
        _, error = attempt(type(model).from_pretrained, tmp_path)
        if error is not None:
            assert isinstance(error, CheckpointError)
            assert "generation_config.json" in str(error)
