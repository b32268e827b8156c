"""Causal models: no future, key-value cache equal to one shot, cross-attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from tiny_models import HEADS, LAYERS, TWO_LAYERS, B, D, T

KINDS = {
    "full": {"attention_type": "original_full"},
    "sparse_hf": {"random_attention": "hf"},
    "sparse_google": {"random_attention": "google"},
    "sparse_fixed": {"random_attention": "fixed", **TWO_LAYERS},
    "sparse_no_random": {"num_random_blocks": 0},
}


@pytest.fixture(params=KINDS)
def model(request):
    return tiny_models.model("ForCausalLM", **KINDS[request.param])


def left_padded(length: int) -> dict[str, np.ndarray]:
    """Padding on the left of the first row, as in batched generation, and a hole in the second."""
    inputs = tiny_models.inputs(length=length)
    mask = np.ones_like(inputs["attention_mask"])
    mask[0, :5] = 0
    mask[1, 7] = 0
    return inputs | {"attention_mask": mask}


def test_no_future(model):
    """Changing a token changes nothing before it."""
    inputs = tiny_models.inputs()
    inputs["attention_mask"][:] = 1
    before = tiny_models.run(model, inputs).logits
    for at in (1, 14, T - 1):
        ids = inputs["input_ids"].copy()
        ids[:, at] = 4 + (ids[:, at] - 3) % 30
        after = tiny_models.run(model, inputs | {"input_ids": ids}).logits
        tiny_models.close(after[:, :at], before[:, :at], 1e-6)
        assert tiny_models.differ(after[:, at], before[:, at])


@pytest.mark.parametrize(
    ("chunks", "max_length"),
    [([1] * T, 48), ([9, 1, 16, 4], T), ([T], 48)],
    ids=["steps", "chunks", "whole"],
)
def test_cache_equals_one_shot(model, chunks, max_length):
    inputs = left_padded(T)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    positions = np.maximum(mask.cumsum(-1) - 1, 0)
    whole = tiny_models.run(model, inputs | {"position_ids": positions}).logits
    cache = model.init_cache(B, max_length)
    wide = np.zeros((B, max_length), np.int32)
    wide[:, :T] = mask
    start, parts = 0, []
    for size in chunks:
        at = slice(start, start + size)
        step = {
            "input_ids": ids[:, at],
            "attention_mask": wide,
            "position_ids": positions[:, at],
            "past_key_values": cache,
        }
        out = tiny_models.run(model, step)
        cache = out.past_key_values
        parts.append(out.logits)
        start += size
    real = mask != 0
    got = np.concatenate(parts, 1)
    np.testing.assert_allclose(got[real], np.asarray(whole)[real], atol=3e-5, rtol=3e-5)


def test_positions_count_on_from_the_cache(model):
    ids = tiny_models.inputs()["input_ids"]
    whole = tiny_models.run(model, {"input_ids": ids}).logits
    cache = model.init_cache(B, T)
    first = tiny_models.run(model, {"input_ids": ids[:, :11], "past_key_values": cache})
    rest = {"input_ids": ids[:, 11:], "past_key_values": first.past_key_values}
    second = tiny_models.run(model, rest)
    got = jnp.concatenate([first.logits, second.logits], 1)
    tiny_models.close(got, whole, 3e-5)


def test_a_call_with_a_cache_returns_the_new_one_in_place():
    model = tiny_models.model("ForCausalLM", **KINDS["full"])
    cache = model.init_cache(B, 8)
    ids = np.full((B, 3), 5)
    out = model(ids, past_key_values=cache)
    assert list(out.keys()) == ["logits", "past_key_values"]
    as_tuple = model(ids, past_key_values=cache, return_dict=False)
    assert len(as_tuple) == 2
    with_scores = model(ids, past_key_values=cache, output_attentions=True)
    assert [x.shape for x in with_scores.attentions] == [(B, HEADS, 3, 8)] * LAYERS
    bare = tiny_models.model("Model", is_decoder=True, **KINDS["full"])
    out = bare(ids, past_key_values=bare.init_cache(B, 8))
    assert list(out.keys()) == ["last_hidden_state", "pooler_output", "past_key_values"]


def test_generation_inputs():
    """Prompt padded on the left; two greedy steps equal the whole."""
    model = tiny_models.model("ForCausalLM")
    inputs = left_padded(12)
    kwargs = model.prepare_inputs_for_generation(
        inputs["input_ids"], 14, attention_mask=inputs["attention_mask"]
    )
    out = model(inputs["input_ids"], **kwargs)
    kwargs = model.update_inputs_for_generation(out, kwargs)
    np.testing.assert_array_equal(kwargs["position_ids"].ravel(), [7, 11])
    token = np.asarray(out.logits[:, -1:].argmax(-1))
    step = model(token, **kwargs).logits
    longer = {
        "input_ids": np.concatenate([inputs["input_ids"], token], 1),
        "attention_mask": np.concatenate([inputs["attention_mask"], np.ones((B, 1), int)], 1),
    }
    longer["position_ids"] = np.maximum(longer["attention_mask"].cumsum(-1) - 1, 0)
    tiny_models.close(step[:, 0], model(**longer).logits[:, -1], 3e-5)


def test_bidirectional_causal_model_warns_once():
    with pytest.warns(UserWarning, match="is bidirectional.*Set is_decoder=True"):
        model = tiny_models.task_class("ForCausalLM")(tiny_models.config(), _do_init=False)
    tiny_models.task_class("ForCausalLM")(tiny_models.config(), _do_init=False)  # not again
    params = tiny_models.model("ForCausalLM").params
    ids = tiny_models.inputs()["input_ids"]
    changed = ids.copy()
    changed[:, -1] = 39 - (ids[:, -1] == 39)
    one, two = (model(x, params=params).logits for x in (ids, changed))
    assert tiny_models.differ(one[:, 0], two[:, 0])


@pytest.mark.parametrize("task", ["Model", "ForCausalLM"])
@pytest.mark.parametrize("kind", ["full", "sparse_hf"])
class TestCrossAttention:
    def setup(self, task, kind, length=11):
        model = tiny_models.model(task, add_cross_attention=True, is_decoder=True, **KINDS[kind])
        states = np.random.default_rng(1).standard_normal((B, length, D)).astype(np.float32)
        return model, tiny_models.inputs() | {"encoder_hidden_states": states}

    def test_reads_the_encoder_and_only_its_real_tokens(self, task, kind):
        model, inputs = self.setup(task, kind)
        out = tiny_models.run(model, inputs, output_attentions=True)
        assert [x.shape for x in out.cross_attentions] == [(B, HEADS, T, 11)] * LAYERS
        np.testing.assert_allclose(out.cross_attentions[0].sum(-1), 1, atol=1e-5)
        mask = np.ones((B, 11), np.int32)
        tiny_models.close(
            tiny_models.run(
                model, inputs | {"encoder_attention_mask": mask}, output_attentions=True
            ),
            out,
        )
        mask[:, 4:7] = 0
        masked = tiny_models.run(model, inputs | {"encoder_attention_mask": mask})[0]
        assert tiny_models.differ(masked, out[0])
        other = inputs["encoder_hidden_states"].copy()
        other[:, 4:7] += 5
        changed = inputs | {"encoder_attention_mask": mask, "encoder_hidden_states": other}
        tiny_models.close(tiny_models.run(model, changed)[0], masked)

    def test_self_attention_does_not_read_the_encoder(self, task, kind):
        """HF-Torch feeds the encoder's states to the decoder's self-attention too."""
        model, inputs = self.setup(task, kind)
        params = jax.tree.map(jnp.copy, model.params)
        stack = params if task == "Model" else params["bert"]
        for layer in stack["encoder"]["layer"].values():
            layer["crossattention"]["output"]["dense"]["kernel"] *= 0
        out = tiny_models.run(model, inputs, params)[0]
        other = inputs | {"encoder_hidden_states": inputs["encoder_hidden_states"] + 1}
        tiny_models.close(tiny_models.run(model, other, params)[0], out, 1e-6)

    def test_cache_equals_one_shot(self, task, kind):
        model, inputs = self.setup(task, kind, length=5)
        inputs["attention_mask"][:] = 1
        whole = tiny_models.run(model, inputs)[0]
        cache, parts = model.init_cache(B, T), []
        for part in np.split(inputs["input_ids"], [7, 8, 20], axis=1):
            step = inputs | {"input_ids": part, "past_key_values": cache}
            out = tiny_models.run(model, step)
            cache = out.past_key_values
            parts.append(out[0])
        tiny_models.close(jnp.concatenate(parts, 1), whole, 3e-5)
