"""Compares the memory of the plans with training steps compiled for TPUs, without a TPU.

Needs the TPU compiler (`pip install libtpu==0.0.42`). Nothing is run: XLA reports the memory of a
chip. `benchmarks/results/scale.md` has the section that this script writes.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import scale_plan
from report import write_section

RESULTS = Path(__file__).parent / "results" / "scale.md"
TOPOLOGY = "v5e:2x4"
LAYERS = 2


class Case(NamedTuple):
    """A training step: the mesh of eight chips, the texts, and whether layers are recomputed."""

    mesh: dict[str, int]
    length: int
    batch: int
    remat: bool


CASES = (
    Case({"fsdp": 8}, 4096, 32, False),
    Case({"data": 2, "sequence": 4}, 65_536, 2, False),
    Case({"sequence": 8}, 1_048_576, 1, True),
)


def compiled(case: Case) -> Any:
    """Compiles a training step of a model of base width with AdamW in bfloat16."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from jax.experimental import topologies
    from jax.sharding import AxisType, Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P
    from transformers import BigBirdConfig

    from flax_bigbird import FlaxBigBirdForMaskedLM
    from flax_bigbird._mesh_axes import MESH_AXES
    from flax_bigbird.parallel.parameter_sharding import optimizer_shardings, parameter_shardings

    sizes = tuple(case.mesh.get(axis, 1) for axis in MESH_AXES)
    devices = np.array(topologies.get_topology_desc(TOPOLOGY, "tpu").devices)
    mesh = Mesh(devices.reshape(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * 4)
    config = BigBirdConfig(num_hidden_layers=LAYERS, max_position_embeddings=case.length)
    config.random_attention = "fixed"
    config.attention_implementation = "xla"
    model = FlaxBigBirdForMaskedLM(
        config, dtype=jnp.bfloat16, _do_init=False, gradient_checkpointing=case.remat
    )
    optimizer, shapes = optax.adamw(1e-4), model.params_shape_tree
    shardings = parameter_shardings(mesh, shapes), optimizer_shardings(mesh, optimizer, shapes)
    trees = shapes, jax.eval_shape(optimizer.init, shapes)
    params, state = (
        jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), *pair)
        for pair in zip(trees, shardings, strict=True)
    )
    split = NamedSharding(mesh, P(("data", "fsdp"), "sequence"))
    ids = jax.ShapeDtypeStruct((case.batch, case.length), jnp.int32, sharding=split)

    key = jax.eval_shape(lambda: jax.random.key(0))  # masks of a constant would be kept

    def step(params: Any, state: Any, key: Any, ids: Any, mask: Any, labels: Any) -> Any:
        call: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        call |= {"train": True, "dropout_rng": key}
        gradients = jax.grad(lambda params: model.loss(**call, params=params))(params)
        gradients = jax.lax.with_sharding_constraint(gradients, shardings[0])
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    with jax.set_mesh(mesh):
        jitted = jax.jit(step, donate_argnums=(0, 1), out_shardings=shardings)
        return jitted.lower(params, state, key, ids, ids, ids).compile()


def measure(case: Case) -> dict[str, Any]:
    """Returns the memory of a chip by the compiler and by the formulas, in bytes."""
    program = compiled(case)
    memory: Any = program.memory_analysis()
    model = scale_plan.MODELS["base"]._replace(layers=LAYERS)
    mesh = scale_plan.Mesh(
        **{axis: case.mesh.get(axis, 1) for axis in ("data", "fsdp", "sequence", "tensor")}
    )
    planned = scale_plan.chip_bytes(model, case.length, case.batch, mesh, remat=case.remat)
    return {
        **case._asdict(),
        "compiled": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        "planned": planned,
        "scatters_sums": "all-reduce-scatter" in program.as_text(),
    }


def report(rows: list[dict[str, Any]]) -> str:
    """Returns the section of the page."""
    lines = [
        "## Memory of TPUs",
        "",
        f"`python benchmarks/scale_tpu.py`: a training step of {LAYERS} layers of the base model "
        "in bfloat16 with AdamW, compiled for eight v5e by libtpu 0.0.42 without a TPU (plain JAX "
        "backend), beside the formulas of the plans. R marks `gradient_checkpointing=True`: there, "
        "the formula is too low by a fifth, in a program that fits into the 16 GB of a chip.",
        "",
        "| T | batch | mesh | compiled, GB | formula, GB | sums over `fsdp` are scattered |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        mesh = ",".join(f"{axis}={size}" for axis, size in row["mesh"].items())
        scattered = ("yes" if row["scatters_sums"] else "no") if "fsdp" in row["mesh"] else ""
        lines.append(
            f"| {row['length']:,} | {row['batch']} | `{mesh}`{' R' if row['remat'] else ''} | "
            f"{row['compiled'] / 1e9:.2f} | {row['planned'] / 1e9:.2f} | {scattered} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", type=int, help="the index of a case")
    arguments = parser.parse_args()
    if arguments.worker is not None:
        print(json.dumps(measure(CASES[arguments.worker])))
        return
    # Several devices, so that nothing is computed as on a single CPU.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    environment |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    environment["TPU_ACCELERATOR_TYPE"] = "v5litepod-8"
    rows = []
    for index in range(len(CASES)):
        command = [sys.executable, __file__, "--worker", str(index)]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    write_section(RESULTS, "scale_tpu", rows, report(rows))


if __name__ == "__main__":
    main()
