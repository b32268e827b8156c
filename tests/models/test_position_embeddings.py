"""`resize_position_embeddings`: parameter trees, models and saved files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from tiny_models import TASKS

import flax_bigbird
from flax_bigbird import resize_position_embeddings

OLD = tiny_models.TINY["max_position_embeddings"]
PATH = ("embeddings", "position_embeddings", "embedding")


def table_of(params) -> np.ndarray:
    tree = params.get("bert", params)
    for name in PATH:
        tree = tree[name]
    return np.asarray(tree)


def with_table(table) -> dict:
    return {"bert": {PATH[0]: {PATH[1]: {PATH[2]: jnp.asarray(table)}}}, "other": jnp.ones(2)}


@pytest.mark.parametrize("length", [1, 5, OLD, OLD + 1, 3 * OLD + 7])
def test_tile(length):
    params = tiny_models.model().params
    old = table_of(params)
    new = table_of(resize_position_embeddings(params, length, "tile"))
    assert new.shape == (length, old.shape[1])
    for position in range(length):
        np.testing.assert_array_equal(new[position], old[position % OLD])


@pytest.mark.parametrize("length", [1, 2, 5, OLD, OLD + 1, 200])
def test_interpolate(length):
    old = np.random.default_rng(0).normal(size=(OLD, 3)).astype(np.float32)
    new = table_of(resize_position_embeddings(with_table(old), length, "interpolate"))
    at = np.linspace(0, OLD - 1, length)
    want = np.stack([np.interp(at, np.arange(OLD), column) for column in old.T], -1)
    np.testing.assert_allclose(new, want, atol=1e-4)
    np.testing.assert_array_equal(new[0], old[0])
    if length > 1:
        np.testing.assert_array_equal(new[-1], old[-1])


@pytest.mark.parametrize("method", ["tile", "interpolate"])
def test_dtype_and_other_leaves_are_unchanged(method):
    params = with_table(np.ones((4, 2)))
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    new = resize_position_embeddings(half, 9, method)
    assert {x.dtype for x in jax.tree.leaves(new)} == {jnp.dtype(jnp.bfloat16)}
    assert new["other"] is half["other"]
    assert table_of(half).shape == (4, 2)


@pytest.mark.parametrize("task", TASKS)
def test_model(task):
    """The new model accepts longer inputs, and returns the same for inputs that fit the old one."""
    model = tiny_models.model(task)
    longer = resize_position_embeddings(model, 2 * OLD)
    assert type(longer) is type(model)
    assert longer.config.max_position_embeddings == 2 * OLD
    assert model.config.max_position_embeddings == OLD
    short = tiny_models.inputs(task)
    tiny_models.close(tiny_models.run(longer, short), tiny_models.run(model, short), 1e-6)
    long = tiny_models.inputs(task, length=OLD + 5)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(tiny_models.run(longer, long)))
    with pytest.raises(ValueError, match=f"at most {OLD} tokens"):
        model(**long)
    with pytest.raises(ValueError, match=f"at most {2 * OLD} tokens"):
        longer(**tiny_models.inputs(task, length=2 * OLD + 1))


def test_save_and_load(tmp_path):
    """The result can be saved and loaded, with its new maximum length."""
    longer = resize_position_embeddings(tiny_models.model("ForMaskedLM"), 75, "interpolate")
    longer.save_pretrained(tmp_path)
    loaded = flax_bigbird.FlaxBigBirdForMaskedLM.from_pretrained(tmp_path)
    assert loaded.config.max_position_embeddings == 75
    tiny_models.close(loaded.params, longer.params, 0)
    inputs = tiny_models.inputs(length=75)
    tiny_models.close(tiny_models.run(loaded, inputs), tiny_models.run(longer, inputs))


@pytest.mark.parity
def test_pytorch_reads_the_longer_table(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    longer = resize_position_embeddings(tiny_models.model(), 2 * OLD)
    longer.save_pretrained(tmp_path)
    theirs = transformers.BigBirdModel.from_pretrained(tmp_path).eval()
    inputs = tiny_models.inputs(length=2 * OLD - 1)
    with torch.no_grad():
        other = theirs(**{name: torch.tensor(x).long() for name, x in inputs.items()})
    ours = tiny_models.run(longer, inputs).last_hidden_state
    np.testing.assert_allclose(ours, other.last_hidden_state.numpy(), atol=3e-5)


def test_module_fields_are_unchanged():
    cls = flax_bigbird.FlaxBigBirdForQuestionAnswering
    model = cls(
        tiny_models.config(), _do_init=False, add_pooling_layer=True, gradient_checkpointing=True
    )
    model._adopt_params(tiny_models.random_params(model))
    longer = resize_position_embeddings(model, 60)
    assert longer.module.add_pooling_layer
    assert longer.module.gradient_checkpointing
    assert "pooler" in longer.params["bert"]


class ModuleWithCategory(tiny_models.module_class("ForMaskedLM")):
    """A user's module with a field of its own."""

    num_categories: int = 5


def test_fields_of_a_users_module_are_unchanged():
    base = tiny_models.task_class("ForMaskedLM")
    cls = type("Model", (base,), {"module_class": ModuleWithCategory})
    model = cls(tiny_models.config(), _do_init=False, num_categories=7)
    model._adopt_params(tiny_models.random_params(model))
    assert resize_position_embeddings(model, 60).module.num_categories == 7


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((60, "repeat"), r"method must be one of \('tile', 'interpolate'\); got 'repeat'"),
        ((0,), "1 or more; got 0"),
        ((60.5,), "got 60.5"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        resize_position_embeddings(tiny_models.model(), *arguments)


def test_invalid_trees():
    with pytest.raises(ValueError, match=r"one table .*position_embeddings/embedding; got 0"):
        resize_position_embeddings({"bert": {"pooler": jnp.ones(2)}}, 60)
    empty = flax_bigbird.FlaxBigBirdModel(tiny_models.config(), _do_init=False)
    with pytest.raises(ValueError, match="holds no parameters"):
        resize_position_embeddings(empty, 60)
