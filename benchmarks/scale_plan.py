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
UTILIZATION = 0.17  # of the chip's peak; a training step of the base model on an H200
LABELS = 0.15  # of the tokens are predicted
HEAD_CHUNK = 1024  # tokens whose logits a device computes at a time if tokens are split


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


class Parameters(NamedTuple):
    """The numbers of parameters of a masked language model by how a mesh splits them."""

    words: int
    positions: int
    layers: int
    rest: int


def parameters(model: Model, length: int) -> Parameters:
    """Returns the parameters of a model for texts of a length, without the pooler and biases."""
    layer = 4 * model.D**2 + 2 * model.D * model.F
    sizes = (model.V * model.D, length * model.D, model.layers * layer, model.D**2)
    return Parameters(*sizes)


def held_parameters(model: Model, length: int, mesh: Mesh) -> float:
    """Returns the number of parameters that a chip computes with, before `fsdp` splits them."""
    words, positions, layers, rest = parameters(model, length)
    if model.V % mesh.tensor == 0:
        words /= mesh.tensor
    return words + positions / mesh.sequence + layers / mesh.tensor + rest


def state_bytes(model: Model, length: int, mesh: Mesh, width: int = 2) -> float:
    """Returns parameters, gradients and AdamW's two means on a chip, in float32.

    With `fsdp` or another dtype, parameters are there a second time, as they are computed with.
    """
    held = held_parameters(model, length, mesh)
    copy = width if mesh.fsdp > 1 or width < 4 else 0
    return 16 * held / mesh.fsdp + copy * held


def activation_bytes(model: Model, tokens: float, tensor: int = 1, width: int = 2) -> float:
    """Returns what all layers keep for the backward pass of a chip's tokens.

    XLA keeps 22 D + 2 F numbers per token and layer on a CPU. Of these, those of the heads and of
    the feed-forward layer, 8 D + 2 F, are split by `tensor`.
    """
    per_token = 14 * model.D + (8 * model.D + 2 * model.F) / tensor
    return tokens * model.layers * per_token * width


def chip_bytes(model: Model, length: int, batch: int, mesh: Mesh, *, remat: bool) -> float:
    """Returns the memory of a chip in a training step in bfloat16.

    Args:
      model: The model.
      length: T.
      batch: The examples of all chips.
      mesh: The mesh.
      remat: Whether the backward pass recomputes each layer from its inputs.
    """
    tokens = batch * length / (mesh.data * mesh.fsdp * mesh.sequence)
    memory = state_bytes(model, length, mesh) + logits_bytes(model, tokens, mesh)
    if not remat:
        return memory + activation_bytes(model, tokens, mesh.tensor)
    one_layer = activation_bytes(model._replace(layers=1), tokens, mesh.tensor)
    gradients = one_layer / 2  # of the states of the layer, in a program compiled for v5e
    return memory + one_layer + gradients + 2 * tokens * model.layers * model.D


def predicted_tokens(tokens: float, mesh: Mesh, labels: float = LABELS) -> float:
    """Returns the tokens whose logits a chip computes: where tokens are split, whole chunks."""
    if mesh.sequence == 1:
        return labels * tokens
    chunk = min(HEAD_CHUNK, tokens)
    return math.ceil(labels * tokens / chunk) * chunk


def logits_bytes(model: Model, tokens: float, mesh: Mesh) -> float:
    """Returns the logits that are held at a time, and as many exponentials, in float32."""
    rows = predicted_tokens(tokens, mesh) if mesh.sequence == 1 else min(HEAD_CHUNK, tokens)
    splits = mesh.sequence == 1 and model.V % mesh.tensor == 0
    return 8 * rows * model.V / (mesh.tensor if splits else 1)


def step_flops(
    model: Model, length: int, tokens: float, mesh: Mesh, labels: float = LABELS
) -> float:
    """Returns the floating-point operations of a chip in a training step.

    Args:
      model: The model.
      length: T.
      tokens: The tokens of the chip, whose heads it shares.
      mesh: The mesh.
      labels: The fraction of the tokens that are predicted.
    """
    blocks = min(length / model.W, 5 + model.R) + 2  # a row's; two global rows read everything
    layer = 2 * (4 * model.D**2 + 2 * model.D * model.F) + 4 * model.D * blocks * model.W
    words = 2 * model.V * model.D * predicted_tokens(tokens, mesh, labels)
    if mesh.sequence > 1 or model.V % mesh.tensor == 0:
        words /= mesh.tensor
    return 3 * (tokens * model.layers * layer / mesh.tensor + words)


def scattered_blocks(model: Model, length: int, devices: int) -> float:
    """Returns the random blocks of each head that a chip sends in a layer, with padding.

    Rows draw uniformly. What any two chips send is padded to the largest of all pairs and heads; a
    chip has as many slots for itself, which do not travel.
    """
    rows = length / model.W / devices
    drawn = rows * (1 - math.exp(-model.R / devices))
    deviation = math.sqrt(drawn * math.exp(-model.R / devices))
    largest = math.sqrt(2 * math.log(devices**2 * model.N))
    return devices * min(rows, drawn + largest * deviation)


def key_block_bytes(model: Model, mesh: Mesh, width: int = 2) -> float:
    """Returns the bytes of the keys and values of a block on a chip, of all its heads."""
    return 2 * model.W * model.D / mesh.tensor * width


def exchanged_bytes(
    model: Model, length: int, examples: float, mesh: Mesh, width: int = 2
) -> float:
    """Returns the key blocks and their gradients that a chip gets in a step from other chips.

    Beside random blocks, there are a block from each neighbor, and the sums of the keys of two
    global blocks and of what two global rows attend to.
    """
    others = 1 - 1 / mesh.sequence
    if not others:
        return 0.0
    blocks = (scattered_blocks(model, length, mesh.sequence) + 8) * others + 2
    return 3 * model.layers * examples * blocks * key_block_bytes(model, mesh, width)


def sent_bytes(
    model: Model,
    length: int,
    examples: float,
    mesh: Mesh,
    width: int = 2,
    *,
    labels: float = LABELS,
    scatters_sums: bool = True,
) -> dict[str, float]:
    """Returns what a chip gets in a step along each axis.

    Rings are assumed, in which a sum over n chips moves twice (n - 1)/n of the array.

    Args:
      model: The model.
      length: T.
      examples: The examples of a chip, whose tokens and heads it shares.
      mesh: The mesh.
      width: The bytes of a number of the hidden states.
      labels: The fraction of the tokens that are predicted.
      scatters_sums: Whether a chip gets only its part of a sum over `fsdp`, half of what the sum
        moves, and only sums over `data` its part of those over `sequence`. The compiler for TPUs
        does so, and that for CPUs does not.
    """
    splits_words = mesh.tensor > 1 and model.V % mesh.tensor == 0
    words = parameters(model, length).words
    positions = parameters(model, length).positions / mesh.sequence
    held = held_parameters(model, length, mesh)
    table = words / mesh.tensor if splits_words else words
    # Parameters are gathered and gradients are summed as they are computed with, except words that
    # are looked up, and their gradient where tokens are split. That table has two gradients: of the
    # lookup, which is whole, and of the head, which gathers its part twice more.
    gathered = width * (held - table) + 4 * table + (2 * width * table if splits_words else 0)
    summed = (
        width * (held - positions - table + words) + (4 if mesh.sequence > 1 else width) * table
    )
    own = width * positions
    hidden = examples * length / mesh.sequence * model.D * width
    tensor = 8 * model.layers * hidden
    if splits_words:
        tensor += 4 * words + 2 * labels * hidden
    fsdp = gathered + (1 if scatters_sums else 2) * (summed + own)
    data = own + summed / (mesh.sequence if scatters_sums else 1)
    return {
        "data": 2 * data * (1 - 1 / mesh.data) / mesh.fsdp,
        "fsdp": fsdp * (1 - 1 / mesh.fsdp),
        "sequence": exchanged_bytes(model, length, examples, mesh, width)
        + 2 * summed * (1 - 1 / mesh.sequence),
        "tensor": tensor * (1 - 1 / mesh.tensor),
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
    """Returns a fast mesh whose state and activations fit, or None.

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
    """Returns a mesh for a batch, or None if it does not fit on any.

    Of the meshes that take at most 2% longer than the fastest, it is the one with the fewest axes,
    and then the one with the largest `data`.
    """
    plans = []
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
        memory = chip_bytes(model, length, batch, mesh, remat=remat)
        if memory > 0.85 * chip.memory:
            continue
        flops = step_flops(model, length, tokens, mesh) * (4 / 3 if remat else 1)
        sent = sent_bytes(model, length, examples, mesh)
        seconds = step_seconds(chip, flops, sent, mesh)
        plan = {"mesh": mesh._asdict(), "memory": memory, "flops": flops, "sent": sent}
        plan |= {"batch": batch, "seconds": seconds, "rematerialization": remat}
        plans.append((sum(size > 1 for size in mesh), -mesh.data, seconds, plan))
    fastest = min((seconds for _, _, seconds, _ in plans), default=0.0)
    close = [plan for plan in plans if plan[2] <= 1.02 * fastest]
    return min(close, key=lambda plan: plan[:3])[3] if close else None


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
        "`python benchmarks/scale_plan.py`: formulas, not measurements; activations, operations "
        "and received bytes are compared with compiled programs above and in the tests. Training "
        f"in bfloat16 with AdamW and float32 parameters, {LABELS:.0%} of the tokens masked, 16,384 "
        "tokens per chip (8,192 or 4,096 if these do not fit) or one text, fixed random blocks. R "
        "marks `gradient_checkpointing=True`, whose memory may be a quarter more, see "
        "[below](#memory-of-tpus). Memory is state, activations and logits, and 15% are "
        "left free. Gradients are reduce-scattered over `fsdp`, as XLA does for v5e (libtpu "
        "0.0.42, compiled for eight chips without one) and for GPUs (its pass "
        "`ReduceScatterCreator`, which was not run here): that is half of what the sums on CPUs "
        "receive. The time "
        f"assumes {UTILIZATION:.0%} of the peak, which a training step reaches on "
        "an H200, also for the v5e, where nothing was measured, and that communication does not "
        "overlap with work. Links: H100 450 GB/s among 8 and 50 GB/s beyond; v5e 100 GB/s among "
        "256 and 3 GB/s beyond. Of all meshes that fit, the fastest is named, or one that takes at "
        "most 2% longer with fewer axes, or with more `data`.",
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
