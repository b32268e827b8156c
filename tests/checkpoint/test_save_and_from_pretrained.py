"""Tests `from_pretrained` and `save_pretrained` of the task classes."""

import json
import warnings
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from checkpoint_models import GOLDENS, random_model, save_random_model, tiny_config
from checkpoint_trees import SHARD_SIZE, assert_trees_equal
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


def checkpoint_warnings(record):
    """Returns the messages of the checkpoint warnings in a record."""
    return [str(w.message) for w in record if issubclass(w.category, CheckpointWarning)]


def load(cls, folder, **kwargs) -> tuple[dict[tuple[str, ...], Any], list[str]]:
    """Returns `(flat params, messages)`, without initializing parameters."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        _, params = cls.from_pretrained(folder, _do_init=False, **kwargs)
    return flatten_dict(params), checkpoint_warnings(record)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(
    "options",
    [{}, {"safe_serialization": False}, {"max_shard_size": SHARD_SIZE}],
    ids=["safe", "msgpack", "sharded"],
)
def test_every_task_round_trips(tmp_path, name, tied, options):
    changes = TASKS[name] | {"tie_word_embeddings": tied}
    params = save_random_model(task(name), tmp_path, options=options, **changes)
    assert (("cls", "predictions", "decoder", "kernel") in params) == (
        not tied and name in ("ForPreTraining", "ForMaskedLM", "ForCausalLM")
    )
    loaded, messages = load(task(name), tmp_path)
    assert_trees_equal(loaded, params)
    assert not messages


def test_nothing_is_initialized_if_no_parameter_is_missing(tmp_path, monkeypatch):
    params = save_random_model(fb.FlaxBigBirdForMaskedLM, tmp_path)
    cls = fb.FlaxBigBirdPreTrainedModel
    monkeypatch.setattr(cls, "_init_weights", None, raising=False)
    monkeypatch.setattr(cls, "init_weights", lambda *_: pytest.fail("initialised"))
    model = fb.FlaxBigBirdForMaskedLM.from_pretrained(tmp_path)
    assert_trees_equal(flatten_dict(model.params), params)
    assert model(np.ones((1, 8), np.int32)).logits.shape == (1, 8, 40)


@pytest.mark.usefixtures("standard_dtype_promotion")  # LayerNorm of Flax promotes float16
def test_parameters_keep_the_dtype_of_the_file(tmp_path):
    model, params = random_model(fb.FlaxBigBirdModel, tiny_config())
    model.save_pretrained(tmp_path, params=model.to_bf16(params))
    loaded, params = fb.FlaxBigBirdModel.from_pretrained(tmp_path, jnp.float16, _do_init=False)
    assert loaded.dtype == jnp.float16
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(ml_dtypes.bfloat16)}


def test_missing_head_is_initialized_with_one_warning(tmp_path):
    params = save_random_model(fb.FlaxBigBirdModel, tmp_path)
    with pytest.warns(CheckpointWarning) as record:
        model = fb.FlaxBigBirdForSequenceClassification.from_pretrained(tmp_path, seed=3)
    (message,) = checkpoint_warnings(record)
    assert "4 parameters of FlaxBigBirdForSequenceClassification" in message
    assert "were initialized anew: train them: classifier/dense/bias, classifier/dense/k" in message
    assert record[0].filename == __file__
    flat = flatten_dict(model.params)
    assert_trees_equal({path[1:]: leaf for path, leaf in flat.items() if path[0] == "bert"}, params)
    assert np.asarray(flat["classifier", "dense", "kernel"]).std() > 0


def test_missing_parameters_stay_missing_without_init(tmp_path):
    save_random_model(fb.FlaxBigBirdModel, tmp_path)
    params, messages = load(fb.FlaxBigBirdForQuestionAnswering, tmp_path)
    assert not any(path[0] == "qa_classifier" for path in params)
    assert len(messages) == 1
    assert "are missing from params: qa_classifier/" in messages[0]


@pytest.mark.parametrize("options", [{}, {"safe_serialization": False}])
def test_task_checkpoint_loads_into_encoder(tmp_path, options):
    params = save_random_model(fb.FlaxBigBirdForSequenceClassification, tmp_path, options=options)
    loaded, messages = load(fb.FlaxBigBirdModel, tmp_path)
    assert_trees_equal(
        loaded, {path[1:]: leaf for path, leaf in params.items() if path[0] == "bert"}
    )
    assert len(messages) == 1
    assert "4 parameters" in messages[0]
    assert "FlaxBigBirdModel does not have were not read: classifier/dense/bias" in messages[0]


@pytest.mark.parametrize("name", [n for n in TASKS if n != "Model"])
def test_encoder_checkpoint_loads_into_every_task(tmp_path, name):
    params = save_random_model(fb.FlaxBigBirdModel, tmp_path, **TASKS[name])
    loaded, messages = load(task(name), tmp_path)
    assert len(messages) == 1
    assert "pooler" not in messages[0]
    assert_trees_equal(
        loaded, {("bert", *p): leaf for p, leaf in params.items() if ("bert", *p) in loaded}
    )
    assert {p[1] for p in loaded} >= {"embeddings", "encoder"}


def test_checkpoint_of_another_task_gives_two_warnings(tmp_path):
    save_random_model(fb.FlaxBigBirdForQuestionAnswering, tmp_path)
    _, messages = load(fb.FlaxBigBirdForMaskedLM, tmp_path)
    assert len(messages) == 2
    assert "cls/predictions/bias" in messages[0]
    assert "were not read: qa_classifier/" in messages[1]


def test_warning_for_head_of_another_task_with_same_shapes(tmp_path):
    save_random_model(fb.FlaxBigBirdForTokenClassification, tmp_path, num_labels=1)
    _, messages = load(fb.FlaxBigBirdForMultipleChoice, tmp_path)
    assert any("is that of BigBirdForTokenClassification" in message for message in messages)


def test_error_for_another_architecture(tmp_path):
    save_random_model(fb.FlaxBigBirdModel, tmp_path)
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"of type 'big_bird'; config\.json .* says 'bert'"):
        fb.FlaxBigBirdModel.from_pretrained(tmp_path)


def test_error_if_no_parameter_fits(tmp_path):
    save_random_model(fb.FlaxBigBirdModel, tmp_path)
    from safetensors.numpy import save_file

    save_file({"conv.weight": np.ones((2, 2), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"none of the \d+ parameters .* it has conv/kernel"):
        fb.FlaxBigBirdModel.from_pretrained(tmp_path)


def test_all_mismatched_shapes_are_in_one_error(tmp_path):
    save_random_model(fb.FlaxBigBirdForTokenClassification, tmp_path)
    with pytest.raises(ValueError, match="must have the shapes") as error:
        fb.FlaxBigBirdForTokenClassification.from_pretrained(tmp_path, num_labels=7)
    message = str(error.value)
    assert "classifier/kernel: (16, 3) in the file, (16, 7) in the model" in message
    assert "classifier/bias: (3,) in the file, (7,) in the model" in message
    assert "ignore_mismatched_sizes=True" in message


def test_ignore_mismatched_sizes_initializes_with_warning(tmp_path):
    save_random_model(fb.FlaxBigBirdForTokenClassification, tmp_path)
    with pytest.warns(
        CheckpointWarning, match=r"2 parameters .* of another shape: classifier/bias"
    ):
        model = fb.FlaxBigBirdForTokenClassification.from_pretrained(
            tmp_path, num_labels=7, ignore_mismatched_sizes=True
        )
    assert model.params["classifier"]["kernel"].shape == (16, 7)
    assert model.config.num_labels == 7


def test_pickle_from_2021_loads_without_warnings():
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
def test_config_argument_replaces_the_config_of_the_folder(tmp_path, given):
    save_random_model(fb.FlaxBigBirdModel, tmp_path / "model")
    own = tiny_config(layer_norm_eps=0.5, mine="kept")
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


def test_error_for_config_of_wrong_type(tmp_path):
    save_random_model(fb.FlaxBigBirdModel, tmp_path)
    with pytest.raises(TypeError, match=r"config must be .* got int"):
        fb.FlaxBigBirdModel.from_pretrained(tmp_path, config=3)
    with pytest.raises(CheckpointError, match="config says 'bert'"):
        fb.FlaxBigBirdModel.from_pretrained(tmp_path, config={"model_type": "bert"})


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_error_for_broken_config_file(tmp_path, content):
    save_random_model(fb.FlaxBigBirdModel, tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        fb.FlaxBigBirdModel.from_pretrained(tmp_path)


def test_keywords_set_config_keys_and_module_fields(tmp_path):
    save_random_model(
        fb.FlaxBigBirdForQuestionAnswering, tmp_path, module_kwargs={"add_pooling_layer": True}
    )
    model, params = fb.FlaxBigBirdForQuestionAnswering.from_pretrained(
        tmp_path,
        _do_init=False,
        add_pooling_layer=True,
        num_random_blocks=2,
        random_attention="google",
        from_pt=True,
        trust_remote_code=False,
        proxies=None,
        adapter_kwargs={},
        _commit_hash="a" * 40,
        _from_auto=True,
        _from_pipeline="fill-mask",
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
        options: dict[str, Any] = {wrong: True}
        with pytest.raises(ValueError, match=rf"\(add_pooling_layer\); got {wrong}=True"):
            fb.FlaxBigBirdForQuestionAnswering.from_pretrained(tmp_path, **options)


def test_config_file_keeps_user_keys(tmp_path):
    cls = type("FlaxMineForFlaxTasks", (fb.FlaxBigBirdForTokenClassification,), {})
    own = tiny_config(mine={"a": [1]}, id2label={0: "x", 1: "y", 2: "z"}, padding_invariant=False)
    model, params = random_model(cls, own)
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


def test_generation_config_round_trips(tmp_path):
    cls = fb.FlaxBigBirdForCausalLM
    if not cls.can_generate():
        pytest.skip("this version does not generate")
    model, params = random_model(cls, tiny_config(is_decoder=True))
    model.generation_config.max_length = 33
    model.save_pretrained(tmp_path, params=params)
    assert (tmp_path / "generation_config.json").exists()
    again, _ = cls.from_pretrained(tmp_path, _do_init=False)
    assert again.generation_config.max_length == 33


class OwnModule(nn.Module):
    """A user's module: the encoder under `bert`, and parameters beside it."""

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
def test_parameters_of_user_modules_round_trip(tmp_path, options):
    params = save_random_model(OwnModel, tmp_path, module_kwargs={"heads": 3}, options=options)
    assert {("cls", "kernel"), ("norm", "scale"), ("gamma",)} < set(params)
    loaded, messages = load(OwnModel, tmp_path, heads=3)
    assert_trees_equal(loaded, params)
    assert not messages


def test_frozen_params_are_saved(tmp_path):
    model, params = random_model(fb.FlaxBigBirdModel, tiny_config())
    model.save_pretrained(tmp_path, params=freeze(params))
    assert_trees_equal(load(fb.FlaxBigBirdModel, tmp_path)[0], flatten_dict(params))


def test_error_for_params_of_another_model(tmp_path):
    model, params = random_model(fb.FlaxBigBirdModel, tiny_config())
    flat: dict[tuple[str, ...], Any] = flatten_dict(params)
    flat["pooler", "bias"] = jnp.zeros((2, 16))  # has an axis of two replicas
    del flat["pooler", "kernel"]
    with pytest.raises(ValueError, match="params must be those of the model") as error:
        model.save_pretrained(tmp_path / "new", params=unflatten_dict(flat))
    assert "pooler/kernel is missing" in str(error.value)
    assert "pooler/bias has shape (2, 16), not (16,)" in str(error.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("safe", [True, False])
def test_some_of_the_params_are_saved_with_a_warning(tmp_path, safe):
    """As the removed Flax classes did, without the warning: adapters save what they trained."""
    model, params = random_model(fb.FlaxBigBirdModel, tiny_config())
    part = {"pooler": params["pooler"]}
    with pytest.warns(CheckpointWarning, match=r"params lack \d+ parameters .*embeddings/"):
        model.save_pretrained(tmp_path, params=part, safe_serialization=safe)
    with pytest.warns(CheckpointWarning, match="are missing from params"):
        _, loaded = fb.FlaxBigBirdModel.from_pretrained(tmp_path, _do_init=False)
    assert_trees_equal(flatten_dict(loaded), flatten_dict(part))
    with pytest.raises(ValueError, match="is missing"):
        model.save_pretrained(tmp_path, params={})


def test_proxies_warn(tmp_path):
    save_random_model(fb.FlaxBigBirdModel, tmp_path)
    with pytest.warns(UserWarning, match="set them"):
        fb.FlaxBigBirdModel.from_pretrained(
            tmp_path, _do_init=False, proxies={"https": "proxy:3128"}
        )


def test_other_processes_write_nothing(tmp_path):
    model, params = random_model(fb.FlaxBigBirdModel, tiny_config())
    model.save_pretrained(tmp_path / "new", params=params, is_main_process=False)
    assert not (tmp_path / "new").exists()
    model.save_pretrained(tmp_path / "new", params=params, is_main_process=True)
    assert (tmp_path / "new" / "config.json").is_file()


def test_weight_files_are_loaded_by_name(tmp_path):
    """`load_flax_weights` and `load_flax_sharded_weights` of the removed classes."""
    cls = fb.FlaxBigBirdForMaskedLM
    model, params = random_model(cls, tiny_config())
    want = flatten_dict(params)
    model.save_pretrained(tmp_path / "flax", params=params, safe_serialization=False)
    model.save_pretrained(tmp_path / "torch", params=params)
    model.save_pretrained(
        tmp_path / "shards", params=params, safe_serialization=False, max_shard_size=SHARD_SIZE
    )
    for file in ("flax/flax_model.msgpack", "torch/model.safetensors"):
        assert_trees_equal(flatten_dict(cls.load_flax_weights(str(tmp_path / file))), want)
    shards = sorted((tmp_path / "shards").glob("*.msgpack"))
    assert len(shards) > 1
    assert_trees_equal(flatten_dict(cls.load_flax_sharded_weights(shards)), want)
    with pytest.raises(CheckpointError, match="is no file"):
        cls.load_flax_weights(tmp_path / "flax_model.msgpack")
    with pytest.raises(CheckpointError, match="a weight file ends in"):
        cls.load_flax_weights(tmp_path / "flax" / "config.json")


def test_auto_classes_are_said_to_be_gone():
    class Custom(fb.FlaxBigBirdForMaskedLM):
        pass

    assert Custom.main_input_name == "input_ids"
    with pytest.warns(UserWarning, match="transformers 5 has no FlaxAutoModel: registering Custom"):
        Custom.register_for_auto_class()


def test_error_for_saving_without_params(tmp_path):
    model, _ = random_model(fb.FlaxBigBirdModel, tiny_config())
    with pytest.raises(ValueError, match="holds no parameters"):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_error_for_unknown_keyword_of_save_pretrained(tmp_path):
    model, params = random_model(fb.FlaxBigBirdModel, tiny_config())
    with pytest.raises(TypeError, match="unknown keywords shard_size"):
        model.save_pretrained(tmp_path / "new", params=params, shard_size="5GB")
    assert not (tmp_path / "new").exists()
    model.save_pretrained(tmp_path / "new", params=params, commit_message="used with push_to_hub")
