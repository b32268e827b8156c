"""Parity with the Flax port that `transformers` removed: files it wrote, numbers it computed.

The goldens and their maker are in `tests/goldens`. What HF-Flax does and we do not is in
`docs/parity.md`.
"""

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from flax.traverse_util import flatten_dict
from golden_format import read_calls
from parity_tools import GOLDENS, call_id, close, golden_calls, named_outputs, open_call, run

import flax_bigbird

PORT = GOLDENS / "hf_flax"
DIFFERENT = {("model", "short_sparse")}  # stated by test_short_encoder_uses_full_attention
CALLS = [c for c in golden_calls("hf_flax") if (c[0].name, c[1]) not in DIFFERENT]
FOLDERS = sorted(p.parent for p in PORT.glob("*/flax_model.msgpack"))


def flat(tree):
    return {"/".join(path): np.asarray(leaf) for path, leaf in flatten_dict(tree).items()}


def model_class(folder):
    """The class that the folder's config.json names."""
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    return getattr(flax_bigbird, f"Flax{name.removeprefix('Flax')}")


@pytest.mark.parametrize("folder", FOLDERS, ids=call_id)
def test_msgpack_loads_leaf_for_leaf(folder):
    module_kwargs = {"add_pooling_layer": True} if folder.name == "question_pooled" else {}
    _, params = model_class(folder).from_pretrained(folder, _do_init=False, **module_kwargs)
    theirs = flat(serialization.msgpack_restore((folder / "flax_model.msgpack").read_bytes()))
    ours = flat(params)
    assert set(ours) == set(theirs)
    for path, leaf in theirs.items():
        np.testing.assert_array_equal(ours[path], leaf, err_msg=path, strict=True)


@pytest.mark.parametrize("folder", FOLDERS, ids=call_id)
def test_our_tree_has_the_same_leaves_and_shapes(folder):
    cls = model_class(folder)
    module_kwargs = {"add_pooling_layer": True} if folder.name == "question_pooled" else {}
    model, params = cls.from_pretrained(folder, _do_init=False, **module_kwargs)
    leaves: dict[str, Any] = flatten_dict(model.params_shape_tree, sep="/")
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    assert shapes == {path: leaf.shape for path, leaf in flat(params).items()}


@pytest.mark.parametrize("form", ["masked_lm_sharded", "masked_lm_safetensors"])
def test_other_files_hold_the_same_leaves(form):
    cls = flax_bigbird.FlaxBigBirdForMaskedLM
    _, params = cls.from_pretrained(PORT / form, _do_init=False)
    _, plain = cls.from_pretrained(PORT / "masked_lm", _do_init=False)
    ours, theirs = flat(params), flat(plain)
    assert set(ours) == set(theirs)
    for path, leaf in theirs.items():
        np.testing.assert_array_equal(ours[path], leaf, err_msg=path, strict=True)


@pytest.mark.parametrize(("folder", "name"), CALLS, ids=call_id)
def test_outputs(folder, name):
    call = read_calls(folder)[name]
    model, params = open_call(folder, call)
    output = named_outputs(run(model, params, call["in"], **call["kwargs"]))
    # Sparse probabilities are ours alone (HF-Flax returns None); nothing else may be extra.
    assert set(output) == set(call["out"])
    for key, theirs in call["out"].items():
        close(output[key], theirs, key)


def test_short_encoder_uses_full_attention():
    """T <= (5 + 2R) W: full attention here, as in HF-Torch; HF-Flax runs sparse."""
    folder = PORT / "model"
    call = read_calls(folder)["short_sparse"]
    model, params = open_call(folder, call)
    output = run(model, params, call["in"], output_attentions=True)
    ours = output.last_hidden_state
    assert [x.shape for x in output.attentions] == [(2, 3, 24, 24)] * 2  # neither port has them
    call["overrides"]["attention_type"] = "original_full"
    full, _ = open_call(folder, call)
    close(ours, run(full, params, call["in"]).last_hidden_state, "full attention", 3e-6)
    assert jnp.abs(ours - call["out"]["last_hidden_state"]).max() > 1e-2
