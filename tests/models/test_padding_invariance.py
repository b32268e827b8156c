"""With `config.padding_invariant`, results do not depend on padding or on other examples.

With blocks of 4 tokens and one random block, examples of up to 7 blocks use full attention.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TASKS, V

from flax_bigbird.attention import available_implementations

BUCKET, WIDER = 60, 72
LENGTHS = (1, 5, 28, 29, 47, 60)  # full attention up to 28
RULES = ("hf", "google", "fixed")
OPTIONS = {"padding_invariant": True, "max_position_embeddings": 80}


def ids_of(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, length]).integers(4, V, length)


def batch_of(examples: list[np.ndarray], bucket: int) -> dict[str, np.ndarray]:
    """Returns a batch that is masked, and padded on the right with ids of real tokens."""
    ids = np.full((len(examples), bucket), 7)
    mask = np.zeros((len(examples), bucket), int)
    for row, example in enumerate(examples):
        ids[row, : len(example)] = example
        mask[row, : len(example)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def unpadded(out, row: int, length: int) -> list[np.ndarray]:
    """Returns the arrays of one example without padded positions."""
    arrays = []
    for leaf in jax.tree.leaves(out):
        x = np.asarray(leaf)[row]
        arrays.append(x[:length] if x.ndim and x.shape[0] >= BUCKET else x)
    return arrays


def arrays_of(out, row: int = 0) -> list[np.ndarray]:
    return [np.asarray(leaf)[row] for leaf in jax.tree.leaves(out)]


def check_close(got, want, message, tolerance=1e-5):
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, atol=tolerance, rtol=tolerance, err_msg=message)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("rule", RULES)
def test_each_example_equals_itself_alone(rule, train):
    model = tiny_models.model(random_attention=rule, **tiny_models.TWO_LAYERS, **OPTIONS)
    examples = [ids_of(length) for length in LENGTHS]
    for bucket in (BUCKET, WIDER):
        together = tiny_models.run(model, batch_of(examples, bucket), train=train)
        for row, example in enumerate(examples):
            length = len(example)
            alone = tiny_models.run(model, batch_of([example], length), train=train)
            got = unpadded(together, row, length)
            check_close(got, arrays_of(alone), f"{length} tokens in {bucket}")


@pytest.mark.filterwarnings("ignore:FlaxBigBirdForCausalLM with config.is_decoder=False")
@pytest.mark.parametrize("task", TASKS)
def test_every_task(task):
    """A short and a long example; for multiple choice, both are choices of one question."""
    model = tiny_models.model(task, is_decoder=False, **OPTIONS)
    examples = [ids_of(length) for length in (5, 47)]
    separator = tiny_models.SEP
    examples[1][9] = separator  # the question's end
    together = batch_of(examples, BUCKET)
    if task == "ForMultipleChoice":
        out = tiny_models.run(model, {k: x[None] for k, x in together.items()})
        for row, example in enumerate(examples):
            arrays = {k: x[None] for k, x in batch_of([example], len(example)).items()}
            alone = tiny_models.run(model, arrays).logits
            np.testing.assert_allclose(out.logits[0, row], alone[0, 0], atol=1e-5)
        return
    out = tiny_models.run(model, together)
    for row, example in enumerate(examples):
        alone = tiny_models.run(model, batch_of([example], len(example)))
        check_close(unpadded(out, row, len(example)), arrays_of(alone), f"row {row}")


@pytest.mark.parametrize("rule", RULES)
def test_gradients_equal_those_of_the_example_alone(rule):
    """The loss depends on one example of the batch."""
    model = tiny_models.model(random_attention=rule, **OPTIONS)
    examples = [ids_of(length) for length in LENGTHS]
    weights = np.random.default_rng(1).standard_normal((WIDER, tiny_models.D))

    @jax.jit
    def gradient(params, batch, selected):
        def loss(params):
            states = model(**batch, params=params, train=True).last_hidden_state
            length = states.shape[1]
            own = (states * weights[:length]).sum(-1)
            own = jnp.where(batch["attention_mask"] != 0, own, 0)
            return (own.sum(-1) * selected).sum()

        return jax.grad(loss)(params)

    together = batch_of(examples, BUCKET)
    for row, example in enumerate(examples):
        selected = np.eye(len(examples))[row]
        got = gradient(model.params, together, selected)
        want = gradient(model.params, batch_of([example], len(example)), np.ones(1))
        largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want))
        jax.tree.map(
            lambda a, b, scale=largest: np.testing.assert_allclose(a / scale, b / scale, atol=1e-5),
            got,
            want,
        )


@functools.cache
def alone(length: int, seed: int) -> list[np.ndarray]:
    """Returns an example alone, in the wider bucket, which is compiled once for all lengths."""
    model = tiny_models.model(random_attention="fixed", **OPTIONS)
    out = tiny_models.run(model, batch_of([ids_of(length, seed)], WIDER))
    return unpadded(out, 0, length)


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, BUCKET), min_size=4, max_size=4),
    seeds=st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_random_batches(lengths, seeds):
    """Results do not depend on the other examples, their order or the bucket."""
    model = tiny_models.model(random_attention="fixed", **OPTIONS)
    pairs = list(zip(lengths, seeds, strict=True))
    out = tiny_models.run(model, batch_of([ids_of(*pair) for pair in pairs], BUCKET))
    for row, (length, seed) in enumerate(pairs):
        check_close(unpadded(out, row, length), alone(length, seed), f"{lengths}, row {row}")


@pytest.mark.parametrize("implementation", ["reference", "xla", "cpu"])
def test_every_implementation(implementation):
    """Outputs and gradients equal those of the default implementation."""
    reason = available_implementations()[implementation]
    if reason:
        pytest.skip(reason)
    model = tiny_models.model(random_attention="fixed", **OPTIONS)
    batch = batch_of([ids_of(length) for length in (1, 4, 29, 60)], BUCKET)
    real = batch["attention_mask"][..., None] != 0

    def gradient(model):
        def loss(params):
            states = model(**batch, params=params).last_hidden_state
            return jnp.where(real, states * jnp.cos(states), 0).sum()

        return jax.jit(jax.value_and_grad(loss))(model.params)

    got = gradient(model.with_attention_implementation(implementation))
    tiny_models.close(got, gradient(model), 2e-4)


def test_holes_do_not_shorten_an_example():
    """The length counts up to the last real token; masked tokens before it are not read."""
    model = tiny_models.model(random_attention="fixed", **OPTIONS)
    example = ids_of(47)
    arrays = {}
    for bucket in (47, BUCKET):
        arrays[bucket] = batch_of([example, example], bucket)
        arrays[bucket]["attention_mask"][:, 10:20] = 0
    got = unpadded(tiny_models.run(model, arrays[BUCKET]), 1, 47)
    want = arrays_of(tiny_models.run(model, arrays[47]), 1)
    real = arrays[47]["attention_mask"][1] != 0
    np.testing.assert_allclose(got[0][real], want[0][real], atol=1e-5)


def test_an_empty_example_is_finite():
    model = tiny_models.model(random_attention="fixed", **OPTIONS)
    batch = batch_of([ids_of(0), ids_of(40)], BUCKET)
    out = tiny_models.run(model, batch)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(out))
    check_close(unpadded(out, 1, 40), alone(40, 0), "beside an empty example")


def test_one_compilation_for_all_lengths():
    model = tiny_models.model(random_attention="google", **OPTIONS)
    traces = []

    @jax.jit
    def call(params, batch):
        traces.append(1)
        return model(**batch, params=params).last_hidden_state

    for lengths in ((1, 60), (33, 2), (28, 29)):
        call(model.params, batch_of([ids_of(length) for length in lengths], BUCKET))
    assert len(traces) == 1


def test_off_by_default():
    """Published checkpoints were trained with the last block of the padded batch as global."""
    model = tiny_models.model(max_position_embeddings=80)
    example = ids_of(40)
    alone = tiny_models.run(model, batch_of([example], 40)).last_hidden_state
    padded = tiny_models.run(model, batch_of([example], BUCKET)).last_hidden_state
    assert tiny_models.differ(alone, padded[:, :40])


@pytest.mark.slow
def test_real_sizes():
    """Blocks of 64, three random blocks, up to 4,096 tokens."""
    options = {
        "block_size": 64,
        "num_random_blocks": 3,
        "max_position_embeddings": 4096,
        "random_attention": "google",
        "padding_invariant": True,
    }
    model = tiny_models.model(**options)
    examples = [ids_of(length) for length in (1, 700, 1024, 2000, 4096)]
    together = tiny_models.run(model, batch_of(examples, 4096))
    for row, example in enumerate(examples):
        out = tiny_models.run(model, batch_of([example], len(example)))
        states = np.asarray(together.last_hidden_state)[row, : len(example)]
        np.testing.assert_allclose(states, out.last_hidden_state[0], atol=1e-5, rtol=1e-5)


def test_invalid_value():
    with pytest.raises(ValueError, match="padding_invariant must be True or False; got 'yes'"):
        tiny_models.model(padding_invariant="yes")
