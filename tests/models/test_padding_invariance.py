"""`config.padding_invariant`: a document's result is its own, whatever it is batched with.

Blocks of 4 tokens and one random block: up to 7 blocks a document attends in full.
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

from flax_bigbird.attention import api

BUCKET, WIDER = 60, 72
LENGTHS = (1, 5, 28, 29, 47, 60)  # 28 is the last that attends in full
RULES = ("hf", "google", "fixed")
OPTIONS = {"padding_invariant": True, "max_position_embeddings": 80}


def ids_of(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, length]).integers(4, V, length)


def batch_of(documents: list[np.ndarray], bucket: int) -> dict[str, np.ndarray]:
    """Padded on the right with ids that are no padding ids, and masked."""
    ids = np.full((len(documents), bucket), 7)
    mask = np.zeros((len(documents), bucket), int)
    for row, document in enumerate(documents):
        ids[row, : len(document)] = document
        mask[row, : len(document)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def own_part(out, row: int, length: int) -> list[np.ndarray]:
    """The arrays of one document, padded positions left out."""
    arrays = []
    for leaf in jax.tree.leaves(out):
        x = np.asarray(leaf)[row]
        arrays.append(x[:length] if x.ndim and x.shape[0] >= BUCKET else x)
    return arrays


def whole(out, row: int = 0) -> list[np.ndarray]:
    return [np.asarray(leaf)[row] for leaf in jax.tree.leaves(out)]


def check_close(got, want, message, tolerance=1e-5):
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, atol=tolerance, rtol=tolerance, err_msg=message)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("rule", RULES)
def test_each_document_is_as_if_alone(rule, train):
    model = tiny_models.model(random_attention=rule, **tiny_models.TWO_LAYERS, **OPTIONS)
    documents = [ids_of(length) for length in LENGTHS]
    for bucket in (BUCKET, WIDER):
        together = tiny_models.run(model, batch_of(documents, bucket), train=train)
        for row, document in enumerate(documents):
            length = len(document)
            alone = tiny_models.run(model, batch_of([document], length), train=train)
            got = own_part(together, row, length)
            check_close(got, whole(alone), f"{length} tokens in {bucket}")


@pytest.mark.filterwarnings("ignore:FlaxBigBirdForCausalLM with config.is_decoder=False")
@pytest.mark.parametrize("task", TASKS)
def test_every_task(task):
    """Short and long documents; for multiple choice both are choices of one question."""
    model = tiny_models.model(task, is_decoder=False, **OPTIONS)
    documents = [ids_of(length) for length in (5, 47)]
    separator = tiny_models.SEP
    documents[1][9] = separator  # the question's end
    together = batch_of(documents, BUCKET)
    if task == "ForMultipleChoice":
        out = tiny_models.run(model, {k: x[None] for k, x in together.items()})
        for row, document in enumerate(documents):
            arrays = {k: x[None] for k, x in batch_of([document], len(document)).items()}
            alone = tiny_models.run(model, arrays).logits
            np.testing.assert_allclose(out.logits[0, row], alone[0, 0], atol=1e-5)
        return
    out = tiny_models.run(model, together)
    for row, document in enumerate(documents):
        alone = tiny_models.run(model, batch_of([document], len(document)))
        check_close(own_part(out, row, len(document)), whole(alone), f"row {row}")


@pytest.mark.parametrize("rule", RULES)
def test_gradients_are_those_of_the_document_alone(rule):
    """Of every parameter, for a loss on one document of the batch."""
    model = tiny_models.model(random_attention=rule, **OPTIONS)
    documents = [ids_of(length) for length in LENGTHS]
    weights = np.random.default_rng(1).standard_normal((WIDER, tiny_models.D))

    @jax.jit
    def gradient(params, batch, chosen):
        def loss(params):
            states = model(**batch, params=params, train=True).last_hidden_state
            length = states.shape[1]
            own = (states * weights[:length]).sum(-1) * batch["attention_mask"]
            return (own.sum(-1) * chosen).sum()

        return jax.grad(loss)(params)

    together = batch_of(documents, BUCKET)
    for row, document in enumerate(documents):
        chosen = np.eye(len(documents))[row]
        got = gradient(model.params, together, chosen)
        want = gradient(model.params, batch_of([document], len(document)), np.ones(1))
        largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want))
        jax.tree.map(
            lambda a, b, scale=largest: np.testing.assert_allclose(a / scale, b / scale, atol=1e-5),
            got,
            want,
        )


@functools.cache
def alone(length: int, seed: int) -> list[np.ndarray]:
    """A document of a property test by itself, in the wider bucket: one compilation for all."""
    model = tiny_models.model(random_attention="fixed", **OPTIONS)
    out = tiny_models.run(model, batch_of([ids_of(length, seed)], WIDER))
    return own_part(out, 0, length)


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, BUCKET), min_size=4, max_size=4),
    seeds=st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_any_company(lengths, seeds):
    """Random companions, order and bucket."""
    model = tiny_models.model(random_attention="fixed", **OPTIONS)
    pairs = list(zip(lengths, seeds, strict=True))
    out = tiny_models.run(model, batch_of([ids_of(*pair) for pair in pairs], BUCKET))
    for row, (length, seed) in enumerate(pairs):
        check_close(own_part(out, row, length), alone(length, seed), f"{lengths}, row {row}")


@pytest.mark.parametrize("implementation", ["reference", "xla", "cpu"])
def test_every_implementation(implementation, monkeypatch):
    """Outputs and gradients, against the default's."""
    reason = api.available_implementations()[implementation]
    if reason:
        pytest.skip(reason)
    model = tiny_models.model(random_attention="fixed", **OPTIONS)
    batch = batch_of([ids_of(length) for length in (1, 4, 29, 60)], BUCKET)
    real = batch["attention_mask"][..., None]

    def gradient():
        @jax.jit
        def run(params):
            def loss(params):
                states = model(**batch, params=params).last_hidden_state
                return (states * jnp.cos(states) * real).sum()

            return jax.value_and_grad(loss)(params)

        return run(model.params)

    want = gradient()
    only = {implementation: api._IMPLEMENTATIONS[implementation]}
    monkeypatch.setattr(api, "_IMPLEMENTATIONS", only)
    got = gradient()
    tiny_models.close(got, want, 2e-4)


def test_holes_do_not_shorten_a_document():
    """Length counts to the last real token; masked tokens inside are just not read."""
    model = tiny_models.model(random_attention="fixed", **OPTIONS)
    document = ids_of(47)
    arrays = {}
    for bucket in (47, BUCKET):
        arrays[bucket] = batch_of([document, document], bucket)
        arrays[bucket]["attention_mask"][:, 10:20] = 0
    got = own_part(tiny_models.run(model, arrays[BUCKET]), 1, 47)
    want = whole(tiny_models.run(model, arrays[47]), 1)
    real = arrays[47]["attention_mask"][1] != 0
    np.testing.assert_allclose(got[0][real], want[0][real], atol=1e-5)


def test_an_empty_document_is_finite():
    model = tiny_models.model(random_attention="fixed", **OPTIONS)
    batch = batch_of([ids_of(0), ids_of(40)], BUCKET)
    out = tiny_models.run(model, batch)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(out))
    check_close(own_part(out, 1, 40), alone(40, 0), "beside an empty document")


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
    """Published checkpoints were trained with the padded batch's last block as a global one."""
    model = tiny_models.model(max_position_embeddings=80)
    document = ids_of(40)
    alone = tiny_models.run(model, batch_of([document], 40)).last_hidden_state
    padded = tiny_models.run(model, batch_of([document], BUCKET)).last_hidden_state
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
    documents = [ids_of(length) for length in (1, 700, 1024, 2000, 4096)]
    together = tiny_models.run(model, batch_of(documents, 4096))
    for row, document in enumerate(documents):
        out = tiny_models.run(model, batch_of([document], len(document)))
        states = np.asarray(together.last_hidden_state)[row, : len(document)]
        np.testing.assert_allclose(states, out.last_hidden_state[0], atol=1e-5, rtol=1e-5)


def test_bad_value():
    with pytest.raises(ValueError, match="padding_invariant must be True or False; got 'yes'"):
        tiny_models.model(padding_invariant="yes")
