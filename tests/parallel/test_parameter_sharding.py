"""Which part of parameters and optimizer states a device holds, from their shardings alone."""

import math

import jax
import pytest
import tiny_models
from jax.sharding import AbstractMesh, AxisType

from flax_bigbird.parallel.parameter_sharding import (
    optimizer_shardings,
    parameter_shardings,
    parameter_spec,
)
from flax_bigbird.train import train_options
from flax_bigbird.train.optimizer import create_optimizer

LAYER = "bert/encoder/layer/0"


def shapes():
    changes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128}
    config = tiny_models.config(**changes)
    return tiny_models.task_class("ForMaskedLM")(config, _do_init=False).params_shape_tree


def held_part(tree, shardings):
    pairs = [*zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)]
    held = sum(math.prod(sharding.shard_shape(leaf.shape)) for leaf, sharding in pairs)
    return held / sum(leaf.size for leaf, _ in pairs)


@pytest.mark.parametrize("optim", ["adamw", "muon"])
@pytest.mark.parametrize(
    ("sizes", "part"), [((2, 1), 1 / 2), ((4, 1), 1 / 4), ((1, 2), 1 / 2), ((2, 2), 1 / 4)]
)
def test_a_device_holds_its_part(sizes, part, optim):
    """Of the axes "fsdp" and "tensor"; what they leave whole is small."""
    mesh = AbstractMesh(sizes, ("fsdp", "tensor"), (AxisType.Auto,) * 2)
    options = train_options("masked-lm", train_files=["-"], output_dir="-", optim=optim)
    optimizer, params = create_optimizer(options, 10), shapes()
    state = jax.eval_shape(optimizer.init, params)
    assert held_part(params, parameter_shardings(mesh, params)) <= part + 0.1
    assert held_part(state, optimizer_shardings(mesh, optimizer, params)) <= part + 0.1


@pytest.mark.parametrize(
    ("path", "shape", "axes"),
    [
        ("bert/embeddings/word_embeddings/embedding", (40, 16), ("tensor", "fsdp")),
        ("bert/embeddings/word_embeddings/embedding", (41, 16), (None, "fsdp")),
        ("bert/embeddings/position_embeddings/embedding", (48, 16), ("sequence", "fsdp")),
        ("bert/embeddings/position_embeddings/embedding", (49, 16), (None, "fsdp")),
        ("bert/embeddings/token_type_embeddings/embedding", (2, 16), (None, "fsdp")),
        ("bert/embeddings/token_type_embeddings/embedding", (2, 15), ("fsdp", None)),
        (f"{LAYER}/attention/self/query/kernel", (16, 16), ("fsdp", "tensor")),
        (f"{LAYER}/attention/self/query/bias", (16,), ("tensor",)),
        (f"{LAYER}/attention/output/dense/kernel", (16, 16), ("tensor", "fsdp")),
        (f"{LAYER}/attention/output/dense/bias", (16,), (None,)),
        (f"{LAYER}/intermediate/dense/kernel", (16, 24), ("fsdp", "tensor")),
        (f"{LAYER}/intermediate/dense/bias", (24,), ("tensor",)),
        (f"{LAYER}/output/dense/kernel", (24, 16), ("tensor", "fsdp")),
        (f"{LAYER}/output/LayerNorm/scale", (16,), (None,)),
        ("cls/predictions/decoder/kernel", (16, 40), ("fsdp", "tensor")),
        ("cls/predictions/bias", (40,), ("tensor",)),
        ("bert/pooler/kernel", (16, 16), ("fsdp", None)),
    ],
)
def test_which_axes_split_a_parameter(path, shape, axes):
    names = ("fsdp", "sequence", "tensor")
    assert tuple(parameter_spec(path, shape, dict.fromkeys(names, 2))) == axes
    assert set(parameter_spec(path, shape, dict.fromkeys(names, 1))) == {None}
