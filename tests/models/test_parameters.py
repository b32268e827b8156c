"""The parameter tree: names and shapes, initialization, assignment and casts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from flax.core import freeze
from flax.traverse_util import flatten_dict, unflatten_dict
from tiny_models import TASKS
from transformers import BigBirdConfig

POOLED = {"Model", "ForPreTraining", "ForSequenceClassification", "ForMultipleChoice"}


def dense(rows: int, columns: int, *, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {"kernel": (rows, columns)} | ({"bias": (columns,)} if bias else {})


def norm(width: int) -> dict[str, tuple[int, ...]]:
    return {"scale": (width,), "bias": (width,)}


def expected_shapes(task: str, config: BigBirdConfig, *, pooling: bool | None = None):
    """Returns the shape of every parameter that HF-Flax's checkpoints hold."""
    D, F, V = config.hidden_size, config.intermediate_size, config.vocab_size
    num_labels = config.num_labels
    assert num_labels is not None

    def attention():
        projections = {p: dense(D, D, bias=config.use_bias) for p in ("query", "key", "value")}
        return {"self": projections, "output": {"dense": dense(D, D), "LayerNorm": norm(D)}}

    layer = {
        "attention": attention(),
        "intermediate": {"dense": dense(D, F)},
        "output": {"dense": dense(F, D), "LayerNorm": norm(D)},
    }
    if config.add_cross_attention:
        layer["crossattention"] = attention()
    bert = {
        "embeddings": {
            "word_embeddings": {"embedding": (V, D)},
            "position_embeddings": {"embedding": (config.max_position_embeddings, D)},
            "token_type_embeddings": {"embedding": (config.type_vocab_size, D)},
            "LayerNorm": norm(D),
        },
        "encoder": {"layer": {str(i): layer for i in range(config.num_hidden_layers)}},
    }
    if task in POOLED if pooling is None else pooling:
        bert["pooler"] = dense(D, D)
    predictions = {"bias": (V,), "transform": {"dense": dense(D, D), "LayerNorm": norm(D)}}
    if not config.tie_word_embeddings:
        predictions["decoder"] = dense(D, V, bias=False)
    heads = {
        "Model": {},
        "ForPreTraining": {"cls": {"predictions": predictions, "seq_relationship": dense(D, 2)}},
        "ForMaskedLM": {"cls": {"predictions": predictions}},
        "ForCausalLM": {"cls": {"predictions": predictions}},
        "ForSequenceClassification": {
            "classifier": {"dense": dense(D, D), "out_proj": dense(D, num_labels)}
        },
        "ForMultipleChoice": {"classifier": dense(D, 1)},
        "ForTokenClassification": {"classifier": dense(D, num_labels)},
        "ForQuestionAnswering": {
            "qa_classifier": {
                "intermediate": {"dense": dense(D, F)},
                "output": {"dense": dense(F, D), "LayerNorm": norm(D)},
                "qa_outputs": dense(D, 2),
            }
        },
    }
    tree = bert if task == "Model" else {"bert": bert, **heads[task]}
    return flatten_dict(tree, sep="/")


def shapes(model) -> dict[str, tuple[int, ...]]:
    tree = tiny_models.flat(model.params_shape_tree)
    assert {leaf.dtype.name for leaf in tree.values()} == {"float32"}
    return {path: leaf.shape for path, leaf in tree.items()}


@pytest.mark.parametrize("task", TASKS)
def test_tree_of_the_base_model(task):
    """The tree has the published size; no array is allocated."""
    options: dict[str, Any] = {"num_labels": 5, "is_decoder": task == "ForCausalLM"}
    config = BigBirdConfig(**options)
    model = tiny_models.task_class(task)(config, _do_init=False)
    assert shapes(model) == expected_shapes(task, config)
    assert model.required_params == set(flatten_dict(model.params_shape_tree))


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("Model", {"use_bias": False}),
        ("Model", {"add_cross_attention": True}),
        ("ForCausalLM", {"add_cross_attention": True, "is_decoder": True}),
        ("ForMaskedLM", {"tie_word_embeddings": False}),
        ("ForPreTraining", {"attention_type": "original_full"}),
        ("ForMaskedLM", {"type_vocab_size": 1, "num_random_blocks": 0}),
    ],
)
def test_tree_of_other_configurations(task, changes):
    config = tiny_models.config(**changes)
    model = tiny_models.task_class(task)(config, _do_init=False)
    assert shapes(model) == expected_shapes(task, config)


def test_pooling_layer_of_question_answering_and_of_the_bare_model():
    config = tiny_models.config()
    for task in ("ForQuestionAnswering", "Model"):
        for pooling in (True, False):
            cls = tiny_models.task_class(task)
            model = cls(config, _do_init=False, add_pooling_layer=pooling)
            assert shapes(model) == expected_shapes(task, config, pooling=pooling)


@pytest.mark.parametrize("task", TASKS)
def test_params_are_plain_nested_dicts_of_jax_arrays(task):
    params = tiny_models.model(task).params
    assert type(params) is dict
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    assert {p: x.shape for p, x in tiny_models.flat(params).items()} == shapes(
        tiny_models.model(task)
    )


@pytest.mark.parametrize("task", TASKS)
def test_default_input_shape(task):
    """(1, 12 W) when sparse, (1, 1) when full; one more axis for multiple choice."""
    choices = (1,) if task == "ForMultipleChoice" else ()
    for kind, length in (("block_sparse", 12 * tiny_models.W), ("original_full", 1)):
        model = tiny_models.task_class(task)(
            tiny_models.config(attention_type=kind, is_decoder=True), _do_init=False
        )
        assert model.input_shape == (1, *choices, length)


def test_position_table_shorter_than_the_initial_input():
    model = tiny_models.model(max_position_embeddings=6)
    assert model.input_shape[-1] > 6
    assert np.isfinite(model(np.full((1, 6), 5))[0]).all()


@pytest.mark.parametrize("task", TASKS)
def test_initial_distributions(task):
    """Encoder normal(initializer_range), head dense layers LeCun normal, biases 0, scales 1."""
    config = tiny_models.config(
        initializer_range=0.5, tie_word_embeddings=False, is_decoder=True, num_labels=40
    )
    params = tiny_models.task_class(task)(config).params
    lecun = ("cls/predictions/transform", "cls/predictions/decoder", "cls/seq_relationship")
    lecun += ("classifier", "qa_classifier/qa_outputs")
    for path, leaf in tiny_models.flat(params).items():
        if path.endswith("/bias") or path == "bias":
            assert not leaf.any(), path
        elif path.endswith("/scale"):
            assert (leaf == 1).all(), path
        else:
            want = leaf.shape[0] ** -0.5 if path.startswith(lecun) else 0.5
            error = 5 * want / np.sqrt(2 * leaf.size)
            assert abs(float(jnp.sqrt((leaf**2).mean())) - want) < error, path


def test_seed():
    cls, config = tiny_models.task_class("Model"), tiny_models.config()
    default, zero, one = cls(config), cls(config, seed=0), cls(config, seed=1)
    tiny_models.close(default.params, zero.params, 0)
    word = ("embeddings", "word_embeddings", "embedding")
    assert tiny_models.differ(flatten_dict(zero.params)[word], flatten_dict(one.params)[word])


@pytest.mark.parametrize("task", ["Model", "ForQuestionAnswering"])
def test_callers_configuration_is_never_changed(task):
    """Both Hugging Face ports write num_labels = 2 on the caller's object."""
    config = tiny_models.config(num_labels=7, my_key="value")
    before = config.to_dict()
    model = tiny_models.task_class(task)(config, _do_init=False)
    assert model.config is not config
    assert model.config.my_key == "value"
    assert model.config.num_labels == (2 if task == "ForQuestionAnswering" else 7)
    model.config.vocab_size = 1
    model.config.id2label[0] = "changed"
    assert config.to_dict() == before


class TestSettingParameters:
    def fresh(self):
        return tiny_models.task_class("ForMaskedLM")(tiny_models.config())

    def without(self, tree, *path):
        leaves = flatten_dict(tree)
        del leaves[path]
        return unflatten_dict(leaves)

    def test_a_complete_tree_is_accepted(self):
        model = self.fresh()
        doubled = jax.tree.map(lambda x: 2 * x, model.params)
        model.params = freeze(doubled)
        tiny_models.close(model.params, doubled, 0)
        assert type(model.params) is dict

    def test_missing_parameters_are_named(self):
        model = self.fresh()
        before = model.params
        partial = self.without(before, "cls", "predictions", "bias")
        with pytest.raises(ValueError, match=r"missing: cls/predictions/bias\. .*init_weights"):
            model.params = partial
        assert model.params is before

    def test_init_weights_adds_missing_parameters(self):
        model = self.fresh()
        given = jax.tree.map(lambda x: x + 1, model.params)
        partial = self.without(given, "cls", "predictions", "transform", "dense", "kernel")
        filled = model.init_weights(jax.random.PRNGKey(3), (1, 5), partial)
        leaves: dict[tuple[str, ...], Any] = flatten_dict(filled)
        kernel = leaves.pop(("cls", "predictions", "transform", "dense", "kernel"))
        assert kernel.shape == (tiny_models.D, tiny_models.D)
        tiny_models.close(leaves, flatten_dict(partial), 0)
        model.params = filled

    def test_a_model_without_parameters(self):
        model = tiny_models.task_class("ForMaskedLM")(tiny_models.config(), _do_init=False)
        with pytest.raises(ValueError, match=r"_do_init=False\).*pass params="):
            _ = model.params
        with pytest.raises(ValueError, match="pass params="):
            model(np.ones((1, 4), int))
        with pytest.raises(ValueError, match="_do_init=False: keep them outside"):
            model.params = tiny_models.model("ForMaskedLM").params
        params = model.init_weights(jax.random.PRNGKey(0), model.input_shape)
        assert np.isfinite(model(np.ones((1, 4), int), params=params).logits).all()


class TestCasting:
    def test_all_floating_leaves(self):
        model = tiny_models.model("ForMaskedLM")
        params = model.params | {"steps": jnp.zeros((), jnp.int32)}
        for cast, dtype in (
            (model.to_bf16, "bfloat16"),
            (model.to_fp16, "float16"),
            (model.to_fp32, "float32"),
        ):
            leaves = tiny_models.flat(cast(params))
            assert leaves.pop("steps").dtype == "int32"
            assert {leaf.dtype.name for leaf in leaves.values()} == {dtype}
        assert params["cls"]["predictions"]["bias"].dtype == "float32"

    def test_mask_selects_parameters(self):
        model = tiny_models.model("ForMaskedLM")
        leaves = flatten_dict(model.params)
        mask = unflatten_dict({path: "LayerNorm" not in path for path in leaves})
        for path, leaf in tiny_models.flat(model.to_bf16(model.params, mask)).items():
            assert leaf.dtype == ("float32" if "LayerNorm" in path else "bfloat16")
