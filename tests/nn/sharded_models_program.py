"""Compares the gradients of models in `jax.shard_map`, the batch sharded, with those of one device.

`test_sharded_models.py` runs it with two devices. It prints the largest difference of each model.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tiny_models
from jax.sharding import PartitionSpec as P

from flax_bigbird.nn.losses import cross_entropy

jax.config.update("jax_default_matmul_precision", "highest")
B, T = 2, 30
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "masked language model": ("ForMaskedLM", {"random_attention": "fixed"}, {}),
    "decoder": ("ForCausalLM", {"is_decoder": True}, {}),
    "padding invariance, plain JAX": (
        "ForMaskedLM",
        {"padding_invariant": True, "attention_implementation": "xla"},
        {},
    ),
    "rematerialization": ("ForMaskedLM", {}, {"gradient_checkpointing": "attention"}),
    "full attention": ("ForMaskedLM", {"attention_type": "original_full"}, {}),
}


def largest_difference(task: str, changes: dict[str, Any], options: dict[str, Any]) -> float:
    model = tiny_models.task_class(task)(tiny_models.config(**changes), seed=0, **options)
    rng = np.random.default_rng(0)
    ids = rng.integers(4, tiny_models.V, (B, T))
    mask = np.ones((B, T), np.int32)
    mask[1, 20:] = 0
    labels = rng.integers(0, tiny_models.V, (B, T))

    def loss(params, ids, mask, labels):
        return cross_entropy(model(ids, mask, params=params).logits, labels)

    def step(params, ids, mask, labels):
        def mean_loss(params):
            return jax.lax.pmean(loss(params, ids, mask, labels), "data")

        return jax.value_and_grad(mean_loss)(params)

    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((2,), ("data",), axis_types=auto)
    specs = (P(), P("data"), P("data"), P())
    # The labels are those of the first example: replicated labels meet sharded logits.
    mapped = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=P()))
    got = mapped(model.params, ids, mask, labels[:1])
    reference = jax.jit(jax.value_and_grad(loss))
    want = reference(model.params, ids, mask, np.repeat(labels[:1], B, 0))
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max(float(jnp.abs(a - b).max()) for a, b in pairs)


if __name__ == "__main__":
    for name, (task, changes, options) in CASES.items():
        print(f"{name}: {largest_difference(task, changes, options)}", flush=True)
