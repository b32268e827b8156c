"""The forward pass: lengths, full and sparse attention, dtypes, masks, outputs and randomness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from tiny_models import HEADS, TASKS, TWO_LAYERS, B, D, T, W

FULL = {"attention_type": "original_full"}
SPARSE = {"attention_type": "block_sparse"}


@pytest.mark.parametrize("task", TASKS)
def test_jit_with_host_inputs_and_without_mask(task):
    """Calls agree under jit and outside, and without a mask if nothing is masked."""
    model = tiny_models.model(task)
    inputs = tiny_models.inputs(task)
    inputs["attention_mask"] = np.ones_like(inputs["attention_mask"])
    compiled = tiny_models.run(model, inputs)
    tiny_models.close(model(inputs["input_ids"].tolist()), compiled)


@pytest.mark.parametrize(
    ("random_attention", "length"),
    [("hf", n) for n in (1, 2, 3, 5, 28, 29, 32, 48)] + [("google", 31), ("fixed", 33)],
)
def test_any_length(length, random_attention):
    """Any length up to the position table works, and masked tokens do not affect the results."""
    model = tiny_models.model(random_attention=random_attention)
    inputs = tiny_models.inputs(length=length)
    out = tiny_models.run(model, inputs)
    assert out[0].shape == (B, length, D)
    assert np.isfinite(out[0]).all()
    mask = inputs["attention_mask"] != 0
    inputs["input_ids"] = np.where(mask, inputs["input_ids"], 39)
    again = tiny_models.run(model, inputs)
    tiny_models.close(out[0][mask], again[0][mask])


def test_every_call_selects_full_or_sparse_attention():
    """An encoder uses full attention up to (5 + 2R) W = 28 tokens."""
    sparse, full = tiny_models.model(), tiny_models.model(**FULL)
    for length, same in ((28, True), (29, False), (28, True)):
        inputs = tiny_models.inputs(length=length)
        ours, theirs = (tiny_models.run(m, inputs, sparse.params)[0] for m in (sparse, full))
        real = inputs["attention_mask"] != 0
        assert same != tiny_models.differ(ours[real], theirs[real])


HALF = [
    *((task, SPARSE, "bfloat16") for task in TASKS),
    *((task, FULL, "float16") for task in TASKS),
    ("Model", FULL, "bfloat16"),
    ("Model", SPARSE, "float16"),
]


@pytest.mark.usefixtures("standard_dtype_promotion")
@pytest.mark.parametrize(("task", "kind", "dtype"), HALF)
def test_half_precision(task, kind, dtype):
    atol = {"bfloat16": 0.25, "float16": 0.03}[dtype]
    exact = tiny_models.model(task, initializer_range=0.1, **kind)
    half = tiny_models.model(task, initializer_range=0.1, dtype=dtype, **kind)
    inputs = tiny_models.inputs(task)
    ours = tiny_models.run(half, inputs, exact.params)
    for name, value in tiny_models.run(exact, inputs).items():
        assert ours[name].dtype == dtype
        assert np.isfinite(ours[name]).all(), name
        unmasked = np.asarray(value) > -1e4  # some answers may not start in the question
        got = np.asarray(ours[name], np.float32)
        np.testing.assert_allclose(got[unmasked], np.asarray(value)[unmasked], atol=atol, rtol=atol)


@pytest.mark.usefixtures("standard_dtype_promotion")
@pytest.mark.parametrize("kind", [FULL, SPARSE], ids=["full", "sparse"])
def test_half_precision_parameters(kind):
    """The computation has the model's dtype, whatever that of the parameters."""
    model = tiny_models.model("ForMaskedLM", initializer_range=0.1, **kind)
    inputs = tiny_models.inputs()
    out = tiny_models.run(model, inputs, model.to_bf16(model.params))
    assert out.logits.dtype == "float32"
    np.testing.assert_allclose(out.logits, tiny_models.run(model, inputs).logits, atol=0.2)


@pytest.mark.parametrize("kind", [FULL, SPARSE], ids=["full", "sparse"])
def test_head_mask_silences_a_head(kind):
    """A head mask has the effect of zeroing the head's rows of the output projection."""
    model = tiny_models.model(**TWO_LAYERS, **kind)
    inputs = tiny_models.inputs()
    width = D // HEADS

    def silence(layer: int, head: int):
        params = jax.tree.map(jnp.copy, model.params)
        kernel = params["encoder"]["layer"][str(layer)]["attention"]["output"]["dense"]
        kernel["kernel"] = kernel["kernel"].at[head * width : (head + 1) * width].set(0)
        return params

    mask = np.ones((2, HEADS), np.float32)
    mask[1, 0] = 0
    ours = tiny_models.run(model, inputs | {"head_mask": mask})
    tiny_models.close(ours, tiny_models.run(model, inputs, silence(1, 0)))
    assert tiny_models.differ(ours[0], tiny_models.run(model, inputs)[0])
    ones = tiny_models.run(model, inputs | {"head_mask": np.ones(HEADS, np.float32)})
    tiny_models.close(ones, tiny_models.run(model, inputs))


@pytest.mark.parametrize("kind", [FULL, SPARSE], ids=["full", "sparse"])
@pytest.mark.parametrize("task", ["Model", "ForMultipleChoice"])
def test_hidden_states_and_attentions(task, kind):
    model = tiny_models.model(task, **TWO_LAYERS, **kind)
    inputs = tiny_models.inputs(task)
    out = tiny_models.run(model, inputs, output_hidden_states=True, output_attentions=True)
    real = (inputs["attention_mask"] != 0).reshape(-1, T)
    rows = len(real)
    assert [x.shape for x in out.hidden_states] == [(rows, T, D)] * 3
    assert [x.shape for x in out.attentions] == [(rows, HEADS, T, T)] * 2
    for probabilities in out.attentions:
        sums = np.asarray(probabilities.sum(-1)).transpose(0, 2, 1)
        np.testing.assert_allclose(sums[real], 1, atol=1e-5)
        if kind is SPARSE:
            assert not sums[~real].any()
        at_padding = np.asarray(probabilities).transpose(0, 3, 1, 2)[~real]
        assert not at_padding.any(), "padded keys are never read"
    if task == "Model":
        np.testing.assert_array_equal(out.hidden_states[-1], out.last_hidden_state)


def test_sparse_probabilities_are_those_of_the_layer():
    """Probabilities times values give the context that the sparse kernel computes."""
    model, inputs = tiny_models.model(), tiny_models.inputs()
    out = tiny_models.run(model, inputs, output_hidden_states=True, output_attentions=True)
    layer = model.params["encoder"]["layer"]["0"]

    def apply(x, leaf):
        return x @ leaf["kernel"] + leaf["bias"]

    x = out.hidden_states[0]
    values = apply(x, layer["attention"]["self"]["value"]).reshape(B, T, HEADS, -1)
    context = jnp.einsum("bnts,bsnh->btnh", out.attentions[0], values).reshape(B, T, D)
    attended = x + apply(context, layer["attention"]["output"]["dense"])

    def normal(x, leaf):
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * leaf["scale"] + leaf["bias"]

    attended = normal(attended, layer["attention"]["output"]["LayerNorm"])
    inner = jax.nn.gelu(apply(attended, layer["intermediate"]["dense"]), approximate=True)
    want = attended + apply(inner, layer["output"]["dense"])
    want = normal(want, layer["output"]["LayerNorm"])
    np.testing.assert_allclose(out[0], want, atol=2e-5)


class TestDropout:
    rates = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.4)

    @pytest.mark.parametrize("task", ["Model", "ForSequenceClassification", "ForQuestionAnswering"])
    def test_training_differs_by_key(self, task):
        model, inputs = tiny_models.model(task, **self.rates), tiny_models.inputs(task)
        keys = [jax.random.PRNGKey(i) for i in (0, 1, 0)]
        one, two, again = (
            tiny_models.run(model, inputs | {"dropout_rng": key}, train=True)[0] for key in keys
        )
        assert tiny_models.differ(one, two)
        np.testing.assert_array_equal(one, again)

    def test_evaluation_has_no_dropout(self):
        inputs = tiny_models.inputs()
        dropping = tiny_models.run(tiny_models.model(**self.rates), inputs)
        tiny_models.close(dropping, tiny_models.run(tiny_models.model(), inputs))

    def test_only_full_attention_drops_probabilities(self):
        for kind, drops in ((FULL, True), (SPARSE, False)):
            model = tiny_models.model(attention_probs_dropout_prob=0.5, **kind)
            inputs = tiny_models.inputs() | {"dropout_rng": jax.random.PRNGKey(0)}
            still = tiny_models.run(model, tiny_models.inputs())[0]
            real = inputs["attention_mask"] != 0
            if kind is SPARSE:  # "hf" trains with other blocks than it evaluates with
                fixed = {"random_attention": "fixed"}
                model = tiny_models.model(attention_probs_dropout_prob=0.5, **kind, **fixed)
                still = tiny_models.run(model, tiny_models.inputs())[0]
            trained = tiny_models.run(model, inputs, train=True)[0]
            assert tiny_models.differ(trained[real], still[real]) == drops

    def test_classifier_dropout_falls_back_to_the_hidden_one(self):
        for task in ("ForSequenceClassification", "ForTokenClassification"):
            inputs = tiny_models.inputs(task) | {"dropout_rng": jax.random.PRNGKey(0)}
            quiet = tiny_models.model(task, random_attention="fixed")
            loud = tiny_models.model(task, random_attention="fixed", classifier_dropout=0.5)
            assert not tiny_models.differ(
                tiny_models.run(quiet, inputs, train=True)[0], tiny_models.run(quiet, inputs)[0]
            )
            assert tiny_models.differ(
                tiny_models.run(loud, inputs, train=True)[0], tiny_models.run(loud, inputs)[0]
            )


class TestIndices:
    """`indices_rng` redraws the random blocks inside the traced step."""

    def run(self, model, seed, **options):
        inputs = tiny_models.inputs(length=48) | {"indices_rng": jax.random.PRNGKey(seed)}
        return tiny_models.run(model, inputs, **options)

    @pytest.mark.parametrize("rule", ["hf", "google", "fixed"])
    def test_only_training_depends_on_the_key(self, rule):
        model = tiny_models.model(random_attention=rule)
        one, two, again = (self.run(model, seed, train=True)[0] for seed in (0, 1, 0))
        assert tiny_models.differ(one, two)
        np.testing.assert_array_equal(one, again)
        evaluated = self.run(model, 0)[0]
        np.testing.assert_array_equal(evaluated, self.run(model, 1)[0])

    def test_layers_and_heads_draw_for_themselves(self):
        """The attention probabilities show which blocks a row reads."""
        model = tiny_models.model(**TWO_LAYERS)
        inputs = {"input_ids": np.full((1, 48), 5), "indices_rng": jax.random.PRNGKey(0)}
        out = tiny_models.run(model, inputs, train=True, output_attentions=True)
        read = [np.asarray(x[0])[:, ::W, ::W] > 0 for x in out.attentions]
        rows = slice(1, -1)
        assert (read[0][0] != read[0][1])[rows].any(), "heads"
        assert (read[0] != read[1])[:, rows].any(), "layers"
        # The first and the last block, the window, and one random block outside them.
        middle = read[0][:, 3:-3].sum(-1)
        assert (middle == 6).all()

    def test_is_shared_over_the_batch(self):
        model = tiny_models.model()
        ids = np.repeat(tiny_models.inputs(length=48)["input_ids"][:1], 2, 0)
        inputs = {"input_ids": ids, "indices_rng": jax.random.PRNGKey(0)}
        out = tiny_models.run(model, inputs, train=True)[0]
        np.testing.assert_allclose(out[0], out[1], atol=1e-6)
