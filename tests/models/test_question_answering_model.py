"""Question answering: the end of the question, its mask, and a user's subclass."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_models
from flax.core import unfreeze
from tiny_models import SEP, B, D, T

from flax_bigbird import FlaxBigBirdForQuestionAnswering, FlaxBigBirdForQuestionAnsweringModule

TASK = "ForQuestionAnswering"
PENALTY = -1e5  # logits below it are masked


def questions() -> dict[str, Any]:
    """Returns questions of 4 and 6 tokens, separators included, with a second separator later."""
    inputs = tiny_models.inputs(TASK)
    for row, end in enumerate((4, 6)):
        inputs["input_ids"][row, end - 1] = SEP
        inputs["input_ids"][row, 15] = SEP
    return inputs


def test_question_ends_at_the_first_separator():
    """Its tokens except the first are masked, and have token type 0; the others have type 1."""
    model, inputs = tiny_models.model(TASK), questions()
    out = tiny_models.run(model, inputs)
    for logits in (out.start_logits, out.end_logits):
        masked = np.asarray(logits) < PENALTY
        np.testing.assert_array_equal(masked.sum(-1), [3, 5])
        assert masked[0, 1:4].all()
        assert masked[1, 1:6].all()
    types = (np.arange(T) >= [[4], [6]]).astype(np.int32)  # padding too
    tiny_models.close(tiny_models.run(model, inputs | {"token_type_ids": types}), out, 0)
    lengths = np.array([[4], [6]])
    tiny_models.close(tiny_models.run(model, inputs | {"question_lengths": lengths}), out, 0)
    other = tiny_models.run(model, inputs | {"token_type_ids": 1 - types})
    assert tiny_models.differ(other[0][:, 20:], out[0][:, 20:])


def test_without_a_separator_the_question_is_the_first_token():
    model, inputs = tiny_models.model(TASK), tiny_models.inputs(TASK)
    out = tiny_models.run(model, inputs)
    assert (np.asarray(out.start_logits) > PENALTY).all()
    types = np.ones((B, T), np.int32)
    types[:, 0] = 0
    tiny_models.close(tiny_models.run(model, inputs | {"token_type_ids": types}), out, 0)


def test_a_configuration_without_a_separator():
    inputs = tiny_models.inputs(TASK)
    got = tiny_models.model(TASK, sep_token_id=None)(**inputs)
    want = tiny_models.model(TASK)(**inputs, question_lengths=np.ones((B, 1), np.int32))
    tiny_models.close(got, want, 1e-5)


@pytest.mark.usefixtures("standard_dtype_promotion")
def test_penalty_is_finite_in_half_precision():
    model = tiny_models.model(TASK, dtype="float16", initializer_range=0.1)
    out = tiny_models.run(model, questions())
    assert np.isfinite(out.start_logits).all()
    np.testing.assert_array_equal((np.asarray(out.start_logits) < -1e4).sum(-1), [3, 5])


def test_inner_dropout_is_active_in_training():
    """The feed-forward block of the head has dropout, as in HF-Torch (but not in HF-Flax)."""
    from flax_bigbird.nn.heads import QuestionAnsweringHead

    head = QuestionAnsweringHead(tiny_models.config(hidden_dropout_prob=0.5))
    x = jax.random.normal(jax.random.PRNGKey(0), (1, 5, D))
    params = unfreeze(head.init(jax.random.PRNGKey(1), x))
    # With the first dropout's input constant in every feature that matters, only the inner one is
    # left: a zeroed intermediate kernel makes the block's input irrelevant.
    params["params"]["intermediate"]["dense"]["kernel"] *= 0
    params["params"]["intermediate"]["dense"]["bias"] += 1
    rngs = [{"dropout": jax.random.PRNGKey(i)} for i in range(2)]
    one, two = (head.apply(params, x, deterministic=False, rngs=r) for r in rngs)
    assert tiny_models.differ(one, two)


def test_pooled_output_comes_with_the_pooling_layer():
    cls, config = tiny_models.task_class(TASK), tiny_models.config()
    out = cls(config, add_pooling_layer=True)(**questions())
    assert out.pooled_output.shape == (B, D)
    assert list(out.keys()) == ["start_logits", "end_logits", "pooled_output"]
    assert cls(config)(**questions()).pooled_output is None


class SpansAndCategoryModule(FlaxBigBirdForQuestionAnsweringModule):
    """A module that a user's program defines: five categories from the pooled first token."""

    add_pooling_layer: bool = True

    def setup(self):
        super().setup()
        self.cls = nn.Dense(5, dtype=self.dtype)

    def __call__(self, *args, **kwargs):
        outputs = super().__call__(*args, **kwargs)
        return outputs[:2] + (self.cls(outputs[2]),)  # noqa: RUF005 - as users write it


class SpansAndCategory(FlaxBigBirdForQuestionAnswering):
    module_class = SpansAndCategoryModule


@pytest.mark.usefixtures("standard_dtype_promotion")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_users_subclass_trains(checkpointing):
    """The loss falls, with dropout, redrawn random blocks and an optimizer."""
    model = SpansAndCategory(
        tiny_models.config(hidden_dropout_prob=0.05, initializer_range=0.1),
        gradient_checkpointing=checkpointing,
    )
    assert model.params["cls"]["kernel"].shape == (D, 5)
    inputs = questions()
    targets = (np.array([9, 12]), np.array([10, 14]), np.array([2, 4]))
    optimizer = optax.adam(1e-2)

    def loss(params, key):
        dropout, indices = jax.random.split(key)
        outputs = model(
            **inputs, params=params, dropout_rng=dropout, indices_rng=indices, train=True
        )
        assert isinstance(outputs, tuple)
        losses = map(optax.softmax_cross_entropy_with_integer_labels, outputs, targets)
        return sum(value.mean() for value in losses)

    @jax.jit
    def step(params, state, key):
        value, gradients = jax.value_and_grad(loss)(params, key)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, value

    params, state = model.params, optimizer.init(model.params)
    losses = []
    for key in jax.random.split(jax.random.PRNGKey(0), 25):
        params, state, value = step(params, state, key)
        losses.append(float(value))
    assert losses[-1] < 0.5 * losses[0]
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), params["cls"], model.params["cls"])
    assert all(jax.tree.leaves(moved))


def test_jitted_arguments_of_the_module_itself():
    """The module called directly, positionally, as training scripts do with `apply`."""
    model, inputs = tiny_models.model(TASK), questions()
    ids, mask = (jnp.asarray(inputs[name]) for name in ("input_ids", "attention_mask"))
    types, positions = jnp.zeros_like(ids), jnp.broadcast_to(jnp.arange(T), ids.shape)
    direct = model.module.apply(
        {"params": model.params}, ids, mask, types, positions, None, None, True, False, False, True
    )
    assert (np.asarray(direct.start_logits) > PENALTY).all(), "no logits_mask, no penalty"
    facade = model(**inputs, token_type_ids=types)
    unmasked = np.asarray(facade.start_logits) > PENALTY
    np.testing.assert_allclose(
        np.asarray(direct.start_logits)[unmasked],
        np.asarray(facade.start_logits)[unmasked],
        atol=2e-5,
    )
