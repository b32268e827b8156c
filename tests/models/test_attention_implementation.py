"""The attention implementation of a model: how it is selected, and that it is never saved."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

import flax_bigbird
from flax_bigbird.attention import api, full

SPARSE, FULL = 48, 20  # lengths


def record_calls(monkeypatch) -> list[tuple[str, str]]:
    """Makes every implementation record that it is called."""
    calls: list[tuple[str, str]] = []
    for kind, module in (("sparse", api), ("full", full)):
        for name, function in module._IMPLEMENTATIONS.items():

            def run(*args, _function=function, _call=(kind, name), **kwargs):
                out = _function(*args, **kwargs)
                calls.append(_call)
                return out

            monkeypatch.setitem(module._IMPLEMENTATIONS, name, run)
    return calls


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("xla", {("sparse", "xla"), ("full", "xla")}),
        ("reference", {("sparse", "reference"), ("full", "xla")}),
    ],
)
def test_sparse_and_full_attention_use_it(name, expected, monkeypatch):
    model = tiny_models.model().with_attention_implementation(name)
    calls = record_calls(monkeypatch)
    for length in (SPARSE, FULL):
        model(**tiny_models.inputs(length=length))
    assert set(calls) == expected


def test_decoders_use_it(monkeypatch):
    models = [
        tiny_models.model("ForCausalLM", attention_type=attention_type)
        for attention_type in ("block_sparse", "original_full")
    ]
    calls = record_calls(monkeypatch)
    for model in models:
        model.with_attention_implementation("xla")(**tiny_models.inputs(length=SPARSE))
    assert set(calls) == {("sparse", "xla"), ("full", "xla")}


def test_the_new_model_shares_parameters_and_leaves_the_old_one_unchanged(monkeypatch):
    model = tiny_models.model("ForMaskedLM")
    xla = model.with_attention_implementation("xla")
    assert type(xla) is type(model)
    assert xla.params is model.params
    assert model.sparsity.implementation is None
    assert xla.sparsity.implementation == "xla"
    assert xla.with_attention_implementation(None).sparsity.implementation is None
    inputs = tiny_models.inputs(length=SPARSE)
    tiny_models.close(xla(**inputs), model(**inputs))


def test_gradients_agree():
    model = tiny_models.model()
    inputs = tiny_models.inputs(length=SPARSE)

    def gradient(model):
        def loss(params):
            return jnp.sin(model(**inputs, params=params).last_hidden_state).sum()

        return jax.jit(jax.grad(loss))(model.params)

    tiny_models.close(gradient(model.with_attention_implementation("xla")), gradient(model), 1e-4)


def test_unknown_names_raise_at_once():
    model = tiny_models.model()
    message = r"implementation must be one of \[.*'reference'.*'xla'\] or None; got 'fastest'"
    with pytest.raises(ValueError, match=message):
        model.with_attention_implementation("fastest")
    config = tiny_models.config(attention_implementation="fastest")
    with pytest.raises(ValueError, match=message):
        tiny_models.task_class("Model")(config, _do_init=False)


def test_the_configuration_selects_it_and_does_not_save_it(tmp_path):
    model = tiny_models.model("ForMaskedLM").with_attention_implementation("xla")
    model.save_pretrained(tmp_path)
    assert "attention_implementation" not in json.loads((tmp_path / "config.json").read_text())
    assert model.config.attention_implementation == "xla"
    cls = flax_bigbird.FlaxBigBirdForMaskedLM
    assert cls.from_pretrained(tmp_path).sparsity.implementation is None
    loaded = cls.from_pretrained(tmp_path, attention_implementation="reference")
    assert loaded.sparsity.implementation == "reference"
    inputs = tiny_models.inputs(length=SPARSE)
    np.testing.assert_allclose(loaded(**inputs).logits, model(**inputs).logits, atol=2e-5)
