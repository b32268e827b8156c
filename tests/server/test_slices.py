"""Tests that a program in slices computes what the whole program computes."""

import jax
import jax.extend.core as jex_core
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from flax_bigbird.server.programs import Program
from flax_bigbird.server.slices import equation_cost, split_program


def layers(params, x):
    """Eight layers, each with values that only it uses, and a result of the second."""
    kept = None
    for index in range(8):
        wide = jnp.tanh(x @ params["up"])
        x = x + wide @ params["down"] + jnp.float32(index)
        kept = x[0] if index == 1 else kept
    return {"x": x, "kept": kept, "input": params["up"], "constant": np.arange(3)}


@pytest.fixture(scope="module")
def arguments():
    rng = np.random.default_rng(0)
    up, down, x = (rng.standard_normal(s, np.float32) for s in ((8, 32), (32, 8), (4, 8)))
    return {"up": jnp.asarray(0.1 * up), "down": jnp.asarray(0.1 * down)}, jnp.asarray(x)


@pytest.mark.parametrize("num_slices", [1, 2, 3, 8, 1000])
def test_slices_compute_the_program(arguments, num_slices):
    params, x = arguments
    program = Program(layers, params, x, num_slices)
    *pauses, results = program.run(jax.tree.leaves(params), x)
    assert pauses == [None] * len(program)
    expected = layers(params, x)
    assert results.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(results[name], expected[name], rtol=1e-6)


def test_slices_have_similar_costs_and_few_arrays_between_them(arguments):
    program = jax.make_jaxpr(layers)(*arguments)
    slices = split_program(program, 4)
    assert len(slices) == 4
    costs = [sum(map(equation_cost, part.program.jaxpr.eqns)) for part in slices]
    assert max(costs) <= 1.6 * sum(costs) / 4
    inputs = set(program.jaxpr.invars)
    for part in slices[1:]:
        between = [v for v in part.inputs if v not in inputs]
        assert all(v.aval.shape[-1:] == (8,) for v in between), "no wide states are alive"


def test_every_equation_is_in_one_slice(arguments):
    program = jax.make_jaxpr(layers)(*arguments)
    slices = split_program(program, 5)
    equations = [e for part in slices for e in part.program.jaxpr.eqns]
    assert equations == program.jaxpr.eqns


def test_a_program_with_callbacks_is_not_split():
    def step(x):
        jax.debug.callback(lambda value: None, x)
        return x * 2 + 1

    assert len(split_program(jax.make_jaxpr(step)(1.0), 3)) == 1


def test_a_model_in_slices_returns_the_same(monkeypatch):
    model = tiny_models.model("ForMaskedLM", num_hidden_layers=2)
    inputs = tiny_models.inputs("ForMaskedLM")

    def step(params, batch):
        return {"logits": model(**batch, params=params).logits}

    program = Program(step, model.params, inputs, 4)
    assert len(program) == 4
    *_, results = program.run(jax.tree.leaves(model.params), inputs)
    expected = tiny_models.run(model, inputs).logits
    np.testing.assert_allclose(results["logits"], expected, atol=2e-5)


def test_costs_count_loops_and_products():
    def step(x):
        return jax.lax.scan(lambda c, _: (c @ x, None), x, None, length=10)[0]

    program = jax.make_jaxpr(step)(jnp.zeros((4, 4)))
    assert isinstance(program, jex_core.ClosedJaxpr)
    assert sum(map(equation_cost, program.jaxpr.eqns)) >= 10 * 2 * 4**3


def test_slices_are_the_same_in_every_trace(arguments):
    """Otherwise, no process would find its programs in the compilation cache."""

    def texts():
        slices = split_program(jax.make_jaxpr(layers)(*arguments), 4)
        return [str(part.program) for part in slices]

    first = texts()
    assert all(texts() == first for _ in range(5))
