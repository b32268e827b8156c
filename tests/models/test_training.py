"""Training: gradients, gradient checkpointing and several devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from several_devices import run_with_devices
from tiny_models import TASKS, TWO_LAYERS

from flax_bigbird.attention import available_implementations

KINDS = {"full": {"attention_type": "original_full"}, "sparse": {}}


def gradient(model, inputs, params, **options):
    def loss(params, inputs):
        out = model(**inputs, params=params, **options)
        return sum((x.astype(jnp.float32) ** 2).mean() for x in out.to_tuple())

    return jax.jit(jax.grad(loss))(params, inputs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", TASKS)
def test_every_used_parameter_has_a_gradient(task, kind):
    """Gradients are finite, and 0 only if the output cannot depend on the parameter."""
    model, inputs = tiny_models.model(task, **KINDS[kind]), tiny_models.inputs(task)
    if task == "ForQuestionAnswering":
        inputs["token_type_ids"] = inputs["input_ids"] % 2
    tree = gradient(model, inputs, model.params)
    unread = {"key/bias"}  # shifts all scores of a query alike
    if task == "ForSequenceClassification":
        unread |= {"pooler/kernel", "pooler/bias"}
    for path, leaf in tiny_models.flat(tree).items():
        assert np.isfinite(leaf).all(), path
        if not path.endswith(tuple(unread)):
            assert np.abs(leaf).max() > 0, path


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_key_biases_is_rounding(kind):
    """They add the same to all scores of a row; docs/parity.md says what follows from that."""
    model, inputs = tiny_models.model(**KINDS[kind]), tiny_models.inputs()
    leaves = tiny_models.flat(gradient(model, inputs, model.params))
    largest = max(np.abs(leaf).max() for leaf in leaves.values())
    biases = [np.abs(leaf).max() for path, leaf in leaves.items() if path.endswith("key/bias")]
    assert biases
    assert max(biases) < 1e-6 * largest


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_changes_no_gradient(kind):
    """It does not with dropout either, nor with `enable_gradient_checkpointing`."""
    model = tiny_models.model("ForMaskedLM", hidden_dropout_prob=0.2, **TWO_LAYERS, **KINDS[kind])
    inputs = tiny_models.inputs() | {"dropout_rng": jax.random.PRNGKey(0)}
    plain = gradient(model, inputs, model.params, train=True)
    cls, config = type(model), model.config
    for way in ("argument", "method", "attention"):
        recompute = {"argument": True, "method": False}.get(way, way)
        other = cls(config, _do_init=False, gradient_checkpointing=recompute)
        if way == "method":
            other.enable_gradient_checkpointing(keep_attention=True)
        assert other.module.gradient_checkpointing
        tiny_models.close(gradient(other, inputs, model.params, train=True), plain)


@pytest.mark.parametrize("implementation", ["xla", "cpu"])
def test_attention_is_not_recomputed_if_it_is_saved(implementation):
    """The program of the gradient is smaller."""
    if reason := available_implementations()[implementation]:
        pytest.skip(reason)
    config = tiny_models.config(**TWO_LAYERS, attention_implementation=implementation)
    cls, inputs = tiny_models.task_class("ForMaskedLM"), tiny_models.inputs()
    sizes = []
    for recompute in (True, "attention"):
        model = cls(config, _do_init=False, gradient_checkpointing=recompute)

        def loss(params, model=model):
            return model(**inputs, params=params).logits.sum()

        lowered = jax.jit(jax.grad(loss)).lower(model.params_shape_tree)
        sizes.append(program_size(lowered.as_text()))
    assert sizes[1] < sizes[0]


def program_size(text: str) -> int:
    """Returns the number of matmuls and calls of native code, the body of a loop counted once."""
    return len(re.findall(r"stablehlo\.(?:dot_general|custom_call)", text))


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize("value", ["all", 2, None])
def test_invalid_gradient_checkpointing(value):
    with pytest.raises(ValueError, match="must be False, True or 'attention'; got"):
        tiny_models.task_class("ForMaskedLM")(tiny_models.config(), gradient_checkpointing=value)


def test_gradient_checkpointing_keeps_layer_outputs_and_cache():
    config = tiny_models.config(is_decoder=True, add_cross_attention=True)
    cls = tiny_models.task_class("ForCausalLM")
    plain, saving = cls(config), cls(config, gradient_checkpointing=True)
    inputs = tiny_models.inputs()
    options = {"output_attentions": True, "output_hidden_states": True}
    tiny_models.close(
        tiny_models.run(saving, inputs, **options), tiny_models.run(plain, inputs, **options)
    )
    step = {"input_ids": inputs["input_ids"][:, :3], "past_key_values": plain.init_cache(2, 4)}
    tiny_models.close(tiny_models.run(saving, step), tiny_models.run(plain, step))


def test_dropout_needs_a_random_key():
    model = tiny_models.model("ForMaskedLM", hidden_dropout_prob=0.2)
    with pytest.raises(ValueError, match=r"dropout_rng.*got None: pass one, or set .* to 0"):
        model(**tiny_models.inputs(), train=True)
    still = tiny_models.model("ForMaskedLM")
    assert still(**tiny_models.inputs(), train=True).logits.shape[-1] == tiny_models.V


@pytest.mark.usefixtures("standard_dtype_promotion")
def test_half_precision_gradients_are_finite():
    for dtype in ("bfloat16", "float16"):
        model = tiny_models.model("ForMaskedLM", dtype=dtype, initializer_range=0.1)
        tree = gradient(model, tiny_models.inputs(), model.params)
        assert {x.dtype.name for x in jax.tree.leaves(tree)} == {"float32"}
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(tree))


TWO_DEVICES = """
import jax, numpy as np, tiny_models
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
assert jax.device_count() == 2
model = tiny_models.model("ForMaskedLM")
inputs = tiny_models.inputs()

def loss(params, inputs):
    return (model(**inputs, params=params).logits ** 2).mean()

want = jax.jit(jax.grad(loss))(model.params, inputs)

def step(params, inputs):
    return jax.lax.pmean(jax.grad(loss)(params, inputs), "batch")

split = jax.tree.map(lambda x: x[:, None], inputs)
got = jax.pmap(step, axis_name="batch", in_axes=(None, 0))(model.params, split)
tiny_models.close(jax.tree.map(lambda x: x[0], got), want)

mesh = Mesh(np.array(jax.devices()), ("batch",))
sharded = jax.device_put(inputs, NamedSharding(mesh, P("batch")))
params = jax.device_put(model.params, NamedSharding(mesh, P()))
with mesh:
    tiny_models.close(jax.jit(jax.grad(loss))(params, sharded), want)
print("agree")
"""


def test_pmap_and_mesh(tmp_path):
    """Two host devices, in another process, compute the gradients that one device computes."""
    program = tmp_path / "program.py"
    program.write_text(TWO_DEVICES)
    assert run_with_devices([str(program)], count=2).split() == ["agree"]
