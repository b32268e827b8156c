"""Meshes and processes: memory per device, what devices send each other, and data-parallel speed.

`python benchmarks/scale_mesh.py memory collectives processes` measures the sections that it names,
and writes their section of benchmarks/results/scale.md; the others keep their figures.

* memory: bytes of parameters and optimizer states per device, from the shardings that training
  uses, for a base and a large model (nothing is allocated).
* collectives: the collectives of a training step, from the compiled program on 8 simulated
  devices, for a small model.
* processes: tokens/s of two real processes, each pinned to a core, against one process pinned to
  one core. It needs a quiet machine and two cores; it takes about 5 minutes.
"""

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import scale_plan
from collectives import count_collectives, matmul_flops, received_bytes
from report import write_section

RESULTS = Path(__file__).parent / "results"
JSON_FILE, REPORT = RESULTS / "scale_mesh.json", RESULTS / "scale.md"
SECTIONS = ("memory", "collectives", "processes")
SIZES = {
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "intermediate_size": 4096},
}
HEADS = {"base": 12, "large": 16}
MESHES = ("data=8", "fsdp=2", "fsdp=4", "fsdp=8", "tensor=4", "fsdp=4,tensor=2")
STEP_ROWS, STEP_LENGTH, STEP_TARGETS = 8, 1024, 160
STEP_MODEL = {
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "intermediate_size": 1024,
    "vocab_size": 8000,
    "max_position_embeddings": STEP_LENGTH,
    "block_size": 64,
    "num_random_blocks": 3,
}
STEP_MESHES = ("data=8", "fsdp=8", "data=2,fsdp=4", "tensor=4", "fsdp=4,tensor=2")
STEP_MESHES += ("data=2,sequence=4",)
SPEED_MODEL = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
}
SPEED_STEPS, SPEED_LENGTH, SPEED_ROWS = 40, 1024, 8


def masked_lm(size: dict[str, Any], *, init: bool) -> Any:
    from transformers import BigBirdConfig

    import flax_bigbird

    config = BigBirdConfig(**size)
    return flax_bigbird.FlaxBigBirdForMaskedLM(config, _do_init=init)


def measure_memory() -> list[dict[str, Any]]:
    """Returns the bytes per device for each model, optimizer and mesh."""
    import jax
    import numpy as np

    from flax_bigbird.parallel.mesh import create_mesh
    from flax_bigbird.parallel.mesh_options import parse_mesh
    from flax_bigbird.parallel.parameter_sharding import optimizer_shardings, parameter_shardings
    from flax_bigbird.train import train_options
    from flax_bigbird.train.optimizer import create_optimizer

    rows = []
    for name, size in SIZES.items():
        model = masked_lm(
            size | {"num_attention_heads": HEADS[name], "vocab_size": 50358}, init=False
        )
        shapes = model.params_shape_tree
        for optim in ("adamw", "muon"):
            options = train_options("masked-lm", train_files=["-"], output_dir="-", optim=optim)
            optimizer = create_optimizer(options, 10)
            state = jax.eval_shape(optimizer.init, shapes)
            for text in MESHES:
                sizes = parse_mesh(text)
                count = int(np.prod([abs(value) for value in sizes.values()]))
                mesh = create_mesh(text, jax.devices()[:count])
                assert mesh is not None
                shardings = [
                    parameter_shardings(mesh, shapes),
                    optimizer_shardings(mesh, optimizer, shapes),
                ]
                whole = per_device = 0
                for tree, sharding in zip((shapes, state), shardings, strict=True):
                    leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(sharding), strict=True)
                    for leaf, leaf_sharding in leaves:
                        shard = leaf_sharding.shard_shape(leaf.shape)
                        whole += leaf.size * leaf.dtype.itemsize
                        per_device += int(np.prod(shard)) * leaf.dtype.itemsize
                rows.append(
                    {
                        "model": name,
                        "optimizer": optim,
                        "mesh": text,
                        "whole": whole,
                        "per_device": per_device,
                        "split_by": sizes["fsdp"] * sizes["tensor"],
                    }
                )
    return rows


def measure_collectives() -> list[dict[str, Any]]:
    """Returns the collectives of a compiled training step for each mesh: kind, number, bytes."""
    import jax
    import numpy as np

    from flax_bigbird.parallel.mesh import create_mesh, under
    from flax_bigbird.parallel.mesh_options import parse_mesh
    from flax_bigbird.tasks.registry import get_task
    from flax_bigbird.train import train_options
    from flax_bigbird.train.optimizer import create_optimizer
    from flax_bigbird.train.steps import TrainingSteps

    model = masked_lm(STEP_MODEL | {"attention_implementation": "xla"}, init=True)
    options = train_options("masked-lm", train_files=["-"], output_dir="-")
    task = object.__new__(get_task("masked-lm"))  # its loss needs no tokenizer
    rows = []
    for text in STEP_MESHES:
        sizes = parse_mesh(text)
        count = int(np.prod([abs(size) for size in sizes.values()]))
        mesh = create_mesh(text, jax.devices()[:count])
        assert mesh is not None
        steps = TrainingSteps(task, model, create_optimizer(options, 10), mesh, 0)
        params = steps.place_params(model.params)
        state = steps.init_optimizer(params)
        zeros = np.zeros((STEP_ROWS, STEP_LENGTH), np.int32)
        targets = np.zeros((STEP_ROWS, STEP_TARGETS), np.int32)
        batch = {"input_ids": zeros, "attention_mask": zeros + 1}
        batch |= {"positions": targets, "labels": targets}
        (part,) = steps.batch_sharding.parts(STEP_ROWS)
        with under(mesh):
            placed = steps.batch_sharding.place(batch, part)
            numbers = np.zeros(1, np.uint32)
            lowered = steps._step.lower(params, state, placed, steps._key, numbers)
        program = lowered.compile().as_text() or ""
        rows.append(
            {
                "mesh": text,
                "parameters": sum(leaf.nbytes for leaf in jax.tree.leaves(model.params)),
                "collectives": count_collectives(program),
                "received": received_bytes(program, mesh.shape),
                "flops": matmul_flops(program),
            }
        )
    return rows


def planned_step(text: str) -> dict[str, Any]:
    """Returns the operations and the received bytes of that step by the formulas of the plans."""
    from flax_bigbird.parallel.mesh_options import parse_mesh

    mesh = scale_plan.Mesh(**{axis: abs(size) for axis, size in parse_mesh(text).items()})
    model = scale_plan.Model(
        V=STEP_MODEL["vocab_size"],
        D=STEP_MODEL["hidden_size"],
        layers=STEP_MODEL["num_hidden_layers"],
        N=STEP_MODEL["num_attention_heads"],
        F=STEP_MODEL["intermediate_size"],
    )
    rows = STEP_ROWS / (mesh.data * mesh.fsdp)
    tokens, labels = rows * STEP_LENGTH / mesh.sequence, STEP_TARGETS / STEP_LENGTH
    received = scale_plan.sent_bytes(
        model, STEP_LENGTH, rows, mesh, width=4, labels=labels, scatters_sums=False
    )
    flops = scale_plan.step_flops(model, STEP_LENGTH, tokens, mesh, labels)
    return {"flops": flops, "received": received}


def measure_processes(steps: int = SPEED_STEPS) -> dict[str, Any]:
    """Returns the tokens/s of one and of two processes, each pinned to a core of its own.

    Two runs at once that know nothing of each other, each with half of the rows, show how fast the
    machine lets two processes be.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_texts(folder / "texts.jsonl")
        rows = {"one": [SPEED_ROWS], "two": [SPEED_ROWS], "independent": [SPEED_ROWS // 2] * 2}
        speeds = {
            kind: run_processes(folder / kind, folder / "texts.jsonl", rows[kind], count, steps)
            for kind, count in (("one", 1), ("two", 2), ("independent", 1))
        }
    ratios = {kind: speeds[kind] / speeds["one"] for kind in ("two", "independent")}
    return {"tokens_per_second": speeds, "ratios": ratios, "batch": [SPEED_ROWS, SPEED_LENGTH]}


def write_texts(path: Path) -> None:
    import random

    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghijklmnop", k=5)) for _ in range(3000)]
    lines = [json.dumps({"text": " ".join(generator.choices(words, k=1500))}) for _ in range(200)]
    path.write_text("\n".join(lines) + "\n")


def run_processes(folder: Path, texts: Path, rows: list[int], count: int, steps: int) -> float:
    """Returns the tokens/s of runs at once, all together, without their first quarter.

    Args:
      folder: The directory of their outputs.
      texts: The training file.
      rows: The rows per batch of each run.
      count: The number of processes of each run.
      steps: The number of steps.
    """
    command = [sys.executable, "-c", "from flax_bigbird.cli.main import run; run()"]
    command += ["train", "masked-lm", "--train-files", str(texts), "--validation-fraction", "0"]
    command += ["--max-steps", str(steps), "--max-length", str(SPEED_LENGTH)]
    command += ["--min-bucket-length", str(SPEED_LENGTH), "--vocab-size", "4000"]
    command += ["--logging-steps", str(steps // 4)]
    for key, value in SPEED_MODEL.items():
        command += ["--config-overrides", f"{key}={value}"]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    processes = []
    for run, run_rows in enumerate(rows):
        for index in range(count):
            own = ["-o", str(folder / str(run)), "--tokens-per-batch", str(run_rows * SPEED_LENGTH)]
            if count > 1:
                own += ["--coordinator-address", f"127.0.0.1:{port}", "--num-processes", str(count)]
                own += ["--process-id", str(index)]
            pinned = ["taskset", "-c", str(len(processes)), *command, *own]
            processes.append(subprocess.Popen(pinned, env=environment, stdout=subprocess.DEVNULL))
    for process in processes:
        assert process.wait() == 0
    return sum(tokens_per_second(folder / str(run) / "metrics.jsonl") for run in range(len(rows)))


def tokens_per_second(metrics: Path) -> float:
    """Returns the mean speed of a run, without its first quarter."""
    speeds = [json.loads(line)["tokens_per_second"] for line in metrics.read_text().splitlines()]
    return sum(speeds[1:]) / len(speeds[1:])


def report(results: dict[str, Any]) -> str:
    """Returns the sections of scale.md."""
    lines = ["## Meshes and processes", ""]
    lines += ["`python benchmarks/scale_mesh.py memory collectives processes`", ""]
    if rows := results.get("memory"):
        lines += ["### Parameters and optimizer states per device", ""]
        lines += [
            "| model | optimizer | mesh | all | per device | of 1/n |",
            "|---|---|---|---|---|---|",
        ]
        for row in rows:
            ratio = row["per_device"] * row["split_by"] / row["whole"]
            lines.append(
                f"| {row['model']} | {row['optimizer']} | `{row['mesh']}` "
                f"| {row['whole'] / 2**20:,.0f} MiB | {row['per_device'] / 2**20:,.0f} MiB "
                f"| {ratio:.3f} |"
            )
        lines += [
            "",
            "n is the product of `fsdp` and `tensor`. Figures follow from the shardings.",
            "",
        ]
    if rows := results.get("collectives"):
        lines += ["### What devices send each other in a training step", ""]
        size = rows[0]["parameters"] / 2**20
        lines += [
            f"A model of {STEP_MODEL['num_hidden_layers']} layers and width "
            f"{STEP_MODEL['hidden_size']} ({size:.1f} MiB of parameters), 8 rows of 1,024 tokens, "
            "8 simulated devices, or 4 with `tensor=4`; number of collectives in the compiled "
            "program, and the bytes of their results on a device.",
            "",
            "| mesh | collective | number | MiB |",
            "|---|---|---|---|",
        ]
        for row in rows:
            for kind, (number, size) in sorted(row["collectives"].items()):
                lines.append(f"| `{row['mesh']}` | {kind} | {number} | {size / 2**20:.2f} |")
        lines += [
            "",
            "What a device receives, if sums and gathers go around rings, and the operations of "
            "its matrix products, beside the formulas of the [plans](#plans). On CPUs, XLA sums "
            "gradients over `fsdp` as a whole, which moves twice what a device needs of them; "
            "the formulas are told so here. It also sums the two gradients of the word table, from "
            "the lookup and from the output layer, one by one. With `sequence`, logits are those "
            "of 1,024 tokens at a time, which are all tokens of a device here.",
            "",
            "| mesh | received, MiB | formula | GFLOP | formula |",
            "|---|---|---|---|---|",
        ]
        for row in rows:
            expected = planned_step(row["mesh"])
            received, planned = (sum(x["received"].values()) / 2**20 for x in (row, expected))
            lines.append(
                f"| `{row['mesh']}` | {received:.1f} | {planned:.1f} | "
                f"{row['flops'] / 1e9:.1f} | {expected['flops'] / 1e9:.1f} |"
            )
        lines.append("")
    if row := results.get("processes"):
        speeds = row["tokens_per_second"]
        lines += ["### Two processes on one machine", ""]
        lines += [
            f"Masked language modeling, {SPEED_MODEL['num_hidden_layers']} layers of width "
            f"{SPEED_MODEL['hidden_size']}, batches of {row['batch'][0]} rows of "
            f"{row['batch'][1]:,} tokens; each process is pinned to one core "
            f"({results['machine']}).",
            "",
            "| | tokens/s | of one process |",
            "|---|---|---|",
            f"| one process | {speeds['one']:,.0f} | 1.00 |",
            f"| two processes of one run | {speeds['two']:,.0f} | {row['ratios']['two']:.2f} |",
            f"| two runs at once, each with half of the rows | {speeds['independent']:,.0f} | "
            f"{row['ratios']['independent']:.2f} |",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="+", choices=SECTIONS)
    parser.add_argument("--steps", type=int, default=SPEED_STEPS, help="of the timed runs")
    arguments = parser.parse_args()
    flags = os.environ.get("XLA_FLAGS", "")
    results = json.loads(JSON_FILE.read_text()) if JSON_FILE.exists() else {}
    results["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    if "processes" in arguments.sections:  # before this process has devices
        results["processes"] = measure_processes(arguments.steps)
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8"
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "memory" in arguments.sections:
        results["memory"] = measure_memory()
    if "collectives" in arguments.sections:
        results["collectives"] = measure_collectives()
    write_section(REPORT, "scale_mesh", results, report(results))


if __name__ == "__main__":
    main()
