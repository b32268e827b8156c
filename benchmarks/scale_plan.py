"""Plans training runs by formulas: which mesh, and the memory, work and time of a step.

The formulas count what the package computes, keeps and sends; `tests/benchmarks/test_scale_plan.py`
compares them with compiled programs. The time rests on two assumptions, named in the section that
this script writes into `benchmarks/results/scale.md`.
"""

import itertools
import math
from pathlib import Path
from typing import Any, NamedTuple

from report import write_section

RESULTS = Path(__file__).parent / "results" / "scale.md"
LENGTHS, CHIP_COUNTS = (4096, 65_536, 1_048_576), (8, 64, 512)
TOKENS_PER_CHIP = (16_384, 8192, 4096)  # the first that fits
UTILIZATION = 0.22  # of the peak; a training step of the base model on an H200


class Model(NamedTuple):
    """The sizes of a model, by the letters of CONTRIBUTING.md."""

    V: int
    D: int
    layers: int
    N: int
    F: int
    W: int = 64
    R: int = 3


class Chip(NamedTuple):
    """Memory in bytes, matmuls in FLOP/s, links in bytes/s: inside a group, and between groups."""

    memory: float
    flops: float
    group: int
    inside: float
    between: float


class Mesh(NamedTuple):
    """The sizes of the axes."""

    data: int
    fsdp: int
    sequence: int
    tensor: int


MODELS = {
    "base": Model(50_358, 768, 12, 12, 3072),
    "large": Model(50_358, 1024, 24, 16, 4096),
}
CHIPS = {
    "H100": Chip(80e9, 989e12, 8, 450e9, 50e9),
    "v5e": Chip(16e9, 197e12, 256, 100e9, 3e9),
}


def num_parameters(model: Model, length: int) -> int:
    """Returns the number of parameters of a masked language model for texts of a length."""
    layer = 4 * model.D**2 + 2 * model.D * model.F
    return (model.V + length) * model.D + model.layers * layer + model.D**2


def state_bytes(model: Model, length: int, mesh: Mesh) -> float:
    """Returns parameters, gradients and AdamW's two means on a chip, in float32."""
    positions = length * model.D
    rest = num_parameters(model, length) - positions
    return 16 * (positions + rest / mesh.tensor) / mesh.fsdp


def activation_bytes(model: Model, tokens: float, tensor: int = 1, width: int = 2) -> float:
    """Returns what all layers keep for the backward pass of a chip's tokens.

    XLA keeps 22 D + 2 F numbers per token and layer on a CPU. Of these, those of the heads and of
    the feed-forward layer, 8 D + 2 F, are split by `tensor`.
    """
    per_token = 14 * model.D + (8 * model.D + 2 * model.F) / tensor
    return tokens * model.layers * per_token * width


def step_flops(model: Model, length: int, tokens: float) -> float:
    """Returns the floating-point operations of a training step of some tokens, with all labels."""
    blocks = min(length / model.W, 5 + model.R) + 2  # a row's; two global rows read everything
    layer = 2 * (4 * model.D**2 + 2 * model.D * model.F) + 4 * model.D * blocks * model.W
    head = 2 * (model.D**2 + model.V * model.D)
    return 3 * tokens * (model.layers * layer + head)


def scattered_blocks(model: Model, length: int, devices: int) -> float:
    """Returns the random blocks of each head that a chip gets in a layer, with padding.

    Rows draw uniformly. What any two chips send is padded to the largest of all pairs and heads.
    """
    if devices == 1:
        return 0.0
    rows = length / model.W / devices
    drawn = rows * (1 - math.exp(-model.R / devices))
    deviation = math.sqrt(drawn * math.exp(-model.R / devices))
    largest = math.sqrt(2 * math.log(devices**2 * model.N))
    return devices * min(rows, drawn + largest * deviation)


def sent_bytes(
    model: Model, length: int, examples: float, mesh: Mesh, width: int = 2
) -> dict[str, float]:
    """Returns what a chip gets in a step along each axis.

    Args:
      model: The model.
      length: T.
      examples: The examples of a chip, whose tokens and heads it shares.
      mesh: The mesh.
      width: The bytes of a number of the hidden states.
    """
    parameters = 4 * num_parameters(model, length)
    hidden = examples * length / mesh.sequence * model.D * width
    blocks = scattered_blocks(model, length, mesh.sequence) + (4 if mesh.sequence > 1 else 0)
    keys = 2 * model.W * model.D / mesh.tensor * width
    copies = mesh.data * mesh.sequence
    return {
        # A sum over n chips moves twice (n - 1)/n of the array.
        "data": 2 * parameters * (1 - 1 / copies) / (mesh.fsdp * mesh.tensor),
        "fsdp": 3 * parameters * (1 - 1 / mesh.fsdp) / mesh.tensor,
        "sequence": 3 * model.layers * examples * blocks * keys,
        "tensor": 8 * model.layers * hidden * (1 - 1 / mesh.tensor),
    }


def step_seconds(chip: Chip, flops: float, sent: dict[str, float], mesh: Mesh) -> float:
    """Returns the time of a step in which nothing overlaps."""
    seconds = flops / (chip.flops * UTILIZATION)
    reach = 1
    for axis, size in reversed(mesh._asdict().items()):
        reach *= size
        seconds += sent[axis] / (chip.inside if reach <= chip.group else chip.between)
    return seconds


def plan(model: Model, chip: Chip, length: int, chips: int) -> dict[str, Any] | None:
    """Returns the fastest mesh whose state and activations fit, or None.

    Smaller batches are tried before every layer is recomputed in the backward pass.
    """
    for remat, tokens in itertools.product((False, True), TOKENS_PER_CHIP):
        batch = max(1, chips * tokens // length)
        best = plan_batch(model, chip, length, chips, batch, remat)
        if best is not None:
            return best
    return None


def plan_batch(
    model: Model, chip: Chip, length: int, chips: int, batch: int, remat: bool
) -> dict[str, Any] | None:
    """Returns the fastest mesh for a batch, or None if it does not fit on any."""
    best: dict[str, Any] | None = None
    powers = [2**i for i in range(chips.bit_length())]
    for sizes in itertools.product(powers, repeat=4):
        mesh = Mesh(*sizes)
        shared = mesh.data * mesh.fsdp
        if math.prod(mesh) != chips or model.N % mesh.tensor or batch % shared:
            continue
        if length // model.W % mesh.sequence:
            continue
        examples = batch / shared
        tokens = examples * length / mesh.sequence
        memory = state_bytes(model, length, mesh)
        if remat:  # the inputs of all layers, and one layer
            one_layer = model._replace(layers=1)
            memory += activation_bytes(one_layer, tokens, mesh.tensor)
            memory += 2 * tokens * model.layers * model.D
        else:
            memory += activation_bytes(model, tokens, mesh.tensor)
        if memory > 0.85 * chip.memory:
            continue
        flops = step_flops(model, length, tokens) / mesh.tensor * (4 / 3 if remat else 1)
        sent = sent_bytes(model, length, examples, mesh)
        seconds = step_seconds(chip, flops, sent, mesh)
        if best is None or seconds < best["seconds"]:
            best = {"mesh": mesh._asdict(), "memory": memory, "flops": flops, "sent": sent}
            best |= {"batch": batch, "seconds": seconds, "rematerialization": remat}
    return best


def table() -> list[dict[str, Any]]:
    """Returns the plans of all models, lengths, chips and numbers of them."""
    cases = itertools.product(MODELS, LENGTHS, CHIPS, CHIP_COUNTS)
    return [
        {
            "model": name,
            "length": length,
            "chip": chip,
            "chips": count,
            "plan": plan(MODELS[name], CHIPS[chip], length, count),
        }
        for name, length, chip, count in cases
    ]


def report(rows: list[dict[str, Any]]) -> str:
    """Returns the section of the page."""
    lines = [
        "## Plans",
        "",
        "`python benchmarks/scale_plan.py`: formulas, not measurements. Training in bfloat16 with "
        "AdamW and float32 parameters, 16,384 tokens per chip (8,192 or 4,096 if these do not fit) "
        "or one text, fixed random blocks. R marks `gradient_checkpointing=True`, whose memory was "
        "not compared with a compiled program: XLA undoes it on CPUs. Memory is state and "
        "activations, and 15% are left free. Where none fits, the position table alone takes most "
        "of it (16 bytes x T x D), because `fsdp` splits examples, too. The time assumes "
        f"{UTILIZATION:.0%} of the peak, which a training step reaches on "
        "an H200, also for the v5e, where nothing was measured, and that communication does not "
        "overlap with work. Links: H100 450 GB/s among 8 and 50 GB/s beyond; v5e 100 GB/s among "
        "256 and 3 GB/s beyond. Of all meshes that fit, the fastest is named.",
        "",
        "| model | T | chips | batch | mesh | memory, GB | TFLOP per chip | received, GB | "
        "step, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        start = f"| {row['model']} | {row['length']:,} | {row['chips']} {row['chip']} |"
        best = row["plan"]
        if best is None:
            lines.append(f"{start} | none fits | | | | |")
            continue
        mesh = ",".join(f"{axis}={size}" for axis, size in best["mesh"].items() if size > 1)
        remat = " R" if best["rematerialization"] else ""
        lines.append(
            f"{start} {best['batch']} | `{mesh}`{remat} | {best['memory'] / 1e9:.1f} | "
            f"{best['flops'] / 1e12:.0f} | {sum(best['sent'].values()) / 1e9:.2f} | "
            f"{best['seconds']:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    ROWS = table()
    write_section(RESULTS, "scale_plan", ROWS, report(ROWS))
