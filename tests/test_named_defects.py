"""Defects of the other implementations that this one must not have: one named test each.

The numbers are those of the specification's list. Tests that need the other implementations are
in tests/parity.
"""

import random

import numpy as np
import pytest
import tiny_models
from tiny_models import HEADS, TWO_LAYERS, B, D, T

LONG, SHORT = 48, 12


def test_1_a_short_batch_does_not_change_how_a_long_one_is_read():
    """The choice between full and sparse is made per call, from the shape (transformers 20031)."""
    model, inputs = tiny_models.model(), tiny_models.inputs(length=LONG)
    before = model(**inputs)[0]
    model(**tiny_models.inputs(length=SHORT))
    np.testing.assert_array_equal(model(**inputs)[0], before)
    assert model.config.attention_type == "block_sparse"


def test_2_random_blocks_are_seen_at_any_length_and_by_each_head():
    """In training, away from 1024, 3072 and 4096 tokens too; heads draw for themselves."""
    model = tiny_models.model()
    inputs = {"input_ids": np.full((1, LONG), 5)}
    evaluated = tiny_models.run(model, inputs, output_attentions=True).attentions[0]
    trained = tiny_models.run(model, inputs, train=True, output_attentions=True).attentions[0]
    reads, reads_trained = np.asarray(evaluated[0]) > 0, np.asarray(trained[0]) > 0
    assert reads_trained.sum() > reads.sum()
    assert (reads_trained[0] != reads_trained[1]).any()


@pytest.mark.parametrize("length", [1, 5, 9, 13, 30])
def test_3_lengths_that_are_no_multiple_of_the_block_and_few_blocks(length):
    for kind in ("encoder", "decoder"):
        model = tiny_models.model("Model", is_decoder=kind == "decoder")
        out = tiny_models.run(model, tiny_models.inputs(length=length))[0]
        assert out.shape == (B, length, D)
        assert np.isfinite(out).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": [[5, 40]]}, "got 40"),
        ({"input_ids": [[5, -1]]}, "got -1"),
        ({"input_ids": [[5, 6]], "token_type_ids": [[0, 2]]}, "got 2"),
        ({"input_ids": [[5] * 49]}, "got 49"),
    ],
)
def test_3_what_lies_outside_a_table_is_an_error_and_not_nan(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_models.model()(**arguments)


@pytest.mark.parametrize("rule", ["hf", "google", "fixed"])
def test_4_a_sparse_decoder_without_cross_attention_sees_no_future(rule):
    model = tiny_models.model("ForCausalLM", random_attention=rule)
    ids = tiny_models.inputs(length=LONG)["input_ids"]
    before = tiny_models.run(model, {"input_ids": ids})[0]
    ids = np.concatenate([ids[:, :20], 4 + (ids[:, 20:] - 3) % 30], 1)
    after = tiny_models.run(model, {"input_ids": ids})[0]
    tiny_models.close(after[:, :20], before[:, :20], 1e-6)


def test_4_a_sparse_decoder_uses_its_cache():
    """The second half is computed from the cache alone: it is given nothing else."""
    model = tiny_models.model("ForCausalLM")
    ids = tiny_models.inputs()["input_ids"]
    whole = tiny_models.run(model, {"input_ids": ids}).logits
    cache = model.init_cache(B, T)
    first = {"input_ids": ids[:, :-1], "past_key_values": cache}
    cache = tiny_models.run(model, first).past_key_values
    last = {"input_ids": ids[:, -1:], "past_key_values": cache}
    tiny_models.close(tiny_models.run(model, last).logits, whole[:, -1:], 3e-5)


def test_5_sparse_attentions_are_there_and_their_rows_sum_to_one():
    """[B, N, T, S] in the caller's T; 0 at padded queries; repeated blocks summed."""
    inputs = tiny_models.inputs()
    out = tiny_models.run(tiny_models.model(**TWO_LAYERS), inputs, output_attentions=True)
    assert [x.shape for x in out.attentions] == [(B, HEADS, T, T)] * 2
    want = np.broadcast_to(inputs["attention_mask"][:, None], (B, HEADS, T))
    for probabilities in out.attentions:
        np.testing.assert_allclose(probabilities.sum(-1), want, atol=1e-5)


def test_6_head_mask_works_in_sparse_mode():
    inputs = tiny_models.inputs()
    plain = tiny_models.run(tiny_models.model(), inputs)[0]
    masked = tiny_models.run(tiny_models.model(), inputs | {"head_mask": np.array([1.0, 0.0])})[0]
    assert tiny_models.differ(plain, masked)


@pytest.mark.parametrize("options", [{}, {"train": True}])
@pytest.mark.parametrize("rule", ["hf", "google", "fixed"])
def test_7_no_random_blocks(rule, options):
    model = tiny_models.model(num_random_blocks=0, random_attention=rule)
    out = tiny_models.run(model, tiny_models.inputs(length=LONG), **options)
    assert np.isfinite(out[0]).all()


def test_8_training_leaves_the_callers_generators_alone():
    np.random.seed(7)  # noqa: NPY002 - the caller's own global generator
    random.seed(7)
    want = np.random.random(), random.random()  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    random.seed(7)
    for rule in ("hf", "google", "fixed"):
        model = tiny_models.model(random_attention=rule)
        model(**tiny_models.inputs(length=LONG), train=True)
    assert (np.random.random(), random.random()) == want  # noqa: NPY002


def test_12_all_hidden_states_have_the_callers_length():
    """T no multiple of W; and T may be the whole position table."""
    for length in (T, 48):
        inputs = tiny_models.inputs(length=length)
        out = tiny_models.run(tiny_models.model(**TWO_LAYERS), inputs, output_hidden_states=True)
        assert [x.shape for x in out.hidden_states] == [(B, length, D)] * 3
