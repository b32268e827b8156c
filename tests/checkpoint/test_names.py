"""Tests the conversion of parameter names between PyTorch and linen in both directions."""

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from checkpoint_trees import assert_trees_equal
from hypothesis import given

from flax_bigbird.checkpoint import CheckpointError, names

BERT = ("bert", "embeddings", "word_embeddings", "embedding")
DECODER = ("cls", "predictions", "decoder", "kernel")
BIAS = ("cls", "predictions", "bias")


def array(*shape, value=0.0):
    return np.asarray(value + np.arange(np.prod(shape)).reshape(shape), np.float32)


def round_trip(tree):
    return names.from_torch(names.to_torch(tree), tree)


def test_dense_kernel_is_transposed_and_scale_renamed():
    tree = {
        ("x", "kernel"): array(2, 3),
        ("x", "bias"): array(3),
        ("LayerNorm", "scale"): array(3),
        ("words", "embedding"): array(4, 3),
    }
    tensors = names.to_torch(tree)
    assert {name: leaf.shape for name, leaf in tensors.items()} == {
        "x.weight": (3, 2),
        "x.bias": (3,),
        "LayerNorm.weight": (3,),
        "words.weight": (4, 3),
    }
    assert all(leaf.flags.c_contiguous for leaf in tensors.values())
    assert_trees_equal(round_trip(tree), tree)


def test_convolution_kernel_gets_the_axes_of_pytorch():
    tree = {("conv", "kernel"): array(5, 4, 2, 3)}  # window, window, in, out
    assert names.to_torch(tree)["conv.weight"].shape == (3, 2, 5, 4)
    assert_trees_equal(round_trip(tree), tree)


@pytest.mark.parametrize("word", ["weight", "gamma", "beta", "temperature", "kernel/scale"])
def test_parameter_of_user_module_keeps_its_name(word):
    tree = {("cls", word): array(2, 3), ("scalar",): array()}
    assert set(names.to_torch(tree)) == {f"cls.{word}", "scalar"}
    assert_trees_equal(round_trip(tree), tree)


words = st.sampled_from(["kernel", "bias", "scale", "embedding", "gamma", "w", "pooler", "cls"])
paths = st.lists(words, min_size=1, max_size=4).map(tuple)
shapes = st.lists(st.integers(0, 3), max_size=4)
dtypes = st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.bool_])


@given(st.dictionaries(paths, st.tuples(shapes, dtypes), max_size=8))
def test_every_tree_round_trips_or_is_an_error(spec):
    tree = {path: np.ones(shape, dtype) for path, (shape, dtype) in spec.items()}
    if len({names.torch_name(path) for path in tree}) < len(tree):
        with pytest.raises(ValueError, match="must differ in their PyTorch names"):
            names.to_torch(tree)
    else:
        assert_trees_equal(round_trip(tree), tree)


def test_old_torch_names_are_converted():
    tensors = {
        "bert.embeddings.LayerNorm.gamma": array(3),
        "bert.embeddings.LayerNorm.beta": array(3, value=1),
        "bert.embeddings.position_ids": np.arange(4),
        "bert.embeddings.token_type_ids": np.arange(4),
    }
    norm = ("bert", "embeddings", "LayerNorm")
    flat = names.from_torch(tensors, [(*norm, "scale"), (*norm, "bias")])
    assert_trees_equal(flat, {(*norm, "scale"): array(3), (*norm, "bias"): array(3, value=1)})


def test_backbone_prefix_is_added_or_removed():
    word = array(4, 3)
    assert set(names.from_torch({"embeddings.word_embeddings.weight": word}, [BERT])) == {BERT}
    bare = {"bert.embeddings.word_embeddings.weight": word}
    assert set(names.from_torch(bare, [BERT[1:]])) == {BERT[1:]}
    assert set(names.from_linen({BERT: word}, [BERT[1:]], "bert")) == {BERT[1:]}
    assert set(names.from_dotted({".".join(BERT[1:]): word}, [BERT])) == {BERT}


def test_parameter_held_twice_is_an_error():
    word = array(4, 3)
    tensors = {
        "embeddings.word_embeddings.weight": word,
        "bert.embeddings.word_embeddings.weight": word,
    }
    with pytest.raises(CheckpointError, match=r"once; several tensors are for bert/embeddings"):
        names.from_torch(tensors, [BERT])


def decoder(weight, bias, head_bias):
    tensors = {
        "bert.embeddings.word_embeddings.weight": array(4, 3),
        "cls.predictions.decoder.weight": weight,
        "cls.predictions.decoder.bias": bias,
        "cls.predictions.bias": head_bias,
    }
    return {name: leaf for name, leaf in tensors.items() if leaf is not None}


def test_copies_of_tied_weights_are_dropped():
    flat = names.from_torch(decoder(array(4, 3), array(4), array(4)), [BERT, BIAS])
    assert_trees_equal(flat, {BERT: array(4, 3), BIAS: array(4)})


def test_tied_weights_that_differ_are_kept():
    tensors = decoder(array(4, 3, value=1), array(4, value=1), array(4))
    flat = names.from_torch(tensors, [BERT, BIAS])
    assert set(flat) == {BERT, BIAS, DECODER, (*DECODER[:-1], "bias")}
    np.testing.assert_array_equal(flat[BIAS], array(4))


def test_decoder_bias_is_used_if_head_bias_is_absent():
    flat = names.from_torch(decoder(None, array(4), None), [BERT, BIAS])
    assert_trees_equal(flat, {BERT: array(4, 3), BIAS: array(4)})


def test_untied_decoder_bias_becomes_head_bias():
    tensors = decoder(array(4, 3, value=1), array(4, value=1), array(4))
    tree = {BERT: array(4, 3), BIAS: array(4, value=1), DECODER: array(4, 3, value=1).T}
    assert_trees_equal(names.from_torch(tensors, tree), tree)
    written = names.to_torch(tree)
    assert set(written) == set(tensors)
    for name in ("cls.predictions.bias", "cls.predictions.decoder.bias"):
        np.testing.assert_array_equal(written[name], array(4, value=1))


@pytest.mark.parametrize(
    ("metadata", "leaf_names", "linen"),
    [
        ({"format": "flax"}, ["x.weight"], True),
        ({"format": "pt"}, ["x.kernel"], False),
        (None, ["x.kernel", "x.bias"], True),
        ({"format": "np"}, ["x.weight", "x.bias"], False),
        ({}, ["x.weight", "y.weight", "norm.scale"], False),
    ],
)
def test_linen_names_are_recognized(metadata, leaf_names, linen):
    assert names.uses_linen_names(leaf_names, metadata) is linen
