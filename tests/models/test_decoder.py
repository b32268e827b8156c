"""Causal models: no token reads the future, the key-value cache, and cross-attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from program_costs import flops
from tiny_models import HEADS, LAYERS, TWO_LAYERS, B, D, T

KINDS = {
    "full": {"attention_type": "original_full"},
    "sparse_hf": {"random_attention": "hf"},
    "sparse_google": {"random_attention": "google"},
    "sparse_fixed": {"random_attention": "fixed", **TWO_LAYERS},
    "sparse_wide_no_random": {
        "num_random_blocks": 0,
        "num_window_blocks": 5,
        "num_leading_global_blocks": 2,
    },
}


@pytest.fixture(params=KINDS)
def model(request):
    return tiny_models.model("ForCausalLM", **KINDS[request.param])


def left_padded(length: int) -> dict[str, np.ndarray]:
    """Returns inputs with left padding, as in batched generation, and with a hole."""
    inputs = tiny_models.inputs(length=length)
    mask = np.ones_like(inputs["attention_mask"])
    mask[0, :5] = 0
    mask[1, 7] = 0
    return inputs | {"attention_mask": mask}


def test_no_future(model):
    """Changing a token does not change outputs before it, nor their gradients."""
    ids = tiny_models.inputs()["input_ids"][:1]
    changed = np.repeat(ids, T, 0)
    changed[np.arange(T), np.arange(T)] = 4 + (ids[0] - 3) % 30
    weights = np.random.default_rng(0).standard_normal((T, tiny_models.V)).astype(np.float32)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, 0))
    def before(params, row, at):
        """Returns the logits of one row, and the gradient of those before `at`."""

        def loss(params):
            logits = model(row[None], params=params).logits[0]
            is_before = (jnp.arange(T) < at)[:, None]
            return jnp.where(is_before, weights * logits, 0).sum(), logits

        gradient, logits = jax.grad(loss, has_aux=True)(params)
        return logits, gradient

    logits, gradients = before(model.params, np.repeat(ids, T, 0), np.arange(T))
    other_logits, other_gradients = before(model.params, changed, np.arange(T))
    tiny_models.close(gradients, other_gradients, 1e-4)
    for at in range(T):
        tiny_models.close(other_logits[at, :at], logits[at, :at], 1e-6)
        assert tiny_models.differ(other_logits[at, at], logits[at, at])


# The first slot and the end of each example.
EXAMPLES = [(0, T), (5, T), (0, 9), (11, 24), (T - 1, T), (3, 4)]


def padded_examples() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns examples with padding on both sides, and positions that start at the first token."""
    ids = np.random.default_rng(3).integers(4, tiny_models.V, (len(EXAMPLES), T))
    mask = np.zeros_like(ids)
    for row, (first, end) in zip(mask, EXAMPLES, strict=True):
        row[first:end] = 1
    positions = np.maximum(mask.cumsum(-1) - 1, 0)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return {key: x.astype(np.int32) for key, x in inputs.items()}, mask != 0


def test_padded_examples_equal_themselves_alone(model):
    """Logits and gradients do not depend on padding on either side."""
    inputs, real = padded_examples()
    weights = np.random.default_rng(0).standard_normal((T, tiny_models.V)).astype(np.float32)

    @jax.jit
    def run(params, inputs, weights):
        def loss(params):
            logits = model(**inputs, params=params).logits
            return (logits * weights).sum(), logits

        return jax.grad(loss, has_aux=True)(params)

    counted = np.zeros((*real.shape, tiny_models.V), np.float32)
    total = jax.tree.map(jnp.zeros_like, model.params)
    alone = []
    for (first, end), row in zip(EXAMPLES, inputs["input_ids"], strict=True):
        gradient, logits = run(
            model.params, {"input_ids": row[None, first:end]}, weights[: end - first]
        )
        counted[len(alone), first:end] = weights[: end - first]
        total = jax.tree.map(jnp.add, total, gradient)
        alone.append(logits[0])
    gradient, logits = run(model.params, inputs, counted)
    for row, single, own in zip(np.asarray(logits), alone, real, strict=True):
        np.testing.assert_allclose(row[own], single, atol=1e-5, rtol=1e-5)
    tiny_models.close(gradient, total, 1e-4)


@pytest.mark.parametrize(
    ("chunks", "max_length"),
    [([1] * T, 48), ([9, 1, 16, 4], T), ([T], 48), ([14, *[1] * 16], 31)],
    ids=["steps", "chunks", "whole", "prompt and steps"],
)
def test_cache_equals_one_call(model, chunks, max_length):
    """Chunks of any size return what one call returns, with padding on both sides and a hole."""
    inputs, real = padded_examples()
    inputs["attention_mask"][0, 7], real[0, 7] = 0, False
    whole = tiny_models.run(model, inputs).logits
    wide = np.zeros((len(EXAMPLES), max_length), np.int32)
    wide[:, :T] = inputs["attention_mask"]
    got = in_chunks(model, inputs | {"attention_mask": wide}, chunks, max_length)
    np.testing.assert_allclose(got[real], np.asarray(whole)[real], atol=3e-5, rtol=3e-5)


def in_chunks(model, inputs, chunks, max_length, **options):
    """Returns the logits of a sequence that is processed in chunks; the first one is a prefill."""
    cache = model.init_cache(len(inputs["input_ids"]), max_length)
    start, parts = 0, []
    for size in chunks:
        at = slice(start, start + size)
        step = inputs | {key: inputs[key][:, at] for key in ("input_ids", "position_ids")}
        if start:
            out = tiny_models.run(model, step | {"past_key_values": cache}, **options)
        else:  # a cache that is known to be empty
            out = jax.jit(functools.partial(model, past_key_values=cache, **options))(**step)
        cache = out.past_key_values
        parts.append(out.logits)
        start += size
    return np.concatenate(parts, 1)


def test_first_chunk_with_a_traced_cache_equals_one_call(model):
    """Under `jit`, it is unknown that the cache is empty."""
    inputs, real = padded_examples()
    whole = tiny_models.run(model, inputs).logits
    cache = {"past_key_values": model.init_cache(len(EXAMPLES), T)}
    got = np.asarray(tiny_models.run(model, inputs | cache).logits)
    np.testing.assert_allclose(got[real], np.asarray(whole)[real], atol=3e-5, rtol=3e-5)


def test_attentions_with_a_cache(model):
    """They cover the slots of the cache, equal those of one call, and sum to 1."""
    inputs, real = padded_examples()
    whole = tiny_models.run(model, inputs, output_attentions=True).attentions[0]
    cache = model.init_cache(len(EXAMPLES), T)
    for at in (slice(0, 13), slice(13, T - 1), slice(T - 1, T)):
        chunk = inputs | {key: inputs[key][:, at] for key in ("input_ids", "position_ids")}
        out = tiny_models.run(model, chunk | {"past_key_values": cache}, output_attentions=True)
        cache = out.past_key_values
        probabilities = np.asarray(out.attentions[0]).transpose(0, 2, 1, 3)[real[:, at]]
        np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
        want = np.asarray(whole)[:, :, at].transpose(0, 2, 1, 3)[real[:, at]]
        np.testing.assert_allclose(probabilities, want, atol=1e-5)


def test_cost_of_a_step_does_not_depend_on_the_cache():
    """A sparse step needs as many operations with a cache that is 8 times as long."""
    model = tiny_models.model("ForCausalLM", max_position_embeddings=512)
    costs = []
    for size in (64, 512):
        cache = model.init_cache(B, size)
        step = jax.jit(lambda params, cache, ids: model(ids, params=params, past_key_values=cache))
        ids = np.full((B, 1), 5)
        costs.append(flops(step.lower(model.params, cache, ids).compile()))
    assert costs[1] < 1.2 * costs[0]


def test_redrawn_blocks_exclude_a_cache():
    model = tiny_models.model("ForCausalLM")
    arguments = {"past_key_values": model.init_cache(B, 8), "indices_rng": jax.random.key(0)}
    with pytest.raises(ValueError, match="indices_rng cannot redraw"):
        model(np.full((B, 3), 5), train=True, **arguments)


def test_positions_continue_from_the_cache(model):
    ids = tiny_models.inputs()["input_ids"]
    whole = tiny_models.run(model, {"input_ids": ids}).logits
    cache = model.init_cache(B, T)
    first = tiny_models.run(model, {"input_ids": ids[:, :11], "past_key_values": cache})
    rest = {"input_ids": ids[:, 11:], "past_key_values": first.past_key_values}
    second = tiny_models.run(model, rest)
    got = jnp.concatenate([first.logits, second.logits], 1)
    tiny_models.close(got, whole, 3e-5)


def test_a_call_with_a_cache_returns_the_updated_cache():
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
    """Greedy steps after a left-padded prompt equal a call with the whole text."""
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
    tiny_models.task_class("ForCausalLM")(tiny_models.config(), _do_init=False)  # no second warning
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

    def test_cache_equals_one_call(self, task, kind):
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
