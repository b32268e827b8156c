"""Signatures that users' programs call by position have the names and order of HF-Flax."""

import importlib
import inspect

import pytest
import tiny_models
from tiny_models import TASKS

from flax_bigbird import FlaxBigBirdPreTrainedModel

CALL = (
    "input_ids attention_mask token_type_ids position_ids head_mask encoder_hidden_states "
    "encoder_attention_mask params dropout_rng indices_rng train output_attentions "
    "output_hidden_states return_dict past_key_values"
)
QUESTION_CALL = (
    "input_ids attention_mask token_type_ids position_ids head_mask question_lengths params "
    "dropout_rng indices_rng train output_attentions output_hidden_states return_dict"
)
OPTIONS = "deterministic output_attentions output_hidden_states return_dict"
STATES = "encoder_hidden_states encoder_attention_mask init_cache"
MODULE_CALL = {
    "Model": f"input_ids attention_mask token_type_ids position_ids head_mask {STATES} {OPTIONS}",
    "ForCausalLM": "input_ids attention_mask position_ids token_type_ids head_mask "
    f"{STATES} {OPTIONS}",
    "ForQuestionAnswering": "input_ids attention_mask token_type_ids position_ids head_mask "
    f"logits_mask {OPTIONS}",
}
OTHER_MODULE_CALL = f"input_ids attention_mask token_type_ids position_ids head_mask {OPTIONS}"


def names(function) -> list[str]:
    """The parameters that may be given by position."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.name != "self" and p.kind != p.KEYWORD_ONLY]


def defaults(function) -> dict[str, object]:
    parameters = inspect.signature(function).parameters.values()
    positional = [p for p in parameters if p.kind != p.KEYWORD_ONLY]
    return {p.name: p.default for p in positional if p.default is not p.empty}


@pytest.mark.parametrize("task", TASKS)
def test_model_call(task):
    call = tiny_models.task_class(task).__call__
    assert names(call) == (QUESTION_CALL if task == "ForQuestionAnswering" else CALL).split()
    assert defaults(call) == dict.fromkeys(names(call)[1:]) | {"train": False}


@pytest.mark.parametrize("task", TASKS)
def test_module_call(task):
    call = tiny_models.module_class(task).__call__
    assert names(call) == MODULE_CALL.get(task, OTHER_MODULE_CALL).split()
    given = defaults(call)
    assert given["deterministic"] is given["return_dict"] is True
    assert given["output_attentions"] is given["output_hidden_states"] is False
    assert given["head_mask"] is None


def test_constructor():
    init = FlaxBigBirdPreTrainedModel.__init__
    assert names(init) == [
        *("config", "input_shape", "seed", "dtype", "_do_init", "gradient_checkpointing"),
        "module_kwargs",
    ]
    kinds = inspect.signature(init).parameters
    assert kinds["module_kwargs"].kind is inspect.Parameter.VAR_KEYWORD


def test_other_methods():
    cls = FlaxBigBirdPreTrainedModel
    assert names(cls.init_weights) == ["rng", "input_shape", "params"]
    assert names(cls.init_cache) == ["batch_size", "max_length"]
    for cast in (cls.to_bf16, cls.to_fp16, cls.to_fp32):
        assert names(cast) == ["params", "mask"]


@pytest.mark.parametrize("task", TASKS)
def test_module_lives_beside_its_model(task):
    """`…Module` is public, and importable from the module its model class lives in."""
    cls = tiny_models.task_class(task)
    home = importlib.import_module(cls.__module__)
    module = tiny_models.module_class(task)
    assert cls.module_class is module
    assert getattr(home, module.__name__) is module


@pytest.mark.parametrize("task", TASKS)
def test_positional_arguments_land_where_they_are_named(task):
    """The first five inputs, by position and by name."""
    model, inputs = tiny_models.model(task), tiny_models.inputs(task)
    inputs["token_type_ids"] = inputs["input_ids"] % 2
    inputs["position_ids"] = inputs["input_ids"] % 7
    inputs["head_mask"] = [0.5, 1.0]
    params = model.params
    by_name = model(**inputs, params=params)
    by_position = model(*inputs.values(), params=params)
    tiny_models.close(by_name, by_position, 0)


def test_attributes():
    model = tiny_models.model("ForMaskedLM")
    assert model.config_class.__name__ == "BigBirdConfig"
    assert model.base_model_prefix == "bert"
    assert model.framework == "flax"
    assert model.dtype == "float32"
    assert model.input_shape == (1, 12 * tiny_models.W)
    assert model.key.shape == (2,)
    assert isinstance(model.module, model.module_class)
    assert type(model._from_config(model.config, _do_init=False)) is type(model)


def test_who_can_generate():
    able = [task for task in TASKS if tiny_models.task_class(task).can_generate()]
    assert able == ["ForCausalLM"]
    assert tiny_models.model("ForMaskedLM").generation_config is None
    assert tiny_models.model("ForCausalLM").generation_config is not None
