"""`jax.export`: models with a symbolic batch, and with the native kernel in another process."""

import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from tiny_models import T, V

from flax_bigbird.attention.backends import cpu

CALL = """
import sys
import jax, numpy as np
import flax_bigbird.attention
ids, want, *leaves = np.load(sys.argv[2]).values()
exported = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
arguments, keywords = jax.tree.unflatten(exported.in_tree, [*leaves, ids])
got = exported.call(*arguments, **keywords)
np.testing.assert_allclose(got, want, atol=1e-5)
"""


def logits_of(model: Any):
    def logits(params, ids):
        return model(ids, params=params).logits

    return logits


@pytest.mark.parametrize("attention_type", ["block_sparse", "original_full"])
def test_symbolic_batch(attention_type):
    pytest.importorskip("flatbuffers")
    config = tiny_models.config(attention_type=attention_type)
    model = tiny_models.task_class("ForSequenceClassification")(config, seed=0)
    model = model.with_attention_implementation("xla")
    (batch,) = jax.export.symbolic_shape("batch")
    ids = jax.ShapeDtypeStruct((batch, T), jnp.int32)
    logits = logits_of(model)
    exported = jax.export.export(jax.jit(logits))(model.params, ids)
    loaded = jax.export.deserialize(exported.serialize())
    for size in (1, 3):
        ids = np.random.default_rng(size).integers(4, V, (size, T)).astype(np.int32)
        got = loaded.call(model.params, ids)
        np.testing.assert_allclose(got, logits(model.params, ids), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "limit"),
    [({"attention_type": "original_full"}, 48), ({}, 28), ({"is_decoder": True}, 0)],
)
def test_symbolic_length(changes, limit):
    """Full attention takes any length; a sparse pattern belongs to one length."""
    task = "ForCausalLM" if changes.get("is_decoder") else "ForTokenClassification"
    model = tiny_models.model(task, **changes).with_attention_implementation("xla")
    logits = logits_of(model)

    def export(*constraints):
        shape = jax.export.symbolic_shape("b, t", constraints=constraints)
        ids = jax.ShapeDtypeStruct(shape, jnp.int32)
        return jax.export.export(jax.jit(logits))(model.params, ids)

    rule = "the number of tokens may be symbolic only where this model attends in full, which is "
    for constraints in ([], [f"t <= {limit + 1}"]):
        with pytest.raises(ValueError, match=rule + (f"up to {limit}" if limit else "nowhere")):
            export(*constraints)
    if limit:
        exported = export(f"t <= {limit}")
        ids = np.random.default_rng(0).integers(4, V, (2, 9)).astype(np.int32)
        got = exported.call(model.params, ids)
        np.testing.assert_allclose(got, logits(model.params, ids), atol=1e-5)


@pytest.mark.skipif(cpu.unavailable() != "", reason=cpu.unavailable() or "runs")
def test_native_kernel_in_another_process(tmp_path):
    pytest.importorskip("flatbuffers")
    model = tiny_models.task_class("ForSequenceClassification")(tiny_models.config(), seed=0)
    ids = np.random.default_rng(0).integers(4, V, (2, T)).astype(np.int32)
    allowed = [
        jax.export.DisabledSafetyCheck.custom_call(target)
        for target in (cpu.FORWARD_TARGET, cpu.BACKWARD_TARGET)
    ]
    logits = logits_of(model)
    exported = jax.export.export(jax.jit(logits), disabled_checks=allowed)(model.params, ids)
    assert cpu.FORWARD_TARGET in exported.mlir_module()
    program, arrays = tmp_path / "program", tmp_path / "arrays.npz"
    program.write_bytes(exported.serialize())
    np.savez(arrays, ids, logits(model.params, ids), *jax.tree.leaves(model.params))
    command = [sys.executable, "-c", CALL, str(program), str(arrays)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
