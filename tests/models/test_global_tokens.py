"""`global_attention_mask`: chosen tokens' blocks are read by all and read all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from tiny_models import TASKS, B, W

T = 66  # 17 blocks, the last part full; attention is sparse from 29 tokens on
OPTIONS = {"max_position_embeddings": 80, "random_attention": "fixed"}


def arrays(task: str = "Model") -> dict[str, np.ndarray]:
    return tiny_models.inputs(task, length=T)


def chosen(task: str = "Model", at: tuple[int, ...] = (22, 23, 41)) -> np.ndarray:
    """Tokens of blocks 5 and 10; the second document chooses the first of them alone."""
    mask = np.zeros(tiny_models.input_shape(task, T), int)
    mask[..., list(at)] = 1
    mask[1, ..., 30:] = 0
    return mask


def probabilities(model, inputs, **options) -> np.ndarray:
    return np.asarray(tiny_models.run(model, inputs, output_attentions=True).attentions[0])


@pytest.mark.parametrize("invariant", [False, True], ids=["", "padding_invariant"])
@pytest.mark.parametrize("rule", ["hf", "fixed"])
def test_chosen_blocks_read_all_and_are_read_by_all(rule, invariant):
    """And every other pair is read as often as without."""
    options = OPTIONS | {"random_attention": rule}
    options |= {"padding_invariant": True} if invariant else {}
    model = tiny_models.model(**options)
    inputs = arrays()
    inputs["attention_mask"][:] = 1
    before = probabilities(model, inputs)
    after = probabilities(model, inputs | {"global_attention_mask": chosen()})
    block = np.arange(T) // W
    for document, blocks in enumerate(({5, 10}, {5})):
        is_chosen = np.isin(block, list(blocks))
        reads = is_chosen[:, None] | is_chosen[None, :]
        was_read = before[document] > 0
        np.testing.assert_array_equal(after[document] > 0, was_read | reads)
        # Multiplicities: in a row, weights of old keys keep their ratios; chosen ones count once.
        rows = ~is_chosen
        ratio = np.where(was_read, after[document] / np.where(was_read, before[document], 1), 0)
        low = np.where(was_read, ratio, np.inf).min(-1)
        np.testing.assert_allclose(ratio.max(-1)[:, rows], low[:, rows], rtol=1e-4)
    np.testing.assert_allclose(after.sum(-1), 1, atol=1e-5)


def test_context_is_that_of_the_probabilities():
    """The fast path computes what `output_attentions` shows."""
    model = tiny_models.model(**OPTIONS)
    inputs = arrays() | {"global_attention_mask": chosen()}
    fast = tiny_models.run(model, inputs).last_hidden_state
    shown = tiny_models.run(model, inputs, output_attentions=True).last_hidden_state
    tiny_models.close(fast, shown)
    assert tiny_models.differ(fast, tiny_models.run(model, arrays()).last_hidden_state)


@pytest.mark.filterwarnings("ignore:FlaxBigBirdForCausalLM with config.is_decoder=False")
@pytest.mark.parametrize("task", TASKS)
def test_every_task(task):
    # Two layers: a first token reads everything in any case, but not what the others have read.
    two = tiny_models.TWO_LAYERS
    model = tiny_models.model(task, is_decoder=False, **two, **OPTIONS)
    before = tiny_models.run(model, arrays(task))
    after = tiny_models.run(model, arrays(task) | {"global_attention_mask": chosen(task)})
    assert tiny_models.differ(before[0], after[0])
    nothing = np.zeros_like(chosen(task))
    same = tiny_models.run(model, arrays(task) | {"global_attention_mask": nothing})
    tiny_models.close(before, same)


def test_choosing_what_is_global_anyway_changes_nothing():
    model = tiny_models.model(**OPTIONS)
    mask = np.zeros((B, T), int)
    mask[:, 1] = mask[:, T - 1] = 1
    inputs = arrays()
    inputs["attention_mask"][:] = 1
    before = tiny_models.run(model, inputs)
    tiny_models.close(before, tiny_models.run(model, inputs | {"global_attention_mask": mask}))


def test_masked_tokens_choose_nothing():
    model = tiny_models.model(**OPTIONS)
    inputs = arrays()
    inputs["attention_mask"][:, 20:24] = 0
    before = tiny_models.run(model, inputs)
    mask = chosen(at=(22, 23))
    tiny_models.close(before, tiny_models.run(model, inputs | {"global_attention_mask": mask}))


def test_full_attention_is_as_before():
    """Up to (5 + 2R) W tokens everything is read anyway."""
    model = tiny_models.model(**OPTIONS)
    inputs = tiny_models.inputs(length=20)
    mask = np.ones((B, 20), int)
    before = tiny_models.run(model, inputs)
    tiny_models.close(before, tiny_models.run(model, inputs | {"global_attention_mask": mask}))


def test_gradients_and_checkpointing():
    """Through the traced lists, remat included, against the dense definition."""
    model = tiny_models.model(**OPTIONS)
    remat = tiny_models.task_class("Model")(
        model.config, _do_init=False, gradient_checkpointing=True
    )
    inputs = arrays() | {"global_attention_mask": chosen()}
    real = inputs["attention_mask"][..., None]

    def gradient(model, **options):
        def loss(params):
            states = model(**inputs, params=params, **options).last_hidden_state
            return (jnp.sin(states) * real).sum()

        return jax.jit(jax.grad(loss))

    params = tiny_models.model(**OPTIONS).params
    want = gradient(model, output_attentions=True)(params)
    tiny_models.close(gradient(model)(params), want, 3e-4)
    tiny_models.close(gradient(remat)(params), want, 3e-4)


def test_padding_changes_nothing_with_padding_invariant():
    model = tiny_models.model(**OPTIONS, padding_invariant=True)
    inputs = arrays() | {"global_attention_mask": chosen()}
    inputs["attention_mask"][:] = 1
    wide = {name: np.pad(x, ((0, 0), (0, 10))) for name, x in inputs.items()}
    alone = tiny_models.run(model, inputs).last_hidden_state
    padded = tiny_models.run(model, wide).last_hidden_state[:, :T]
    tiny_models.close(alone, padded, 1e-5)


def test_too_many():
    """Host arrays raise; traced ones give that document NaN, and the other its own result."""
    model = tiny_models.model(**OPTIONS, max_user_global_blocks=1)
    inputs = arrays()
    inputs["attention_mask"][:] = 1
    message = "at most 1 blocks of 4 a document.*got 2: choose fewer, or raise the limit"
    with pytest.raises(ValueError, match=message):
        model(**inputs, global_attention_mask=chosen())
    out = tiny_models.run(model, inputs | {"global_attention_mask": chosen()}).last_hidden_state
    assert np.isnan(out[0]).all()
    enough = tiny_models.model(**OPTIONS)
    want = tiny_models.run(enough, inputs | {"global_attention_mask": chosen()}).last_hidden_state
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
def test_bad_input(changes, mask, message):
    model = tiny_models.model(**OPTIONS, **changes)
    with pytest.raises(ValueError, match=message):
        model(**arrays(), global_attention_mask=mask)
