"""`resize_token_embeddings`: tables, tied and untied heads, models, files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

import flax_bigbird
from flax_bigbird import resize_token_embeddings

OLD = tiny_models.TINY["vocab_size"]
TABLE = "embeddings/word_embeddings/embedding"
VOCABULARY_AXES = {"bias": 0, "kernel": 1, "embedding": 0}


def resized_leaves(before, after) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns the leaves whose shape has changed; checks that the others are the same."""
    old, new = tiny_models.flat(before), tiny_models.flat(after)
    assert old.keys() == new.keys()
    changed = {}
    for path, leaf in old.items():
        if leaf.shape == new[path].shape:
            np.testing.assert_array_equal(leaf, new[path])
        else:
            changed[path] = (np.asarray(leaf), np.asarray(new[path]))
    return changed


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("task", ["ForMaskedLM", "ForPreTraining", "ForCausalLM"])
@pytest.mark.parametrize("size", [OLD + 9, OLD - 5, OLD])
def test_old_rows_stay_and_new_rows_are_their_mean(task, tie, size):
    config = {"tie_word_embeddings": tie}
    config |= {"is_decoder": True} if task == "ForCausalLM" else {}
    model = tiny_models.model(task, **config)
    changed = resized_leaves(model.params, resize_token_embeddings(model, size).params)
    if size == OLD:
        assert not changed
        return
    assert len(changed) == (2 if tie else 3)
    for path, (old, new) in changed.items():
        axis = VOCABULARY_AXES[path.split("/")[-1] if isinstance(path, str) else path[-1]]
        old, new = np.moveaxis(old, axis, 0), np.moveaxis(new, axis, 0)
        assert len(new) == size
        np.testing.assert_array_equal(new[:OLD], old[:size])
        for row in new[OLD:]:
            np.testing.assert_allclose(row, old.mean(0), atol=1e-6)


@pytest.mark.parametrize("task", tiny_models.TASKS)
def test_a_model_takes_new_tokens_and_answers_old_ones_as_before(task):
    model = tiny_models.model(task)
    larger = resize_token_embeddings(model, OLD + 8)
    assert type(larger) is type(model)
    assert (larger.config.vocab_size, model.config.vocab_size) == (OLD + 8, OLD)
    arrays = tiny_models.inputs(task)
    before, after = tiny_models.run(model, arrays), tiny_models.run(larger, arrays)
    old_logits = jax.tree.map(lambda a, b: b[tuple(slice(n) for n in a.shape)], before, after)
    tiny_models.close(old_logits, before, 1e-6)
    arrays["input_ids"] = np.full_like(arrays["input_ids"], OLD + 7)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(tiny_models.run(larger, arrays)))


def test_parameters_keep_their_dtype_and_the_given_tree_stays():
    params = tiny_models.model("ForMaskedLM").params
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    new = resize_token_embeddings(half, OLD + 3)
    assert {x.dtype for x in jax.tree.leaves(new)} == {jnp.dtype(jnp.bfloat16)}
    assert half["cls"]["predictions"]["bias"].shape == (OLD,)


def test_the_result_can_be_saved_and_loaded(tmp_path):
    larger = resize_token_embeddings(tiny_models.model("ForMaskedLM"), OLD + 6)
    larger.save_pretrained(tmp_path)
    loaded = flax_bigbird.FlaxBigBirdForMaskedLM.from_pretrained(tmp_path)
    assert loaded.config.vocab_size == OLD + 6
    assert not resized_leaves(larger.params, loaded.params)


@pytest.mark.parametrize("size", [0, -1, True])
def test_a_bad_size_is_refused(size):
    with pytest.raises(ValueError, match="vocab_size must be a positive integer; got"):
        resize_token_embeddings(tiny_models.model().params, size)


def test_a_tree_without_word_embeddings_is_refused():
    with pytest.raises(ValueError, match=r"must hold one table .* got 0: pass a model"):
        resize_token_embeddings({"other": jnp.ones(2)}, 5)


def test_special_tokens_are_not_removed():
    model = tiny_models.model(sep_token_id=30)
    with pytest.raises(ValueError, match="got 30, and sep_token_id is 30: raise it"):
        resize_token_embeddings(model, 30)
