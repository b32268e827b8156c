"""Measures the memory and the communication of devices that share the tokens of one text.

Programs are compiled for simulated devices, and nothing is run: XLA reports the memory of a device,
and the compiled program what devices send. `benchmarks/results/scale.md` has the section that this
script writes.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from collectives import collective_bytes
from report import write_section

DEVICES = (1, 2, 4, 8)
RESULTS = Path(__file__).parent / "results" / "scale.md"
MODELS: dict[str, dict[str, Any]] = {
    "base, one layer": {"num_hidden_layers": 1},
    "small, training step": {
        "num_hidden_layers": 4,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    },
}
RULES: dict[str, dict[str, Any]] = {
    "no random blocks": {"random_attention": "hf"},
    "fixed": {"random_attention": "fixed"},
    "fixed, padding-invariant": {"random_attention": "fixed", "padding_invariant": True},
}


def compiled(name: str, rule: str, length: int, devices: int) -> Any:
    """Compiles the loss and the gradients of one text for devices that share its tokens."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P
    from transformers import BigBirdConfig

    from flax_bigbird import FlaxBigBirdForMaskedLM
    from flax_bigbird.parallel.parameter_sharding import parameter_shardings

    settings: dict[str, Any] = {"vocab_size": 8192, "max_position_embeddings": length}
    settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} | MODELS[name]
    config = BigBirdConfig(**settings)
    for key, value in {"attention_implementation": "xla", **RULES[rule]}.items():
        setattr(config, key, value)
    model = FlaxBigBirdForMaskedLM(config, _do_init=False)
    mesh = jax.make_mesh(
        (devices,), ("sequence",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )
    split, whole = (NamedSharding(mesh, spec) for spec in (P(None, "sequence"), P()))
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32, sharding=split)
    shardings = parameter_shardings(mesh, model.params_shape_tree)
    params = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=sharding),
        model.params_shape_tree,
        shardings,
    )

    def loss(params, ids, mask, labels):
        call = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        return model.loss(**call, params=params)

    with jax.set_mesh(mesh):
        step = jax.jit(jax.value_and_grad(loss), out_shardings=(whole, shardings))
        return step.lower(params, ids, ids, ids).compile()


def measure(name: str, rule: str, length: int, devices: int) -> dict[str, Any]:
    """Returns the temporary memory of a device and what it gets in a step, in MiB."""
    program = compiled(name, rule, length, devices)
    memory: Any = program.memory_analysis()
    sent = collective_bytes(program.as_text())
    parameters = memory.output_size_in_bytes  # the gradients
    return {
        "model": name,
        "rule": rule,
        "length": length,
        "devices": devices,
        "temporary_mib": memory.temp_size_in_bytes / 2**20,
        "gradients_mib": parameters / 2**20,
        "sent_mib": {kind: count / 2**20 for kind, count in sent.items()},
    }


def report(rows: list[dict[str, Any]], command: str) -> str:
    """Returns the section of the page."""
    lines = [
        "## Tokens of one text on several devices",
        "",
        f"`{command}`: forward and backward pass of the masked language model's loss in float32, "
        f"of one text of {rows[0]['length']:,} tokens, compiled for 1, 2, 4 and 8 simulated "
        "devices (plain JAX backend). `memory` is the temporary memory of a device, in which "
        "activations are, according to XLA; `of 1/n` relates it to the nth part of one device's. "
        "The other columns are what a device gets in a step: key blocks and their gradients "
        "(`all-to-all` and `collective-permute`), and sums, nearly all of which are the gradients "
        "of the parameters. A padding-invariant pattern asks for blocks in rounds, of which one "
        "is counted.",
        "",
        "| model | random blocks | devices | memory, MiB | of 1/n | key blocks, MiB | sums, MiB | "
        "gathers, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        same = (row["model"], row["rule"])
        one = next(x for x in rows if (x["model"], x["rule"]) == same and x["devices"] == 1)
        ratio = row["temporary_mib"] * row["devices"] / one["temporary_mib"]
        sent = row["sent_mib"]
        blocks = sent.get("all-to-all", 0) + sent.get("collective-permute", 0)
        lines.append(
            f"| {row['model']} | {row['rule']} | {row['devices']} | {row['temporary_mib']:,.0f} | "
            f"{ratio:.2f} | {blocks:.1f} | {sent.get('all-reduce', 0):.1f} | "
            f"{sent.get('all-gather', 0):.3f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=65_536, help="tokens")
    parser.add_argument("--worker", nargs=3, metavar=("MODEL", "RULE", "DEVICES"))
    arguments = parser.parse_args()
    if arguments.worker:
        name, rule, devices = arguments.worker
        print(json.dumps(measure(name, rule, arguments.length, int(devices))))
        return
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    rows = []
    for name in MODELS:
        for rule in RULES:
            for devices in DEVICES:
                worker = ["--worker", name, rule, str(devices), "--length", str(arguments.length)]
                shown = subprocess.run(
                    [sys.executable, __file__, *worker],
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=environment,
                ).stdout
                rows.append(json.loads(shown.splitlines()[-1]))
                print(rows[-1], flush=True)
    command = "python benchmarks/scale_sequence.py"
    if arguments.length != 65_536:
        command += f" --length {arguments.length}"
    write_section(RESULTS, "scale_sequence", rows, report(rows, command))


if __name__ == "__main__":
    main()
