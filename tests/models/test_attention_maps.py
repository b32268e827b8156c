"""`bigbird_attention_map` compared with `output_attentions`, and its use of memory."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from compilations import compilations
from program_costs import temporary_bytes
from tiny_models import HEADS, TWO_LAYERS, B, W

from flax_bigbird import bigbird_attention_map
from flax_bigbird.attention import bigbird_pattern, inspection

LONG = {"max_position_embeddings": 80, **TWO_LAYERS}
CASES = {
    "full": ({"attention_type": "original_full"}, 21),
    "short": ({}, 27),
    "hf": ({}, 45),
    "google": ({"random_attention": "google"}, 45),
    "fixed": ({"random_attention": "fixed"}, 66),
    "padding_invariant": ({"random_attention": "fixed", "padding_invariant": True}, 66),
    "wide": ({"random_attention": "fixed", "num_window_blocks": 5}, 66),
}


def example(case: str):
    """Returns a model, its inputs, and the expected probabilities, 0 at padded queries."""
    changes, length = CASES[case]
    model = tiny_models.model(**LONG, **changes)
    inputs = tiny_models.inputs(length=length)
    out = tiny_models.run(model, inputs, output_attentions=True)
    real = inputs["attention_mask"] != 0
    want = np.stack([np.where(real[:, None, :, None], x, 0) for x in out.attentions])
    return model, inputs, want, real


@pytest.mark.parametrize("case", CASES)
def test_rows(case):
    model, inputs, want, real = example(case)
    rows = [0, 5, 11, real.shape[1] - 1]
    got = bigbird_attention_map(model, **inputs, rows=rows)
    assert got.rows == tuple(rows)
    assert got.layers == (0, 1)
    np.testing.assert_allclose(got.weights, want[:, :, :, rows], atol=1e-5)
    sums = np.broadcast_to(real[:, None, rows], got.weights.shape[1:4])
    np.testing.assert_allclose(got.weights.sum(-1), np.stack([sums] * 2), atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_blocks(case):
    """The mean over a block's real queries, summed over each block of keys."""
    model, inputs, want, real = example(case)
    length = real.shape[1]
    num_blocks = -(-length // W)
    got = bigbird_attention_map(model, **inputs)
    assert got.weights.shape == (2, B, HEADS, num_blocks, num_blocks)
    padding = num_blocks * W - length
    wide = np.pad(want, [(0, 0)] * 3 + [(0, padding)] * 2)
    sums = wide.reshape(2, B, HEADS, num_blocks, W, num_blocks, W).sum((4, 6))
    counted = np.pad(real, ((0, 0), (0, padding))).reshape(B, num_blocks, W).sum(-1)
    mean = sums / np.maximum(counted, 1)[None, :, None, :, None]
    np.testing.assert_allclose(got.weights, mean, atol=1e-5)


def test_layers_and_global_tokens():
    model = tiny_models.model(**LONG, random_attention="fixed")
    inputs = tiny_models.inputs(length=66)
    inputs["attention_mask"][:] = 1
    marked = np.zeros((B, 66), int)
    marked[:, 30] = 1
    inputs |= {"global_attention_mask": marked}
    out = tiny_models.run(model, inputs, output_attentions=True)
    got = bigbird_attention_map(model, **inputs, rows=[3, 50], layers=[1])
    assert got.layers == (1,)
    np.testing.assert_allclose(got.weights[0], out.attentions[1][:, :, [3, 50]], atol=1e-5)


@pytest.mark.parametrize("by_block", [True, False])
def test_packed_rows_and_masked_heads(by_block):
    """No example attends to another, and the weights of a head are multiplied by its mask."""
    model = tiny_models.model("ForMaskedLM", **LONG)
    ids = tiny_models.inputs(length=44)["input_ids"]
    segments = np.repeat([[1, 0, 2, 0, 3]] * B, [9, 3, 18, 2, 12], axis=1)
    head_mask = np.asarray([[1.0, 0.5], [0.0, 2.0]], np.float32)
    inputs = {"input_ids": ids, "segment_ids": segments, "head_mask": head_mask}
    attentions = tiny_models.run(model, inputs, output_attentions=True).attentions
    want = np.stack([np.where((segments != 0)[:, None, :, None], x, 0) for x in attentions])
    if not by_block:
        got = bigbird_attention_map(model, **inputs, rows=[2, 10, 15, 35]).weights
        np.testing.assert_allclose(got, want[:, :, :, [2, 10, 15, 35]], atol=1e-5)
        return
    got = bigbird_attention_map(model, **inputs).weights
    sums = want.reshape(2, B, HEADS, 11, W, 11, W).sum((4, 6))
    counted = np.maximum((segments != 0).reshape(B, 11, W).sum(-1), 1)
    np.testing.assert_allclose(got, sums / counted[None, :, None, :, None], atol=1e-5)


def new_model(**changes):
    """Returns a model of its own, whose programs no other test has compiled."""
    shared = tiny_models.model(**LONG, **changes)
    model = tiny_models.task_class("Model")(shared.config, _do_init=False)
    model._adopt_params(shared.params)
    return model


@pytest.mark.parametrize("by_block", [True, False])
def test_the_second_map_compiles_nothing(by_block):
    model = new_model(random_attention="fixed")
    first, second = (tiny_models.inputs(length=45, seed=seed) for seed in (0, 1))
    rows = [None, None] if by_block else [[3, 20], [0, 44]]
    bigbird_attention_map(model, **first, rows=rows[0])
    with compilations() as names:
        got = bigbird_attention_map(model, **second, rows=rows[1], params=model.params)
    assert names == []
    want = bigbird_attention_map(new_model(random_attention="fixed"), **second, rows=rows[1])
    np.testing.assert_array_equal(got.weights, want.weights)


def test_the_second_map_checks_the_values_of_its_inputs():
    model = new_model()
    inputs = tiny_models.inputs(length=45)
    bigbird_attention_map(model, **inputs)
    ids = inputs["input_ids"].copy()
    ids[0, 0] = 1_000
    with pytest.raises(ValueError, match="input_ids"):
        bigbird_attention_map(model, ids, inputs["attention_mask"])
    marked = np.ones((B, 45), int)
    with pytest.raises(ValueError, match="global_attention_mask may mark"):
        bigbird_attention_map(
            new_model(max_user_global_blocks=2), **inputs, global_attention_mask=marked
        )


def test_a_changed_configuration_has_a_map_of_its_own():
    model, inputs = new_model(), tiny_models.inputs(length=66)
    before = bigbird_attention_map(model, **inputs).weights
    model.config.random_attention = "fixed"
    got = bigbird_attention_map(model, **inputs).weights
    want = bigbird_attention_map(new_model(random_attention="fixed"), **inputs).weights
    np.testing.assert_array_equal(got, want)
    assert tiny_models.differ(before, got)


def test_programs_do_not_keep_the_model():
    model = new_model()
    bigbird_attention_map(model, **tiny_models.inputs(length=45))
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_maps_are_those_of_evaluation():
    with pytest.raises(ValueError, match="got train=True: leave it out"):
        bigbird_attention_map(tiny_models.model(), **tiny_models.inputs(), train=True)


def test_other_tasks_and_checkpointing():
    model = tiny_models.model("ForQuestionAnswering", max_position_embeddings=80)
    inputs = tiny_models.inputs(length=45)
    want = tiny_models.run(model, inputs, output_attentions=True).attentions[0]
    got = bigbird_attention_map(model, **inputs, rows=[0])
    np.testing.assert_allclose(got.weights[0], want[:, :, [0]], atol=1e-5)
    again = tiny_models.task_class("ForQuestionAnswering")(
        model.config, _do_init=False, gradient_checkpointing=True
    )
    same = bigbird_attention_map(again, **inputs, rows=[0], params=model.params)
    np.testing.assert_array_equal(same.weights, got.weights)


@pytest.mark.parametrize("by_block", [True, False])
def test_memory_is_linear(by_block):
    """It is far below that of one [T, T] array of floats."""
    length = 4096
    pattern = bigbird_pattern(length // 64, 64)

    def call(q):
        if by_block:
            return inspection.block_attention(q, q, pattern, scale=1.0)
        return inspection.token_attention(q, q, pattern, jnp.arange(4), scale=1.0)

    q = jax.ShapeDtypeStruct((1, length, 1, 4), jnp.float32)
    program = jax.jit(call).lower(q).compile()
    assert temporary_bytes(program) < length * length * 4 / 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": [45]}, r"rows must hold indices in 0\.\.44.*got \[45\]"),
        ({"rows": []}, "at least one"),
        ({"layers": [-1]}, r"layers must hold indices in 0\.\.0"),
    ],
)
def test_bad_indices(options, message):
    model = tiny_models.model(max_position_embeddings=80)
    with pytest.raises(ValueError, match=message):
        bigbird_attention_map(model, **tiny_models.inputs(length=45), **options)


def test_encoders_only():
    with pytest.raises(ValueError, match="needs an encoder"):
        bigbird_attention_map(tiny_models.model("ForCausalLM"), **tiny_models.inputs())
    choice = tiny_models.model("ForMultipleChoice")
    with pytest.raises(ValueError, match="needs an encoder called with"):
        bigbird_attention_map(choice, **tiny_models.inputs("ForMultipleChoice"))
