"""Tests that checkpoints are exchanged with PyTorch's `transformers` classes in both directions."""

import logging
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_models import random_model, tiny_config
from checkpoint_trees import SHARD_SIZE, assert_trees_equal
from flax.traverse_util import flatten_dict

import flax_bigbird as fb
from flax_bigbird.checkpoint import CheckpointWarning

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

TASKS = (
    "Model",
    "ForPreTraining",
    "ForMaskedLM",
    "ForCausalLM",
    "ForSequenceClassification",
    "ForMultipleChoice",
    "ForTokenClassification",
    "ForQuestionAnswering",
)
POOLER = {"bert.pooler.weight", "bert.pooler.bias"}
UNUSED_POOLER = {"ForMaskedLM", "ForCausalLM", "ForTokenClassification"}
every_task = pytest.mark.parametrize("name", TASKS)
tied_or_not = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def changes(name, tied):
    return {"tie_word_embeddings": tied, "is_decoder": name == "ForCausalLM"}


def torch_model(name, tied):
    model = getattr(transformers, f"BigBird{name}")(tiny_config(**changes(name, tied)))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for leaf in model.parameters():
            leaf.normal_(generator=generator)
    return model


def check_leaves(params, model):
    """Asserts that every parameter equals the tensor of its name, by a rule independent of ours."""
    state = {name: leaf.detach().numpy() for name, leaf in model.state_dict().items()}
    for path, leaf in params.items():
        name = ".".join((*path[:-1], "weight" if path[-1] != "bias" else "bias"))
        if path == ("cls", "predictions", "bias"):
            name = "cls.predictions.decoder.bias"
        theirs = state[name].T if path[-1] == "kernel" else state[name]
        np.testing.assert_array_equal(leaf, theirs, err_msg=name)


@every_task
@tied_or_not
@pytest.mark.parametrize("form", ["safetensors", "sharded", "bin", "old bin"])
def test_files_saved_by_pytorch_are_loaded(tmp_path, recwarn, name, tied, form):
    model = torch_model(name, tied)
    size = f"{SHARD_SIZE / 1000}KB" if form == "sharded" else "10GB"
    model.save_pretrained(tmp_path, max_shard_size=size)
    if form.endswith("bin"):
        (tmp_path / "model.safetensors").unlink()
        torch.save(
            model.state_dict(),
            tmp_path / "pytorch_model.bin",
            _use_new_zipfile_serialization=form == "bin",
        )
    _, params = getattr(fb, f"FlaxBigBird{name}").from_pretrained(tmp_path, _do_init=False)
    check_leaves(flatten_dict(params), model)
    assert not [w for w in recwarn if issubclass(w.category, CheckpointWarning)]


@every_task
@tied_or_not
@pytest.mark.parametrize("size", ["10GB", SHARD_SIZE], ids=["single", "sharded"])
def test_our_files_are_loaded_by_pytorch(tmp_path, caplog, name, tied, size):
    ours, params = random_model(
        getattr(fb, f"FlaxBigBird{name}"), tiny_config(**changes(name, tied))
    )
    ours.save_pretrained(tmp_path, params=params, max_shard_size=size)
    with caplog.at_level(logging.ERROR):
        model, info = getattr(transformers, f"BigBird{name}").from_pretrained(
            tmp_path, output_loading_info=True
        )
    assert set(info["missing_keys"]) == (POOLER if name in UNUSED_POOLER else set())
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    check_leaves(flatten_dict(params), model)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_values_keep_their_bits(tmp_path, dtype):
    model = torch_model("Model", True).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path)
    _, params = fb.FlaxBigBirdModel.from_pretrained(tmp_path, _do_init=False)
    state = model.state_dict()
    leaves: dict[tuple[str, ...], Any] = flatten_dict(params)
    for path, leaf in leaves.items():
        name = ".".join((*path[:-1], "weight" if path[-1] != "bias" else "bias"))
        bits = state[name].view(torch.int16).numpy()
        assert leaf.dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(
            np.asarray(leaf).view(np.int16), bits.T if path[-1] == "kernel" else bits
        )


def test_sharded_pickles_are_loaded(tmp_path):
    import json

    model = torch_model("Model", True)
    model.config.save_pretrained(tmp_path)
    state = list(model.state_dict().items())
    halves = {"pytorch_model-00001-of-00002.bin": state[:9]}
    halves["pytorch_model-00002-of-00002.bin"] = state[9:]
    for file, half in halves.items():
        torch.save(dict(half), tmp_path / file)
    weight_map = {name: file for file, half in halves.items() for name, _ in half}
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    _, params = fb.FlaxBigBirdModel.from_pretrained(tmp_path, _do_init=False)
    _, again = fb.FlaxBigBirdModel.from_pretrained(tmp_path, _do_init=False, from_pt=True)
    check_leaves(flatten_dict(params), model)
    assert_trees_equal(flatten_dict(again), flatten_dict(params))
