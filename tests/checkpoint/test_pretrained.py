"""`from_pretrained` and `save_pretrained` of the task classes."""

import json
import warnings

import flax.linen as nn
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from checkpoint_tools import GOLDENS, SHARDED, config, random_params, same, saved
from flax.core import freeze
from flax.traverse_util import flatten_dict, unflatten_dict
from transformers import BertConfig, BigBirdConfig

import flax_bigbird as fb
from flax_bigbird.checkpoint import CheckpointError, CheckpointWarning
from flax_bigbird.checkpoint.torch_pickle import load_torch_pickle

TASKS = {
    "Model": {},
    "ForPreTraining": {},
    "ForMaskedLM": {},
    "ForCausalLM": {"is_decoder": True},
    "ForSequenceClassification": {},
    "ForMultipleChoice": {},
    "ForTokenClassification": {},
    "ForQuestionAnswering": {},
}


def task(name):
    return getattr(fb, f"FlaxBigBird{name}")


def warned(record):
    return [str(w.message) for w in record if issubclass(w.category, CheckpointWarning)]


def load(cls, folder, **kwargs):
    """`(flat params, messages)`, without making parameters."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        _, params = cls.from_pretrained(folder, _do_init=False, **kwargs)
    return flatten_dict(params), warned(record)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(
    "options",
    [{}, {"safe_serialization": False}, {"max_shard_size": SHARDED}],
    ids=["safe", "msgpack", "sharded"],
)
def test_every_task_returns_whole(tmp_path, name, tied, options):
    changes = TASKS[name] | {"tie_word_embeddings": tied}
    params = saved(task(name), tmp_path, options=options, **changes)
    assert (("cls", "predictions", "decoder", "kernel") in params) == (
        not tied and name in ("ForPreTraining", "ForMaskedLM", "ForCausalLM")
    )
    read, messages = load(task(name), tmp_path)
    same(read, params)
    assert not messages


def test_nothing_is_initialised_when_every_leaf_is_there(tmp_path, monkeypatch):
    params = saved(fb.FlaxBigBirdForMaskedLM, tmp_path)
    cls = fb.FlaxBigBirdPreTrainedModel
    monkeypatch.setattr(cls, "_init_weights", None, raising=False)
    monkeypatch.setattr(cls, "init_weights", lambda *_: pytest.fail("initialised"))
    model = fb.FlaxBigBirdForMaskedLM.from_pretrained(tmp_path)
    same(flatten_dict(model.params), params)
    assert model(np.ones((1, 8), np.int32)).logits.shape == (1, 8, 40)


def test_parameters_keep_the_files_dtype(tmp_path):
    model, params = random_params(fb.FlaxBigBirdModel, config())
    model.save_pretrained(tmp_path, params=model.to_bf16(params))
    loaded, params = fb.FlaxBigBirdModel.from_pretrained(tmp_path, jnp.float16, _do_init=False)
    assert loaded.dtype == jnp.float16
    assert {leaf.dtype for leaf in flatten_dict(params).values()} == {np.dtype(ml_dtypes.bfloat16)}


def test_missing_heads_are_initialised_and_named_once(tmp_path):
    params = saved(fb.FlaxBigBirdModel, tmp_path)
    with pytest.warns(CheckpointWarning) as record:
        model = fb.FlaxBigBirdForSequenceClassification.from_pretrained(tmp_path, seed=3)
    (message,) = warned(record)
    assert "4 leaves of FlaxBigBirdForSequenceClassification" in message
    assert "were initialised anew: train them: classifier/dense/bias, classifier/dense/k" in message
    assert record[0].filename == __file__
    flat = flatten_dict(model.params)
    same({path[1:]: leaf for path, leaf in flat.items() if path[0] == "bert"}, params)
    assert np.asarray(flat["classifier", "dense", "kernel"]).std() > 0


def test_without_init_missing_leaves_are_absent_and_named(tmp_path):
    saved(fb.FlaxBigBirdModel, tmp_path)
    params, messages = load(fb.FlaxBigBirdForQuestionAnswering, tmp_path)
    assert not any(path[0] == "qa_classifier" for path in params)
    assert len(messages) == 1
    assert "are missing from params: qa_classifier/" in messages[0]


@pytest.mark.parametrize("options", [{}, {"safe_serialization": False}])
def test_a_task_loads_into_the_encoder(tmp_path, options):
    params = saved(fb.FlaxBigBirdForSequenceClassification, tmp_path, options=options)
    read, messages = load(fb.FlaxBigBirdModel, tmp_path)
    same(read, {path[1:]: leaf for path, leaf in params.items() if path[0] == "bert"})
    assert len(messages) == 1
    assert "4 leaves" in messages[0]
    assert "FlaxBigBirdModel does not have were not read: classifier/dense/bias" in messages[0]


@pytest.mark.parametrize("name", [n for n in TASKS if n != "Model"])
def test_the_encoder_loads_into_any_task(tmp_path, name):
    params = saved(fb.FlaxBigBirdModel, tmp_path, **TASKS[name])
    read, messages = load(task(name), tmp_path)
    assert len(messages) == 1
    assert "pooler" not in messages[0]
    same(read, {("bert", *p): leaf for p, leaf in params.items() if ("bert", *p) in read})
    assert {p[1] for p in read} >= {"embeddings", "encoder"}


def test_a_wrong_task_is_told_from_both_sides(tmp_path):
    saved(fb.FlaxBigBirdForQuestionAnswering, tmp_path)
    _, messages = load(fb.FlaxBigBirdForMaskedLM, tmp_path)
    assert len(messages) == 2
    assert "cls/predictions/bias" in messages[0]
    assert "were not read: qa_classifier/" in messages[1]


def test_a_head_of_the_same_name_and_shape_is_told(tmp_path):
    saved(fb.FlaxBigBirdForTokenClassification, tmp_path, num_labels=1)
    _, messages = load(fb.FlaxBigBirdForMultipleChoice, tmp_path)
    assert any("is that of BigBirdForTokenClassification" in message for message in messages)


def test_another_architecture(tmp_path):
    saved(fb.FlaxBigBirdModel, tmp_path)
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"of type 'big_bird'; config\.json .* says 'bert'"):
        fb.FlaxBigBirdModel.from_pretrained(tmp_path)


def test_a_checkpoint_with_nothing_of_the_model(tmp_path):
    saved(fb.FlaxBigBirdModel, tmp_path)
    from safetensors.numpy import save_file

    save_file({"conv.weight": np.ones((2, 2), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"none of the \d+ leaves .* it has conv/kernel"):
        fb.FlaxBigBirdModel.from_pretrained(tmp_path)


def test_mismatched_shapes_are_raised_once(tmp_path):
    saved(fb.FlaxBigBirdForTokenClassification, tmp_path)
    with pytest.raises(ValueError, match="must have the shapes") as caught:
        fb.FlaxBigBirdForTokenClassification.from_pretrained(tmp_path, num_labels=7)
    message = str(caught.value)
    assert "classifier/kernel: (16, 3) in the file, (16, 7) in the model" in message
    assert "classifier/bias: (3,) in the file, (7,) in the model" in message
    assert "ignore_mismatched_sizes=True" in message


def test_mismatched_shapes_are_initialised_if_wished(tmp_path):
    saved(fb.FlaxBigBirdForTokenClassification, tmp_path)
    with pytest.warns(CheckpointWarning, match=r"2 leaves .* of another shape: classifier/bias"):
        model = fb.FlaxBigBirdForTokenClassification.from_pretrained(
            tmp_path, num_labels=7, ignore_mismatched_sizes=True
        )
    assert model.params["classifier"]["kernel"].shape == (16, 7)
    assert model.config.num_labels == 7


def test_a_file_of_2021_loads_without_a_word():
    params, messages = load(fb.FlaxBigBirdForMaskedLM, GOLDENS / "torch_bin" / "old_masked_lm")
    assert not messages
    norm = params["bert", "embeddings", "LayerNorm", "scale"]
    assert norm.shape == (4,)
    assert params["bert", "embeddings", "word_embeddings", "embedding"].shape == (12, 4)
    tensors = load_torch_pickle(GOLDENS / "torch_bin" / "old_masked_lm" / "pytorch_model.bin")
    np.testing.assert_array_equal(norm, tensors["bert.embeddings.LayerNorm.gamma"])
    dense = "bert.encoder.layer.0.intermediate.dense"
    path = (*dense.split("."), "kernel")
    np.testing.assert_array_equal(params[path], tensors[f"{dense}.weight"].T)
    assert params[path].shape == (4, 6)


@pytest.mark.parametrize("given", ["object", "dict", "folder", "file"])
def test_a_configuration_of_ones_own(tmp_path, given):
    saved(fb.FlaxBigBirdModel, tmp_path / "model")
    own = config(layer_norm_eps=0.5, mine="kept")
    own.save_pretrained(tmp_path / "own")
    value = {
        "object": own,
        "dict": own.to_dict(),
        "folder": tmp_path / "own",
        "file": str(tmp_path / "own" / "config.json"),
    }[given]
    (tmp_path / "model" / "config.json").unlink()
    model, _ = fb.FlaxBigBirdModel.from_pretrained(
        tmp_path / "model", config=value, _do_init=False, hidden_act="relu"
    )
    assert (model.config.layer_norm_eps, model.config.mine) == (0.5, "kept")
    assert model.config.hidden_act == "relu"
    assert own.hidden_act == "gelu_new"


def test_a_configuration_of_a_wrong_kind(tmp_path):
    saved(fb.FlaxBigBirdModel, tmp_path)
    with pytest.raises(TypeError, match=r"config must be .* got int"):
        fb.FlaxBigBirdModel.from_pretrained(tmp_path, config=3)
    with pytest.raises(CheckpointError, match="config says 'bert'"):
        fb.FlaxBigBirdModel.from_pretrained(tmp_path, config={"model_type": "bert"})


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_broken_config(tmp_path, content):
    saved(fb.FlaxBigBirdModel, tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        fb.FlaxBigBirdModel.from_pretrained(tmp_path)


def test_keywords(tmp_path):
    saved(fb.FlaxBigBirdForQuestionAnswering, tmp_path, module_kwargs={"add_pooling_layer": True})
    model, params = fb.FlaxBigBirdForQuestionAnswering.from_pretrained(
        tmp_path,
        _do_init=False,
        add_pooling_layer=True,
        num_random_blocks=2,
        random_attention="google",
        from_pt=True,
        trust_remote_code=False,
        seed=4,
        gradient_checkpointing=True,
        input_shape=(1, 5),
    )
    assert "pooler" in params["bert"]
    assert model.config.num_random_blocks == 2
    assert model.config.random_attention == "google"
    assert model.input_shape == (1, 5)
    assert not hasattr(model.config, "trust_remote_code")
    for wrong in ("add_pooler", "to_dict"):
        with pytest.raises(ValueError, match=rf"\(add_pooling_layer\); got {wrong}=True"):
            fb.FlaxBigBirdForQuestionAnswering.from_pretrained(tmp_path, **{wrong: True})


def test_the_file_of_the_configuration(tmp_path):
    cls = type("FlaxMineForFlaxTasks", (fb.FlaxBigBirdForTokenClassification,), {})
    own = config(mine={"a": [1]}, id2label={0: "x", 1: "y", 2: "z"}, padding_invariant=False)
    model, params = random_params(cls, own)
    before = model.config.to_dict()
    model.save_pretrained(tmp_path, params=params)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["architectures"] == ["MineForFlaxTasks"]
    assert written["model_type"] == "big_bird"
    assert written["mine"] == {"a": [1]}
    assert model.config.to_dict() == before
    again = BigBirdConfig.from_pretrained(tmp_path)
    assert again.id2label == {0: "x", 1: "y", 2: "z"}
    assert not (tmp_path / "generation_config.json").exists()


def test_the_generation_configuration_travels(tmp_path):
    cls = fb.FlaxBigBirdForCausalLM
    if not cls.can_generate():
        pytest.skip("this version does not generate")
    model, params = random_params(cls, config(is_decoder=True))
    model.generation_config.max_length = 33
    model.save_pretrained(tmp_path, params=params)
    assert (tmp_path / "generation_config.json").exists()
    again, _ = cls.from_pretrained(tmp_path, _do_init=False)
    assert again.generation_config.max_length == 33


class OwnModule(nn.Module):
    """An encoder under `bert` with leaves of the user's beside it."""

    config: BigBirdConfig
    dtype: jnp.dtype = jnp.float32
    gradient_checkpointing: bool = False
    heads: int = 2

    @nn.compact
    def __call__(
        self, input_ids, attention_mask, token_type_ids, position_ids, head_mask, **kwargs
    ):
        bert = fb.FlaxBigBirdModule(config=self.config, name="bert")
        states = bert(input_ids, attention_mask, token_type_ids, position_ids, head_mask)[0]
        states = nn.LayerNorm(name="norm")(states) * self.param("gamma", nn.initializers.ones, ())
        return (nn.Dense(self.heads, name="cls")(states),)


class OwnModel(fb.FlaxBigBirdModel):
    module_class = OwnModule


@pytest.mark.parametrize("options", [{}, {"safe_serialization": False}])
def test_a_users_own_leaves(tmp_path, options):
    params = saved(OwnModel, tmp_path, module_kwargs={"heads": 3}, options=options)
    assert {("cls", "kernel"), ("norm", "scale"), ("gamma",)} < set(params)
    read, messages = load(OwnModel, tmp_path, heads=3)
    same(read, params)
    assert not messages


def test_a_frozen_tree_is_saved(tmp_path):
    model, params = random_params(fb.FlaxBigBirdModel, config())
    model.save_pretrained(tmp_path, params=freeze(params))
    same(load(fb.FlaxBigBirdModel, tmp_path)[0], flatten_dict(params))


def test_params_that_are_not_the_models(tmp_path):
    model, params = random_params(fb.FlaxBigBirdModel, config())
    flat = flatten_dict(params)
    flat["pooler", "bias"] = jnp.zeros((2, 16))  # of two replicas
    del flat["pooler", "kernel"]
    with pytest.raises(ValueError, match="params must be those of the model") as caught:
        model.save_pretrained(tmp_path / "new", params=unflatten_dict(flat))
    assert "pooler/kernel is missing" in str(caught.value)
    assert "pooler/bias has shape (2, 16), not (16,)" in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_model_without_parameters_cannot_be_saved(tmp_path):
    model, _ = random_params(fb.FlaxBigBirdModel, config())
    with pytest.raises(ValueError, match="holds no parameters"):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_unknown_keyword_of_saving(tmp_path):
    model, params = random_params(fb.FlaxBigBirdModel, config())
    with pytest.raises(TypeError, match="unknown keywords shard_size"):
        model.save_pretrained(tmp_path / "new", params=params, shard_size="5GB")
    assert not (tmp_path / "new").exists()
    model.save_pretrained(tmp_path / "new", params=params, commit_message="used with push_to_hub")
