"""`global_attention_mask`: the blocks of marked tokens attend to all, and all attend to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from tiny_models import TASKS, B, W

T = 66  # 17 blocks, the last one incomplete; attention is sparse from 29 tokens on
OPTIONS = {"max_position_embeddings": 80, "random_attention": "fixed"}


def arrays(task: str = "Model") -> dict[str, np.ndarray]:
    return tiny_models.inputs(task, length=T)


def user_global(task: str = "Model", at: tuple[int, ...] = (22, 23, 41)) -> np.ndarray:
    """Marks tokens of blocks 5 and 10; in the second example only those of the first block."""
    mask = np.zeros(tiny_models.input_shape(task, T), int)
    mask[..., list(at)] = 1
    mask[1, ..., 30:] = 0
    return mask


def probabilities(model, inputs, **options) -> np.ndarray:
    return np.asarray(tiny_models.run(model, inputs, output_attentions=True).attentions[0])


@pytest.mark.parametrize("invariant", [False, True], ids=["", "padding_invariant"])
@pytest.mark.parametrize("rule", ["hf", "fixed"])
def test_global_blocks_read_all_and_are_read_by_all(rule, invariant):
    """All other pairs are read as often as without them."""
    options = OPTIONS | {"random_attention": rule}
    options |= {"padding_invariant": True} if invariant else {}
    model = tiny_models.model(**options)
    inputs = arrays()
    inputs["attention_mask"][:] = 1
    before = probabilities(model, inputs)
    after = probabilities(model, inputs | {"global_attention_mask": user_global()})
    block = np.arange(T) // W
    for example, blocks in enumerate(({5, 10}, {5})):
        is_global = np.isin(block, list(blocks))
        reads = is_global[:, None] | is_global[None, :]
        was_read = before[example] > 0
        np.testing.assert_array_equal(after[example] > 0, was_read | reads)
        # Keys that were read before keep the ratios of their weights: the others count once.
        rows = ~is_global
        ratio = np.where(was_read, after[example] / np.where(was_read, before[example], 1), 0)
        low = np.where(was_read, ratio, np.inf).min(-1)
        np.testing.assert_allclose(ratio.max(-1)[:, rows], low[:, rows], rtol=1e-4)
    np.testing.assert_allclose(after.sum(-1), 1, atol=1e-5)


def test_context_is_that_of_the_probabilities():
    """The kernel computes the context of the probabilities that `output_attentions` returns."""
    model = tiny_models.model(**OPTIONS)
    inputs = arrays() | {"global_attention_mask": user_global()}
    fast = tiny_models.run(model, inputs).last_hidden_state
    shown = tiny_models.run(model, inputs, output_attentions=True).last_hidden_state
    tiny_models.close(fast, shown)
    assert tiny_models.differ(fast, tiny_models.run(model, arrays()).last_hidden_state)


@pytest.mark.filterwarnings("ignore:FlaxBigBirdForCausalLM with config.is_decoder=False")
@pytest.mark.parametrize("task", TASKS)
def test_every_task(task):
    # With two layers, because the first token reads everything in one layer anyway.
    two = tiny_models.TWO_LAYERS
    model = tiny_models.model(task, is_decoder=False, **two, **OPTIONS)
    before = tiny_models.run(model, arrays(task))
    after = tiny_models.run(model, arrays(task) | {"global_attention_mask": user_global(task)})
    assert tiny_models.differ(before[0], after[0])
    nothing = np.zeros_like(user_global(task))
    same = tiny_models.run(model, arrays(task) | {"global_attention_mask": nothing})
    tiny_models.close(before, same)


def test_marking_blocks_that_are_global_anyway_changes_nothing():
    model = tiny_models.model(**OPTIONS)
    mask = np.zeros((B, T), int)
    mask[:, 1] = mask[:, T - 1] = 1
    inputs = arrays()
    inputs["attention_mask"][:] = 1
    before = tiny_models.run(model, inputs)
    tiny_models.close(before, tiny_models.run(model, inputs | {"global_attention_mask": mask}))


def test_masked_tokens_are_not_global():
    model = tiny_models.model(**OPTIONS)
    inputs = arrays()
    inputs["attention_mask"][:, 20:24] = 0
    before = tiny_models.run(model, inputs)
    mask = user_global(at=(22, 23))
    tiny_models.close(before, tiny_models.run(model, inputs | {"global_attention_mask": mask}))


def test_full_attention_does_not_change():
    """Up to (5 + 2R) W tokens, every token attends to all tokens anyway."""
    model = tiny_models.model(**OPTIONS)
    inputs = tiny_models.inputs(length=20)
    mask = np.ones((B, 20), int)
    before = tiny_models.run(model, inputs)
    tiny_models.close(before, tiny_models.run(model, inputs | {"global_attention_mask": mask}))


def test_gradients_and_checkpointing():
    """Gradients equal those of the dense definition, with gradient checkpointing too."""
    model = tiny_models.model(**OPTIONS)
    remat = tiny_models.task_class("Model")(
        model.config, _do_init=False, gradient_checkpointing=True
    )
    inputs = arrays() | {"global_attention_mask": user_global()}
    real = inputs["attention_mask"][..., None] != 0

    def gradient(model, **options):
        def loss(params):
            states = model(**inputs, params=params, **options).last_hidden_state
            return jnp.where(real, jnp.sin(states), 0).sum()

        return jax.jit(jax.grad(loss))

    params = tiny_models.model(**OPTIONS).params
    want = gradient(model, output_attentions=True)(params)
    tiny_models.close(gradient(model)(params), want, 3e-4)
    tiny_models.close(gradient(remat)(params), want, 3e-4)


def test_padding_changes_nothing_with_padding_invariant():
    model = tiny_models.model(**OPTIONS, padding_invariant=True)
    inputs = arrays() | {"global_attention_mask": user_global()}
    inputs["attention_mask"][:] = 1
    wide = {name: np.pad(x, ((0, 0), (0, 10))) for name, x in inputs.items()}
    alone = tiny_models.run(model, inputs).last_hidden_state
    padded = tiny_models.run(model, wide).last_hidden_state[:, :T]
    tiny_models.close(alone, padded, 1e-5)


def test_too_many_blocks():
    """Host arrays raise an error; traced ones give NaN for that example only."""
    model = tiny_models.model(**OPTIONS, max_user_global_blocks=1)
    inputs = arrays()
    inputs["attention_mask"][:] = 1
    message = "at most 1 block of 4 per example.*got 2: mark fewer, or raise the limit"
    with pytest.raises(ValueError, match=message):
        model(**inputs, global_attention_mask=user_global())
    out = tiny_models.run(
        model, inputs | {"global_attention_mask": user_global()}
    ).last_hidden_state
    assert np.isnan(out[0]).all()
    enough = tiny_models.model(**OPTIONS)
    want = tiny_models.run(
        enough, inputs | {"global_attention_mask": user_global()}
    ).last_hidden_state
    tiny_models.close(out[1], want[1])


@pytest.mark.parametrize(
    ("changes", "mask", "message"),
    [
        ({"is_decoder": True}, np.ones((B, T)), "needs an encoder.*is_decoder=True"),
        (
            {"num_leading_global_blocks": 0, "num_trailing_global_blocks": 0},
            np.ones((B, T)),
            "needs a leading or trailing global block",
        ),
        ({}, np.ones((B, T - 1), int), r"must have shape \[2, 66\]"),
        ({}, np.full((B, T), 2), "must be 1 at tokens"),
        ({}, np.ones((B, T), int), "at most 8 blocks"),
    ],
)
def test_invalid_masks(changes, mask, message):
    model = tiny_models.model(**OPTIONS, **changes)
    with pytest.raises(ValueError, match=message):
        model(**arrays(), global_attention_mask=mask)
