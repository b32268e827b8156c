"""Invalid inputs of models raise errors with the rule, the received value and a remedy.

Invalid files are tested in tests/checkpoint, and the attention library in tests/attention.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from tiny_models import D

from flax_bigbird import FlaxBigBirdPreTrainedModel

IDS = np.full((2, 6), 5)
STATES = np.zeros((2, 4, D), np.float32)

# (task, configuration, arguments, fragments of the message)
CALLS = {
    "one_axis": ("Model", {}, {"input_ids": IDS[0]}, ["[batch, tokens]", "(6,)", "add or remove"]),
    "three_axes": ("Model", {}, {"input_ids": IDS[None]}, ["[batch, tokens]", "(1, 2, 6)"]),
    "no_choices_axis": (
        "ForMultipleChoice",
        {},
        {"input_ids": IDS},
        ["[batch, choices, tokens]", "(2, 6)"],
    ),
    "float_ids": (
        "Model",
        {},
        {"input_ids": IDS * 1.5},
        ["integers, or floats that are whole numbers", "7.5 among float64"],
    ),
    "nan_ids": ("Model", {}, {"input_ids": IDS * np.nan}, ["whole numbers", "nan among float64"]),
    "half_ids": (
        "Model",
        {},
        {"input_ids": IDS.astype(np.float16)},
        ["at least 32 bits", "float16", "astype"],
    ),
    "whole_ids_past_the_vocabulary": ("Model", {}, {"input_ids": IDS + 35.0}, ["0..39", "got 40"]),
    "bool_ids": ("Model", {}, {"input_ids": IDS > 0}, ["integers", "bool", "astype"]),
    "device_half_ids": (
        "Model",
        {},
        {"input_ids": jnp.ones((1, 4), jnp.bfloat16)},
        ["integers", "bfloat16"],
    ),
    "text": ("Model", {}, {"input_ids": "two words"}, ["array of numbers", "str", "tokenize"]),
    "none": ("Model", {}, {"input_ids": None}, ["array of numbers", "NoneType"]),
    "ragged_ids": ("Model", {}, {"input_ids": [[1, 2], [3]]}, ["equal length", "list", "pad"]),
    "no_tokens": ("Model", {}, {"input_ids": IDS[:, :0]}, ["at least one token", "(2, 0)"]),
    "empty_batch": ("Model", {}, {"input_ids": IDS[:0]}, ["at least one token", "(0, 6)", "leave"]),
    "no_choices": (
        "ForMultipleChoice",
        {},
        {"input_ids": np.zeros((2, 0, 5), int)},
        ["at least one token", "(2, 0, 5)"],
    ),
    "too_long": (
        "Model",
        {},
        {"input_ids": np.full((1, 49), 5)},
        ["at most 48 tokens", "max_position_embeddings", "got 49", "truncate"],
    ),
    "too_long_on_device": (
        "Model",
        {},
        {"input_ids": jnp.full((1, 49), 5)},
        ["at most 48 tokens", "got 49"],
    ),
    "id_past_the_vocabulary": (
        "Model",
        {},
        {"input_ids": IDS + 35},
        ["0..39", "vocab_size=40", "got 40", "tokenizer and checkpoint"],
    ),
    "negative_id": ("Model", {}, {"input_ids": IDS - 6}, ["0..39", "got -1"]),
    "id_past_int32": ("Model", {}, {"input_ids": IDS + 2**40}, ["0..39", "got 1099511627781"]),
    "short_mask": (
        "Model",
        {},
        {"input_ids": IDS, "attention_mask": IDS[:, :3] * 0},
        ["attention_mask", "[2, 6]", "(2, 3)", "tokenizer's mask"],
    ),
    "additive_mask": (
        "Model",
        {},
        {"input_ids": IDS, "attention_mask": np.where(IDS == 5, 0, -1e9) - 1e9},
        ["1 at tokens to read", "-1000000000.0", "mask == 0"],
    ),
    "nan_mask": (
        "Model",
        {},
        {"input_ids": IDS, "attention_mask": IDS * np.nan},
        ["1 at tokens to read", "nan"],
    ),
    "token_types_past_the_table": (
        "Model",
        {},
        {"input_ids": IDS, "token_type_ids": IDS - 3},
        ["token_type_ids", "0..1", "type_vocab_size=2", "got 2", "leave token_type_ids out"],
    ),
    "token_types_shape": (
        "Model",
        {},
        {"input_ids": IDS, "token_type_ids": IDS[0, :5]},
        ["shape of input_ids, (2, 6), or of one example, (6,)", "got (5,)"],
    ),
    "float_token_types": (
        "Model",
        {},
        {"input_ids": IDS, "token_type_ids": IDS * 0.1},
        ["token_type_ids must be integers", "0.5 among float64"],
    ),
    "positions_past_the_table": (
        "Model",
        {},
        {"input_ids": IDS, "position_ids": IDS + 43},
        ["position_ids", "0..47", "got 48", "longer table"],
    ),
    "negative_positions": (
        "Model",
        {},
        {"input_ids": IDS, "position_ids": IDS - 6},
        ["position_ids", "0..47", "got -1"],
    ),
    "one_position_per_example": (
        "Model",
        {},
        {"input_ids": IDS, "position_ids": IDS[:, :1]},
        ["shape of input_ids, (2, 6)", "got (2, 1)"],
    ),
    "positions_of_three_examples": (
        "Model",
        {},
        {"input_ids": IDS, "position_ids": np.zeros((3, 6), int)},
        ["shape of input_ids, (2, 6)", "got (3, 6)"],
    ),
    "head_mask_of_three": (
        "Model",
        {},
        {"input_ids": IDS, "head_mask": np.ones(3)},
        ["[heads] = (2,)", "[layers, heads] = (1, 2)", "(3,)"],
    ),
    "head_mask_text": (
        "Model",
        {},
        {"input_ids": IDS, "head_mask": ["a", "b"]},
        ["head_mask must be an array of numbers"],
    ),
    "states_without_cross_attention": (
        "ForCausalLM",
        {},
        {"input_ids": IDS, "encoder_hidden_states": STATES},
        ["no cross-attention", "add_cross_attention=True"],
    ),
    "states_for_a_task_without_cross_attention": (
        "ForMaskedLM",
        {"add_cross_attention": True},
        {"input_ids": IDS, "encoder_hidden_states": STATES},
        ["FlaxBigBirdForMaskedLM has no cross-attention", "FlaxBigBirdForCausalLM"],
    ),
    "encoder_mask_alone": (
        "ForCausalLM",
        {"add_cross_attention": True},
        {"input_ids": IDS, "encoder_attention_mask": IDS},
        ["needs encoder_hidden_states", "pass both, or neither"],
    ),
    "encoder_mask_shape": (
        "ForCausalLM",
        {"add_cross_attention": True},
        {"input_ids": IDS, "encoder_hidden_states": STATES, "encoder_attention_mask": IDS},
        ["encoder_attention_mask", "[2, 4]", "(2, 6)"],
    ),
    "encoder_width": (
        "ForCausalLM",
        {"add_cross_attention": True},
        {"input_ids": IDS, "encoder_hidden_states": STATES[..., :5]},
        ["[2, keys, 16]", "(2, 4, 5)", "last_hidden_state"],
    ),
    "encoder_batch": (
        "ForCausalLM",
        {"add_cross_attention": True},
        {"input_ids": IDS, "encoder_hidden_states": STATES[:1]},
        ["[2, keys, 16]", "(1, 4, 16)"],
    ),
    "encoder_integers": (
        "ForCausalLM",
        {"add_cross_attention": True},
        {"input_ids": IDS, "encoder_hidden_states": STATES.astype(int)},
        ["must be floating", "int64"],
    ),
    "question_lengths_of_one_axis": (
        "ForQuestionAnswering",
        {},
        {"input_ids": IDS, "question_lengths": np.array([1, 2])},
        ["[batch, 1] = (2, 1)", "(2,)"],
    ),
    "question_lengths_past_the_end": (
        "ForQuestionAnswering",
        {},
        {"input_ids": IDS, "question_lengths": np.array([[7], [2]])},
        ["0..6", "got 7", "[SEP] included"],
    ),
    "float_question_lengths": (
        "ForQuestionAnswering",
        {},
        {"input_ids": IDS, "question_lengths": np.array([[1.0], [2.0]])},
        ["must be integers", "float64"],
    ),
    "no_dropout_key": (
        "Model",
        {"hidden_dropout_prob": 0.1},
        {"input_ids": IDS, "train": True},
        ["needs dropout_rng", "got None", "pass one"],
    ),
    "dropout_seed": (
        "Model",
        {},
        {"input_ids": IDS, "train": True, "dropout_rng": 0},
        ["dropout_rng must be one random key", "got int", "jax.random.key(0)"],
    ),
    "two_index_keys": (
        "Model",
        {},
        {"input_ids": IDS, "train": True, "indices_rng": jax.random.split(jax.random.key(0))},
        ["indices_rng must be one random key", "(2,)"],
    ),
    "parameters_of_another_task": (
        "Model",
        {},
        {"input_ids": IDS, "params": {"bert": {}}},
        ["those of a FlaxBigBirdModel", "embeddings/LayerNorm/bias is missing", "init_weights"],
    ),
    "cache_for_a_task_without": (
        "ForMaskedLM",
        {},
        {"input_ids": IDS, "past_key_values": {}},
        ["FlaxBigBirdForCausalLM with", "got FlaxBigBirdForMaskedLM", "leave it out"],
    ),
    "cache_for_an_encoder": (
        "Model",
        {},
        {"input_ids": IDS, "past_key_values": {}},
        ["config.is_decoder=True", "is_decoder=False"],
    ),
    "old_style_cache": (
        "ForCausalLM",
        {},
        {"input_ids": IDS, "past_key_values": ((1, 2),)},
        ["made by model.init_cache", "got tuple"],
    ),
}


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize("name", CALLS)
def test_call(name):
    task, changes, arguments, fragments = CALLS[name]
    model = tiny_models.model(task, **changes)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the fragments identify the error
        model(**arguments)
    for fragment in fragments:
        assert fragment in str(error.value)


def test_parameters_of_another_size():
    model, other = tiny_models.model(), tiny_models.model(hidden_size=32)
    with pytest.raises(ValueError, match=r"LayerNorm/bias has shape \(32,\), not \(16,\); .* more"):
        model(IDS, params=other.params)


def test_cache_of_another_size():
    model = tiny_models.model("ForCausalLM")
    with pytest.raises(ValueError, match=r"batch of 3; input_ids has 2: .*init_cache\(2, 8\)"):
        model(IDS, past_key_values=model.init_cache(3, 8))
    with pytest.raises(ValueError, match="holds 4 positions; input_ids has 6: make it longer"):
        model(IDS, past_key_values=model.init_cache(2, 4))
    with pytest.raises(ValueError, match=r"\[2, 8\], one entry per key; got \(2, 6\)"):
        model(IDS, np.ones_like(IDS), past_key_values=model.init_cache(2, 8))
    with pytest.raises(ValueError, match=r"at most 48 tokens .*got 49"):
        model.init_cache(2, 49)
    with pytest.raises(ValueError, match="at least 1; got 2 and 0"):
        model.init_cache(2, 0)
    with pytest.raises(ValueError, match=r"config\.is_decoder=True \(got is_decoder=False\)"):
        tiny_models.model().init_cache(2, 8)


CONFIGURATIONS = {
    "attention_type": ("sparse", "'block_sparse' or 'original_full'; got 'sparse'"),
    "hidden_act": ("gelux", r"one of gelu, .*tanh; got 'gelux'"),
    "random_attention": ("none", r"one of \('hf', 'google', 'fixed'\); got 'none'"),
    "random_attention_seed": (-1, r"0\.\.2\*\*63-1; got -1"),
    "num_attention_heads": (3, "hidden_size must be a multiple .* got 16 and 3"),
    "block_size": (0, "block_size must be at least 1; got 0"),
    "num_random_blocks": (-1, "num_random_blocks must be at least 0; got -1"),
    "hidden_dropout_prob": (1.5, r"in 0\.\.1, a probability; got 1\.5"),
    "max_position_embeddings": (0, "max_position_embeddings must be at least 1; got 0"),
}


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configuration(name):
    value, message = CONFIGURATIONS[name]
    config = tiny_models.config()
    setattr(config, name, value)
    with pytest.raises(ValueError, match=message):
        tiny_models.task_class("Model")(config)


def test_constructor():
    cls, config = tiny_models.task_class("ForMaskedLM"), tiny_models.config()
    with pytest.raises(TypeError, match=r"transformers\.BigBirdConfig; got dict"):
        cls(config.to_dict())
    with pytest.raises(TypeError, match="use a task class"):
        FlaxBigBirdPreTrainedModel(config)
    with pytest.raises(ValueError, match=r"dtype must be floating; got int32: pass jnp"):
        cls(config, dtype="int32")
    with pytest.raises(ValueError, match=r"2 axes, as the input_ids .*; got \(8,\)"):
        cls(config, input_shape=(8,))
    with pytest.raises(TypeError, match="pooling"):
        cls(config, pooling=True)


def test_values_on_a_device_are_not_checked():
    """As documented, they cannot be read without stalling the device."""
    model = tiny_models.model()
    assert model(jnp.full((1, 4), 39))[0].shape == (1, 4, D)
    tiny_models.run(model, {"input_ids": np.full((1, 4), 400)})


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
def test_ids_of_one_example_and_floats_of_whole_numbers(convert):
    """The removed Flax classes broadcast and cast them; NumPy's default dtype is float64."""
    model = tiny_models.model()
    positions, types = np.arange(6)[::-1] + 3, np.array([0, 0, 1, 1, 1, 0])
    full = {"position_ids": np.stack([positions] * 2), "token_type_ids": np.stack([types] * 2)}
    want = model(IDS, **full)[0]
    for shape in ((6,), (1, 6), (2, 6)):
        for dtype in (np.int32, np.float32):
            inputs = {k: np.broadcast_to(v, (2, 6))[:1] for k, v in full.items()}
            inputs = {k: np.broadcast_to(v[0], shape).astype(dtype) for k, v in inputs.items()}
            arrays = {k: convert(v) for k, v in inputs.items()}
            ids = convert(IDS.astype(dtype))
            tiny_models.close(model(ids, **arrays)[0], want, 1e-6)
    tiny_models.close(model(IDS * 1.0, token_type_ids=types == 1)[0], model(IDS, None, types)[0])


def test_ids_of_one_example_for_multiple_choice():
    model = tiny_models.model("ForMultipleChoice")
    ids = np.stack([IDS, IDS + 1, IDS + 2], axis=1)
    types = np.array([0, 0, 1, 1, 1, 0])
    want = model(ids, token_type_ids=np.broadcast_to(types, ids.shape))[0]
    for shape in ((6,), (1, 6), (1, 1, 6), (2, 1, 6)):
        tiny_models.close(model(ids, token_type_ids=np.broadcast_to(types, shape))[0], want, 1e-6)


def test_traced_floats_that_are_not_whole_give_nan():
    """They cannot be checked; as an id out of range, they must not pass for another id."""
    model = tiny_models.model()
    ids = IDS * np.array([[1.0], [1.1]])
    out = tiny_models.run(model, {"input_ids": ids})[0]
    assert np.isfinite(out[0]).all()
    assert np.isnan(out[1]).all()


def test_lists_and_other_dtypes_are_accepted():
    model = tiny_models.model()
    want = model(IDS)[0]
    for ids in (IDS.tolist(), IDS.astype(np.uint8), jnp.asarray(IDS)):
        tiny_models.close(model(ids)[0], want, 1e-6)
    assert model(IDS, attention_mask=np.ones((2, 6), bool))[0].shape == want.shape
