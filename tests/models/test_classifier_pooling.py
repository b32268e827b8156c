"""`config.classifier_pooling`: what the head of a sequence classifier reads."""

import json

import jax
import numpy as np
import pytest
import tiny_models
from tiny_models import LABELS, D, V

import flax_bigbird

TASK = "ForSequenceClassification"
LENGTHS = (1, 7, 30)


def batch(length):
    """Returns a batch of examples of `LENGTHS`, padded to `length` with ids of real tokens."""
    generator = np.random.default_rng(0)
    ids = np.full((len(LENGTHS), length), 7)
    mask = np.zeros_like(ids)
    for row, count in enumerate(LENGTHS):
        ids[row, :count] = generator.integers(4, V, count)
        mask[row, :count] = 1
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture(scope="module")
def model():
    return tiny_models.model(TASK, classifier_pooling="mean", padding_invariant=True)


def test_the_head_is_linear_in_the_mean_over_real_tokens(model):
    arrays = batch(36)
    out = tiny_models.run(model, arrays, output_hidden_states=True)
    states = np.asarray(out.hidden_states[-1], np.float64)
    head = model.params["classifier"]["out_proj"]
    for row, count in enumerate(LENGTHS):
        mean = states[row, :count].sum(0) / count
        expected = mean @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
        np.testing.assert_allclose(out.logits[row], expected, atol=1e-5)


def test_padding_does_not_change_the_logits(model):
    short, long = (tiny_models.run(model, batch(length)).logits for length in (30, 48))
    np.testing.assert_allclose(short, long, atol=1e-5)


def test_without_a_mask_all_tokens_count(model):
    ids = batch(30)["input_ids"]
    with_mask = tiny_models.run(model, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    without = tiny_models.run(model, {"input_ids": ids})
    np.testing.assert_allclose(without.logits, with_mask.logits, atol=1e-6)


def test_a_row_of_padding_has_finite_logits(model):
    arrays = batch(30)
    arrays["attention_mask"][0] = 0
    assert np.isfinite(tiny_models.run(model, arrays).logits).all()


def test_parameters_of_both_heads(model):
    leaves = tiny_models.flat(model.params["classifier"])
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    assert shapes == {"out_proj/kernel": (D, LABELS), "out_proj/bias": (LABELS,)}
    published = tiny_models.model(TASK)  # the head of `transformers`
    assert set(published.params["classifier"]) == {"dense", "out_proj"}
    explicit = tiny_models.model(TASK, classifier_pooling="cls")
    np.testing.assert_array_equal(
        tiny_models.run(published, batch(30)).logits, tiny_models.run(explicit, batch(30)).logits
    )


def test_the_key_is_saved(tmp_path, model):
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["classifier_pooling"] == "mean"
    loaded = flax_bigbird.FlaxBigBirdForSequenceClassification.from_pretrained(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, model.params, loaded.params)
    arrays = batch(30)
    np.testing.assert_array_equal(
        tiny_models.run(loaded, arrays).logits, tiny_models.run(model, arrays).logits
    )


@pytest.mark.parametrize("value", ["max", "MEAN", 1, True])
def test_other_values_are_refused(value):
    with pytest.raises(ValueError, match=r"classifier_pooling must be one of \('cls', 'mean'\)"):
        tiny_models.task_class(TASK)(tiny_models.config(classifier_pooling=value), _do_init=False)
