"""`config.short_decoder_attention`: how a sparse decoder attends in calls of few tokens.

HF-Torch attends in full, causally, up to (5 + 2R) W = 28 tokens; tests/parity compares both live.
"""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from tiny_models import V

from flax_bigbird import SparsityConfig

LIMIT = 28
FULL = {"attention_type": "original_full"}
HF_RULE = {"short_decoder_attention": "original_full"}


def logits(inputs, **config):
    return tiny_models.run(tiny_models.model("ForCausalLM", **config), inputs).logits


@pytest.mark.parametrize("length", [1, 13, LIMIT])
def test_short_calls_attend_in_full(length):
    inputs = tiny_models.inputs(length=length)
    tiny_models.close(logits(inputs, **HF_RULE), logits(inputs, **FULL))


def test_longer_calls_and_the_default_are_sparse():
    longer = tiny_models.inputs(length=LIMIT + 1)
    tiny_models.close(logits(longer, **HF_RULE), logits(longer), 0)
    short = tiny_models.inputs(length=LIMIT)
    assert jnp.abs(logits(short) - logits(short, **FULL)).max() > 1e-2


@pytest.mark.parametrize("slots", [LIMIT, LIMIT + 1])
def test_a_cache_of_few_slots_equals_one_call(slots):
    """The number of slots decides, so that a prompt and the steps after it agree."""
    model = tiny_models.model("ForCausalLM", **HF_RULE)
    ids = np.random.default_rng(5).integers(4, V, (2, slots))
    out = model(ids[:, :10], past_key_values=model.init_cache(2, slots))
    parts = [out.logits]
    for i in (10, 11):
        out = model(ids[:, i : i + 1], past_key_values=out.past_key_values)
        parts.append(out.logits)
    out = model(ids[:, 12:], past_key_values=out.past_key_values)
    cached = np.concatenate([*parts, out.logits], axis=1)
    tiny_models.close(cached, model(ids).logits, 1e-4)


@pytest.mark.parametrize("new_tokens", [5, 18, 19])
def test_generate_up_to_the_limit(new_tokens):
    """9 and 19 tokens fit into 28, although whole blocks would take 12 and 20."""
    prompt = np.random.default_rng(new_tokens).integers(4, V, (2, 9))
    mask = np.ones_like(prompt)
    mask[0, :2] = 0
    options = {"attention_mask": mask, "max_new_tokens": new_tokens, "eos_token_id": None}
    short, full = (
        tiny_models.model("ForCausalLM", **kind).generate(prompt, **options).sequences
        for kind in (HF_RULE, FULL)
    )
    np.testing.assert_array_equal(short, full)


def test_packed_examples_are_as_alone():
    model = tiny_models.model("ForCausalLM", **HF_RULE)
    lengths = (13, 20)
    segments = np.repeat([[1, 0, 2]], [13, 3, 20], axis=1)
    ids = np.random.default_rng(7).integers(4, V, segments.shape)
    packed = model(ids, segment_ids=segments).logits
    for segment, length in enumerate(lengths, start=1):
        alone = model(ids[segments == segment].reshape(1, length)).logits
        tiny_models.close(packed[segments == segment][None], alone, 1e-4)
    with pytest.raises(ValueError, match="must have at most 28 tokens"):
        model(ids, segment_ids=np.ones_like(ids))


def test_the_key_is_saved(tmp_path):
    model = tiny_models.model("ForCausalLM", **HF_RULE)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, _do_init=False)[0]
    assert loaded.sparsity == model.sparsity
    assert loaded.sparsity.short_decoder_attention == "original_full"
    changed = type(model).from_pretrained(
        tmp_path, _do_init=False, short_decoder_attention="block_sparse"
    )[0]
    assert not changed.sparsity.uses_full_attention(1)


def test_invalid_values():
    with pytest.raises(ValueError, match=r"must be one of \('block_sparse', .*; got 'full'"):
        SparsityConfig.from_hf(tiny_models.config(short_decoder_attention="full"))
    both = HF_RULE | {"padding_invariant": True}
    with pytest.raises(ValueError, match=r"padded; got it with padding_invariant=True.*leave one"):
        SparsityConfig.from_hf(tiny_models.config(is_decoder=True, **both))
    encoder = SparsityConfig.from_hf(tiny_models.config(**both))  # always attends so
    assert encoder.uses_full_attention(LIMIT)
