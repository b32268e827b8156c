"""The options of `generate`: precedence, defaults, and errors before any work is done."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from transformers import GenerationConfig

from flax_bigbird.generation.generation_config import DEFAULTS, merge_options

IDS = np.full((2, 6), 5, np.int32)
MASK = np.ones_like(IDS)

BAD = {
    "max_new_tokens": ({"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1"),
    "not an integer": ({"max_new_tokens": 2.5}, "must be an integer of at least 1; got 2.5"),
    "max_length": ({"max_length": 6}, "must be above its 6 tokens; got 6: raise it"),
    "position table": (
        {"max_new_tokens": 43},
        "at most 48 tokens .* prompt of 6 and 43 .* at most 42",
    ),
    "both lengths": (
        {"max_length": 9, "max_new_tokens": 3},
        "pass only one of max_length and max_new_tokens",
    ),
    "minimum above maximum": (
        {"min_new_tokens": 5, "max_new_tokens": 4},
        "at least 5 new tokens and at most 4",
    ),
    "temperature": ({"do_sample": True, "temperature": 0.0}, "temperature must be a number above"),
    "top_p": ({"do_sample": True, "top_p": 1.5}, "top_p must be a number above 0, at most 1"),
    "min_p": ({"do_sample": True, "min_p": -0.1}, "min_p must be a number in 0..1"),
    "penalty": ({"repetition_penalty": -1.0}, "repetition_penalty must be a number above 0"),
    "unused sampling": (
        {"temperature": 0.5},
        "temperature needs do_sample=True; got temperature=0.5",
    ),
    "unused top_k": ({"top_k": 5}, "top_k needs do_sample=True"),
    "unused beams": ({"length_penalty": 2.0}, "length_penalty needs num_beams above 1"),
    "early": ({"num_beams": 2, "early_stopping": "soon"}, "True, False or 'never'; got 'soon'"),
    "returned": ({"num_return_sequences": 2}, "at most num_beams without sampling; got 2 and 1"),
    "too many": (
        {"num_beams": 2, "num_return_sequences": 3},
        "at most num_beams without sampling; got 3 and 2",
    ),
    "beam sampling": (
        {"num_beams": 2, "do_sample": True},
        "cannot be combined with sampling; got num_beams=2",
    ),
    "misspelled": (
        {"max_new_token": 5},
        "no option 'max_new_token'.*did you mean max_new_tokens?",
    ),
    "misspelled mask": ({"attention_masks": MASK}, "did you mean attention_mask?"),
    "unknown": ({"colour": "red"}, "no option 'colour'.*the options are max_length"),
    "unsupported": (
        {"penalty_alpha": 0.6},
        "does not support penalty_alpha; got penalty_alpha=0.6",
    ),
    "no cache": ({"output_scores": True}, "does not support output_scores"),
    "id": ({"eos_token_id": 40}, r"ids in 0..39 \(config.vocab_size=40\); got 40"),
    "id in a list": ({"suppress_tokens": [1, -1]}, "suppress_tokens must be ids in 0..39"),
    "two ids": ({"forced_eos_token_id": [1, 2]}, "forced_eos_token_id must be one id"),
    "empty word": ({"bad_words_ids": [[]]}, "lists of at least one id; got an empty one"),
    "empty row": ({"attention_mask": MASK * [[1], [0]]}, "at least one real token; row 1"),
    "mask shape": ({"attention_mask": MASK[:, 1:]}, r"attention_mask must have shape \[2, 6\]"),
    "mask values": ({"attention_mask": MASK * 2}, "must be 1 at tokens"),
    "encoder": ({"encoder_hidden_states": np.zeros((2, 3, 16), np.float32)}, "no cross-attention"),
    "encoder mask": ({"encoder_attention_mask": MASK}, "needs encoder_hidden_states"),
    "streamer": ({"streamer": 3}, "must be a function of the new tokens, or have put and end"),
    "stream of beams": ({"streamer": print, "num_beams": 2}, "leave one of them out"),
    "rule": ({"logits_processor": [3]}, "logits_processor must be functions"),
    "a dict": ({"generation_config": {"num_beams": 2}}, "GenerationConfig; got dict: pass single"),
    "key": ({"prng_key": 3}, "prng_key must be one random key"),
}


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize("name", BAD)
def test_invalid_arguments(name, monkeypatch):
    from flax_bigbird.models import text_generation

    monkeypatch.setattr(text_generation, "_program", None)  # nothing is compiled
    arguments, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        tiny_models.model("ForCausalLM").generate(IDS, **arguments)


def test_invalid_prompts():
    model = tiny_models.model("ForCausalLM")
    for ids, message in (
        (IDS[:, :0], "at least one token"),
        (IDS * 8, "must lie in 0..39"),
        ([[1, 2], [3]], "pad its rows"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(ids)


@pytest.mark.filterwarnings("ignore:.*is bidirectional")
def test_only_decoders_generate():
    model = tiny_models.task_class("ForCausalLM")(tiny_models.config(), _do_init=False)
    with pytest.raises(ValueError, match="is_decoder=False: load it with is_decoder=True"):
        model.generate(IDS)
    with pytest.raises(TypeError, match="FlaxBigBirdForMaskedLM does not generate text"):
        tiny_models.model("ForMaskedLM").generate(IDS)


def test_signature():
    """The removed classes' arguments in their order; the rest by name."""
    parameters = inspect.signature(tiny_models.model("ForCausalLM").generate).parameters
    positional = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == [
        *("input_ids", "generation_config", "prng_key", "trace", "params", "logits_processor")
    ]


def test_padding_takes_no_positions():
    model = tiny_models.model("ForCausalLM")
    ids, mask = np.full((1, 40), 5, np.int32), np.zeros((1, 40), np.int32)
    mask[:, -10:] = 1
    options = {"attention_mask": jnp.asarray(mask), "eos_token_id": None}
    out = model.generate(ids, max_new_tokens=38, **options)
    assert out.sequences.shape == (1, 78)
    with pytest.raises(ValueError, match="a prompt of 10 and 39 new ones: ask for at most 38"):
        model.generate(ids, max_new_tokens=39, **options)


class TestMerge:
    def test_order(self):
        """Keywords precede the call's configuration, the model's and the defaults."""
        model = GenerationConfig(num_beams=4, max_new_tokens=7, repetition_penalty=1.5)
        call = GenerationConfig(num_beams=3, max_new_tokens=8)
        out = merge_options({"num_beams": 2}, call, model)
        assert (out["num_beams"], out["max_new_tokens"], out["repetition_penalty"]) == (2, 8, 1.5)
        assert out["top_p"] == DEFAULTS["top_p"]

    def test_lengths_of_one_layer_replace_those_below(self):
        model = GenerationConfig(max_new_tokens=7, min_new_tokens=2)
        out = merge_options({"max_length": 30, "min_length": 9}, None, model)
        assert (out["max_length"], out["max_new_tokens"]) == (30, None)
        assert (out["min_length"], out["min_new_tokens"]) == (9, None)
        out = merge_options({}, GenerationConfig(max_length=30, max_new_tokens=5))
        assert (out["max_length"], out["max_new_tokens"]) == (None, 5)

    def test_none_restores_the_default(self):
        model = GenerationConfig(eos_token_id=2, repetition_penalty=1.5)
        out = merge_options({"eos_token_id": None, "repetition_penalty": None}, model)
        assert (out["eos_token_id"], out["repetition_penalty"]) == (None, 1.0)

    def test_a_configuration_is_not_changed_and_may_have_unused_options(self):
        config = GenerationConfig(temperature=0.3, typical_p=1.0, use_cache=True, bos_token_id=1)
        before = config.to_dict()
        assert merge_options({}, config)["temperature"] == 0.3
        assert config.to_dict() == before

    def test_unsupported_options_of_the_caller_raise(self):
        with pytest.raises(ValueError, match="generation_config does not support typical_p"):
            merge_options({}, GenerationConfig(typical_p=0.5))
        with pytest.raises(ValueError, match="generate does not support typical_p"):
            merge_options({"typical_p": 0.5}, None, GenerationConfig(typical_p=0.5))

    @pytest.mark.parametrize(
        "options",
        [
            {"decoder_start_token_id": 2},
            {"output_scores": True, "renormalize_logits": True},
            {"cache_implementation": "static"},
            {"typical_p": 0.75, "remove_invalid_values": True},
            {"an_option_of_a_fork": [1, 2]},
        ],
    )
    def test_unsupported_options_of_the_files_warn_once(self, options):
        config = GenerationConfig(max_new_tokens=7, **options)
        with pytest.warns(UserWarning, match="does not support and ignores") as given:
            out = merge_options({}, None, config)
        assert all(name in str(given[0].message) for name in options)
        assert len(given) == 1
        assert out["max_new_tokens"] == 7
        assert merge_options({}, None, config) == out  # a second warning would be an error

    def test_sampling_options_of_the_files_are_not_read_without_sampling(self):
        model = GenerationConfig()
        model.temperature, model.top_p = 0.0, 0.0
        assert merge_options({}, None, model)["temperature"] == 0.0
        with pytest.raises(ValueError, match="temperature must be a number above 0"):
            merge_options({"do_sample": True}, None, model)


def test_numbers_of_numpy_are_numbers():
    options = merge_options(
        {
            "max_new_tokens": np.int64(4),
            "num_beams": np.int32(2),
            "length_penalty": np.float32(0.5),
        }
    )
    assert (options["max_new_tokens"], options["num_beams"]) == (4, 2)
    assert type(options["num_beams"]) is int
    assert merge_options({"do_sample": True, "temperature": np.float32(0.5)})["temperature"] == 0.5
    out = tiny_models.model("ForCausalLM").generate(
        IDS, max_new_tokens=np.int64(3), eos_token_id=np.asarray([2, 3])
    )
    assert out.sequences.shape == (2, 9)


def test_default_length():
    """It is 20 new tokens, or what fits into the position table."""
    model = tiny_models.model("ForCausalLM")
    assert model.generate(IDS).sequences.shape == (2, 26)
    longer = np.full((1, 40), 5, np.int32)
    assert model.generate(longer).sequences.shape == (1, 48)
