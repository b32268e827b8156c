"""Compares whole models under meshes with one device: the loss and the gradients.

`test_mesh_models.py` runs it with eight devices: `mesh_models_program.py SEED BENCHMARKS
[NAME...]`, where BENCHMARKS is their folder. It prints, as JSON, the largest difference of each
model, and the bytes of the largest array that a device gathers; and the same of the lookups of
positions, with the axes along which devices send.
"""

import importlib
import json
import math
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tiny_models
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import make_mesh

from flax_bigbird import bigbird_attention_map
from flax_bigbird.nn.losses import cross_entropy
from flax_bigbird.nn.projections import project_together
from flax_bigbird.nn.tables import look_up_positions
from flax_bigbird.parallel.parameter_sharding import parameter_shardings

jax.config.update("jax_default_matmul_precision", "highest")
B, T = 4, 64
SEQUENCE = {"sequence": 4}
MIXED = {"data": 2, "sequence": 2, "tensor": 2}
FIXED = {"random_attention": "fixed"}
CASES: dict[str, tuple[str, dict[str, int], dict[str, Any], dict[str, Any]]] = {
    "masked language model": ("ForMaskedLM", MIXED, FIXED, {}),
    "padding invariance": (
        "ForMaskedLM",
        {"fsdp": 2, "sequence": 4},
        FIXED | {"padding_invariant": True},
        {},
    ),
    "decoder": ("ForCausalLM", {"data": 2, "sequence": 2}, {"is_decoder": True}, {}),
    "rematerialization": ("ForMaskedLM", SEQUENCE, {}, {"gradient_checkpointing": "attention"}),
    "full attention": ("ForMaskedLM", MIXED, {"attention_type": "original_full"}, {}),
    "packed rows": ("ForMaskedLM", SEQUENCE, {}, {}),
    "user-global tokens": ("ForSequenceClassification", SEQUENCE, {}, {}),
    "redrawn blocks": ("ForTokenClassification", SEQUENCE, {}, {}),
    "heads alone": ("ForQuestionAnswering", {"data": 2, "tensor": 2}, {}, {}),
}


def make_inputs(name: str, task: str, rng: np.random.Generator) -> dict[str, Any]:
    inputs: dict[str, Any] = {
        "input_ids": rng.integers(4, tiny_models.V, (B, T)).astype(np.int32),
        "attention_mask": (np.arange(T) < rng.integers(50, T + 1, (B, 1))).astype(np.int32),
    }
    if name == "packed rows":
        segments = np.repeat([[1, 1, 2, 2, 2, 3, 3, 4]], T // 8, axis=-1)
        inputs["segment_ids"] = segments * inputs["attention_mask"]
    if name == "user-global tokens":
        inputs["global_attention_mask"] = np.zeros((B, T), np.int32)
        inputs["global_attention_mask"][:, [0, 37]] = 1
    return inputs


def compare(name: str, rng: np.random.Generator) -> dict[str, Any]:
    """Returns the largest difference, and what is gathered on a device."""
    task, sizes, changes, options = CASES[name]
    changes = {"max_position_embeddings": T} | changes
    model = tiny_models.task_class(task)(tiny_models.config(**changes), _do_init=False, **options)
    params = tiny_models.random_params(model)
    inputs = make_inputs(name, task, rng)
    labels = rng.integers(0, tiny_models.LABELS, (B, T)).astype(np.int32)
    call: dict[str, Any] = {}
    if name == "redrawn blocks":
        call = {"train": True, "indices_rng": jax.random.key(3)}

    def loss(params, inputs, labels):
        if task in ("ForMaskedLM", "ForCausalLM"):
            return model.loss(**inputs, labels=labels, params=params)
        out = model(**inputs, params=params, **call)
        if task == "ForQuestionAnswering":
            return cross_entropy(out.start_logits, labels[:, 0])
        if task == "ForSequenceClassification":
            return cross_entropy(out.logits, labels[:, 0])
        return cross_entropy(out.logits, labels)

    step = jax.value_and_grad(loss)
    want = jax.jit(step)(params, inputs, labels)
    mesh = make_mesh(sizes)
    params = jax.device_put(params, parameter_shardings(mesh, params))
    examples = tuple(axis for axis in ("data", "fsdp") if axis in sizes)
    tokens = NamedSharding(mesh, P(examples or None, "sequence" if "sequence" in sizes else None))
    with jax.set_mesh(mesh):
        inputs, labels = jax.device_put((inputs, labels), tokens)
        program = jax.jit(step).lower(params, inputs, labels).compile()
        got = program(params, inputs, labels)
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    differences = [float(jnp.abs(a - b).max() / jnp.maximum(1, jnp.abs(b).max())) for a, b in pairs]
    largest = importlib.import_module("collectives").largest_collective
    return {
        "name": name,
        "difference": max(differences) if np.isfinite(differences).all() else None,
        "gathered": largest(program.as_text(), "all-gather"),
        "hidden": B * T * tiny_models.D * 4 // math.prod(sizes.get(x, 1) for x in examples),
    }


def left_padding(rng: np.random.Generator) -> dict[str, Any]:
    """A decoder's examples with padding on the left are NaN; the others are as ever."""
    model = tiny_models.model("ForCausalLM", max_position_embeddings=T)
    ids = rng.integers(4, tiny_models.V, (B, T)).astype(np.int32)
    mask = np.ones((B, T), np.int32)
    mask[0, :5] = 0
    want = jax.jit(lambda: model(ids, mask).logits)()
    with jax.set_mesh(make_mesh(SEQUENCE)):
        got = jax.jit(lambda: model(ids, mask).logits)()
    return {
        "nan": bool(jnp.isnan(got[0, 5:]).all()),
        "difference": float(jnp.abs(got[1:] - want[1:]).max()),
    }


def attention_map(rng: np.random.Generator) -> float:
    """The largest difference of an attention map whose heads are split over devices."""
    model = tiny_models.model("Model", max_position_embeddings=T)
    ids = rng.integers(4, tiny_models.V, (B, T)).astype(np.int32)
    want = bigbird_attention_map(model, ids).weights
    with jax.set_mesh(make_mesh({"data": 2, "tensor": 2})):
        got = bigbird_attention_map(model, ids).weights
    return float(jnp.abs(got - want).max())


class Positions(nn.Module):
    """A position table of some rows, `[S, D]`."""

    rows: int

    @nn.compact
    def __call__(self, ids: Any, length: int) -> Any:
        return look_up_positions(nn.Embed(self.rows, 24, name="position_embeddings"), ids, length)


def look_up_on_devices(rows: int, length: int, ids: np.ndarray | None) -> dict[str, Any]:
    """Returns the largest difference of the rows and of the gradient of a table."""
    sizes = {"data": 2, "fsdp": 2, "sequence": 2}
    mesh, rng = make_mesh(sizes), np.random.default_rng(0)
    module = Positions(rows)
    table = rng.standard_normal((rows, 24), np.float32)
    params: Any = {"params": {"position_embeddings": {"embedding": table}}}
    weights = rng.standard_normal((B, length, 24), np.float32)
    shown = np.broadcast_to(np.arange(length), (B, length)) if ids is None else ids
    want = np.where((shown < rows)[..., None], table[np.minimum(shown, rows - 1)], np.nan)
    d_want = np.zeros_like(table)
    np.add.at(d_want, shown[shown < rows], weights[shown < rows])

    def loss(params: Any, weights: Any) -> tuple[Any, Any]:
        found = module.apply(params, ids, length)
        assert isinstance(found, jax.Array)
        found = jnp.broadcast_to(found, weights.shape)
        return jnp.where(jnp.isnan(found), 0, weights * found).sum(), found

    shardings = parameter_shardings(mesh, params)
    split = NamedSharding(mesh, P(("data", "fsdp"), "sequence"))
    step = jax.jit(jax.grad(loss, has_aux=True), out_shardings=(shardings, split))
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, shardings), jax.device_put(weights, split)
        program = step.lower(*placed).compile()
        d_table, found = program(*placed)
    (d_table,) = jax.tree.leaves(d_table)
    np.testing.assert_array_equal(found, want)
    received = importlib.import_module("collectives").received_bytes(program.as_text(), sizes)
    return {"difference": float(np.abs(d_table - d_want).max()), "received": received}


def position_tables() -> dict[str, Any]:
    """The rows of a table whose tokens are split: in order, in part, chosen, and out of range."""
    chosen = np.random.default_rng(1).integers(0, 32, (B, 24))
    cases = {
        "whole table": (32, 32, None),
        "shorter text": (32, 12, None),
        "chosen": (32, 24, chosen),
        "out of range": (32, 24, chosen + 5),
        "not divided": (33, 32, None),
        "chosen, not divided": (33, 24, chosen),
    }
    return {name: look_up_on_devices(*case) for name, case in cases.items()}


def sums_of_hidden_states() -> float:
    """Bytes that devices which share heads receive for the gradient of an attention's input.

    Returns:
      The bytes, as a multiple of those of the hidden states.
    """
    mesh = make_mesh({"tensor": 2})
    x = jnp.zeros((B, 16, 32))
    layers = {name: nn.Dense(32).init(jax.random.key(0), x)["params"] for name in "qkv"}

    def loss(x: Any) -> Any:
        bound = tuple(nn.Dense(32).bind({"params": params}) for params in layers.values())
        heads = [
            jax.lax.with_sharding_constraint(y, P(None, None, "tensor"))
            for y in project_together(bound, x)
        ]
        return sum((y**2).sum() for y in heads)

    with jax.set_mesh(mesh):
        text = jax.jit(jax.grad(loss)).lower(x).compile().as_text()
    received = importlib.import_module("collectives").received_bytes(text, {"tensor": 2})
    return received["tensor"] / x.nbytes


def main() -> None:
    rng = np.random.default_rng(int(sys.argv[1]))
    sys.path.insert(0, sys.argv[2])
    print(json.dumps(position_tables() | {"sums": sums_of_hidden_states()}), flush=True)
    for name in sys.argv[3:] or CASES:
        print(json.dumps(compare(name, rng)), flush=True)
    if not sys.argv[3:]:
        print(json.dumps(left_padding(rng) | {"map": attention_map(rng)}))


if __name__ == "__main__":
    main()
