"""Measures the forward pass and the training step of a base-width BigBird.

It compares flax-bigbird with HF-Torch, HF-Flax, and the floor: the time of the matmuls alone; and
with other architectures for long documents in HF-Torch, each in the shape of its published base
model. One process is started per peer, length and round, and prints one line of JSON.
"""

import argparse
import itertools
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from report import machine, memory_kib, write_results

WIDTH, MLP, VOCABULARY, BLOCK, RANDOM, MASKED = 768, 3072, 50358, 64, 3, 0.15
PEERS = {
    "flax-bigbird": "ours",
    "flax-bigbird, gradient checkpointing": "ours_checkpoint",
    "flax-bigbird, model.loss": "ours_loss",
    "flax-bigbird, all logits": "ours_all",
    "flax-bigbird, no native code": "ours_xla",
    "HF-Torch": "torch",
    "HF-Torch BERT, SDPA": "torch_bert",
    "HF-Torch Longformer": "torch_longformer",
    "HF-Torch ModernBERT, SDPA": "torch_modernbert",
    "HF-Flax": "hf_flax",
}
PEER_MODES = {  # the modes of peers that do not run in both
    "flax-bigbird, gradient checkpointing": ("train",),
    "flax-bigbird, model.loss": ("train",),
    "flax-bigbird, all logits": ("train",),
    "HF-Torch BERT, SDPA": ("forward",),
    "HF-Torch Longformer": ("forward",),
    "HF-Torch ModernBERT, SDPA": ("forward",),
}
# ModernBERT's base model has 22 layers where BERT, BigBird and Longformer have 12.
MODERNBERT_LAYERS = 22 / 12
OTHER_ARCHITECTURES = {
    "HF-Torch BERT, SDPA": "BERT attends to all tokens in each layer.",
    "HF-Torch Longformer": "Longformer attends to the 512 nearest tokens, here to no global one.",
    "HF-Torch ModernBERT, SDPA": "ModernBERT has {} layers; each third one attends to all tokens, "
    "the others to the 128 nearest, which this implementation computes with a mask.",
}


class Job(NamedTuple):
    """The measurement of one process."""

    peer: str
    mode: str
    layers: int
    batch: int
    length: int
    runs: int


def flops(mode: str, layers: int, batch: int, length: int, targets: float = MASKED) -> float:
    """Returns the floating-point operations of the matmuls; a multiply-add counts as two.

    Training computes logits for the targets only, the fraction `targets` of the tokens, and three
    times the matmuls of the forward pass.
    """
    dense = 8 * length * WIDTH**2 + 4 * length * WIDTH * MLP
    rows = length // BLOCK
    if length <= (5 + 2 * RANDOM) * BLOCK:
        pairs = length**2
    else:
        distinct = 5 if mode == "forward" else 5 + RANDOM  # in evaluation, block 0 is repeated
        pairs = BLOCK**2 * ((rows - 2) * distinct - 2 + 2 * rows)
    total = layers * (dense + 4 * pairs * WIDTH)
    if mode == "train":
        total = 3 * (total + 2 * targets * length * WIDTH * (VOCABULARY + WIDTH))
    return float(batch * total)


def config(job: Job, cls: str = "BigBirdConfig"):
    """Returns the configuration that all peers use."""
    import transformers

    table = max(4096, job.length)
    sizes = {"num_hidden_layers": job.layers, "max_position_embeddings": table}
    if cls == "BertConfig":
        sizes |= {"vocab_size": VOCABULARY, "hidden_act": "gelu_new"}
    return getattr(transformers, cls)(**sizes)


def num_targets(job: Job) -> int:
    """Returns the number of targets per example."""
    return round(MASKED * job.length)


def inputs(job: Job):
    """Returns random ids, the mask and labels; 15% of the positions of an example are targets."""
    import numpy as np

    rng = np.random.default_rng(0)
    shape = job.batch, job.length
    ids = rng.integers(100, VOCABULARY, shape)
    is_target = np.broadcast_to(np.arange(job.length) < num_targets(job), shape)
    labels = np.where(rng.permuted(is_target, axis=1), ids, -100)
    return ids, np.ones(shape, np.int64), labels


def run_jax(job: Job, package: str):
    """Returns a compiled step of `flax_bigbird` or of HF-Flax, and its compile time."""
    import importlib

    import jax
    import jax.numpy as jnp
    import optax

    module = importlib.import_module(package)
    ids, mask, labels = (jnp.asarray(x) for x in inputs(job))
    name = "FlaxBigBirdModel" if job.mode == "forward" else "FlaxBigBirdForMaskedLM"
    checkpoint = job.peer == "ours_checkpoint"
    model = getattr(module, name)(config(job), gradient_checkpointing=checkpoint)
    if job.peer == "ours_xla":  # as on machines without a compiler for the native code
        model = model.with_attention_implementation("xla")
    if job.mode == "forward":

        def forward(params, ids, mask):
            return model(ids, mask, params=params).last_hidden_state

        step = forward
        arguments = (model.params, ids, mask)
    else:
        optimizer = optax.adamw(1e-4)

        def loss_fn(params, ids, mask, labels, key):
            options = {"params": params, "dropout_rng": key, "train": True}
            if job.peer in ("ours", "ours_checkpoint", "ours_xla"):
                from flax_bigbird.nn.losses import cross_entropy, gather_targets

                targets = gather_targets(labels, num_targets(job))
                options["logits_positions"] = targets.positions
                return cross_entropy(model(ids, mask, **options).logits, targets.labels)
            if job.peer == "ours_loss":
                return model.loss(ids, labels, mask, **options)
            logits = model(ids, mask, **options).logits
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
            return jnp.where(labels >= 0, losses, 0).sum() / (labels >= 0).sum()

        def train(params, state, ids, mask, labels, key):
            loss, grads = jax.value_and_grad(loss_fn)(params, ids, mask, labels, key)
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state, loss

        step, state = train, optimizer.init(model.params)
        arguments = (model.params, state, ids, mask, labels, jax.random.PRNGKey(0))
    donate_argnums = () if job.mode == "forward" else (0, 1)
    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=donate_argnums).lower(*arguments).compile()
    compile_s = time.perf_counter() - start
    current = list(arguments)
    del arguments

    def run():
        result = jax.block_until_ready(compiled(*current))
        if donate_argnums:
            current[:2] = result[:2]

    return run, compile_s


def torch_encoder(job: Job):
    """Returns the model of HF-Torch that computes the hidden states of the last layer."""
    import transformers

    sizes: dict[str, Any] = {"num_hidden_layers": job.layers, "vocab_size": VOCABULARY}
    if job.peer == "torch_bert":
        bert = config(job, "BertConfig")
        return transformers.BertModel._from_config(bert, attn_implementation="sdpa")
    if job.peer == "torch_longformer":  # its positions start after that of the padding token
        sizes["max_position_embeddings"] = job.length + 2
        return transformers.LongformerModel(transformers.LongformerConfig(**sizes))
    if job.peer == "torch_modernbert":
        sizes["num_hidden_layers"] = round(MODERNBERT_LAYERS * job.layers)
        sizes["max_position_embeddings"] = max(8192, job.length)
        modernbert = transformers.ModernBertConfig(**sizes)
        return transformers.ModernBertModel._from_config(modernbert, attn_implementation="sdpa")
    return transformers.BigBirdModel(config(job))


def run_torch(job: Job):
    """Returns a step of HF-Torch, which compiles nothing."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers

    transformers.logging.set_verbosity_error()
    ids, mask, labels = (torch.tensor(x) for x in inputs(job))
    if job.mode == "forward":
        model = torch_encoder(job).eval()

        def step():
            with torch.no_grad():
                model(input_ids=ids, attention_mask=mask)
    else:
        model = transformers.BigBirdForMaskedLM(config(job)).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

        def step():
            optimizer.zero_grad()
            model(ids, mask, labels=labels).loss.backward()
            optimizer.step()

    return step, None


def gemm_rate() -> float:
    """Returns the best FLOP/s of 20 float32 matmuls of 2048 x 2048 in JAX."""
    import jax
    import jax.numpy as jnp

    x = jax.random.normal(jax.random.PRNGKey(0), (2048, 2048))
    product = jax.jit(jnp.dot).lower(x, x).compile()
    times = []
    for _ in range(20):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(times)


def worker(job: Job) -> None:
    """Measures one peer at one size in this process."""
    if job.peer == "gemm":
        print(json.dumps({"gemm": gemm_rate()}))
        return
    if job.peer.startswith("torch"):
        step, compile_s = run_torch(job)
    else:
        package = "transformers" if job.peer == "hf_flax" else "flax_bigbird"
        step, compile_s = run_jax(job, package)
    step()
    times = []
    for _ in range(job.runs):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    peak = memory_kib() / 2**20
    print(json.dumps({"times_s": times, "compile_s": compile_s, "peak_gib": peak}))


def start(python: str, job: Job) -> dict:
    """Runs a worker process; returns the last line of its output, or its failure."""
    command = [python, __file__, "--worker", *map(str, job)]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["killed"])[-1]
        return {"failed": f"exit {done.returncode}: {last}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(arguments: argparse.Namespace) -> dict:
    """Measures all peers at all sizes, `--rounds` times in turn."""
    pythons = {"HF-Flax": arguments.hf_flax_python}
    peers = [name for name in PEERS if arguments.mode in PEER_MODES.get(name, (arguments.mode,))]
    rates, cells = [], {}
    for round_ in range(arguments.rounds):
        rates.append(start(sys.executable, Job("gemm", "", 0, 0, 0, 0))["gemm"])
        for batch, length in itertools.product(arguments.batches, arguments.lengths):
            for name in peers:
                python = pythons.get(name, sys.executable)
                cell = cells.setdefault(f"{name}:{batch}:{length}", {"times_s": []})
                skipped = name in arguments.skip or f"{name}:{length}" in arguments.skip
                if python is None or skipped or "failed" in cell:
                    continue
                print(f"round {round_ + 1}: {name}, {batch} x {length}", file=sys.stderr)
                sizes = (arguments.layers, batch, length, arguments.runs)
                result = start(python, Job(PEERS[name], arguments.mode, *sizes))
                cell["times_s"] += result.pop("times_s", [])
                cell |= result
    return {
        "mode": arguments.mode,
        "layers": arguments.layers,
        "batches": arguments.batches,
        "lengths": arguments.lengths,
        "gemm_flop_per_s": max(rates),
        "machine": machine(),
        "command": " ".join(["python", "benchmarks/model.py", *arguments.shown]),
        "cells": cells,
    }


def table(result: dict) -> str:
    """Returns the results as a Markdown table."""
    mode, rate, layers = result["mode"], result["gemm_flop_per_s"], result["layers"]
    title = "forward" if mode == "forward" else "MLM training step (AdamW)"
    machine = result["machine"]
    lines = [
        f"# {title}: {layers} layers, {WIDTH} wide, float32",
        "",
        f"{machine['processor']}, {machine['cores']} cores; 2048 x 2048 matmul: "
        f"{rate / 1e9:.0f} GFLOP/s. `{result['command']}`",
        "",
        "| batch x T | | time (s) | over ours | over the floor | peak (GiB) | compile (s) |",
        "|---|---|---|---|---|---|---|",
    ]
    for batch, length in itertools.product(result["batches"], result["lengths"]):
        floor = flops(mode, layers, batch, length) / rate
        cells = {name: result["cells"].get(f"{name}:{batch}:{length}", {}) for name in PEERS}
        ours = statistics.median(cells["flax-bigbird"]["times_s"])
        size = f"{batch} x {length}"
        lines.append(f"| {size} | floor | {floor:.2f} | {floor / ours:.2f} | 1.00 | | |")
        if mode == "train":
            dense = flops(mode, layers, batch, length, targets=1.0) / rate
            lines.append(
                f"| | floor with all logits | {dense:.2f} | {dense / ours:.2f} "
                f"| {dense / floor:.2f} | | |"
            )
        for name, cell in cells.items():
            if cell.get("failed"):
                lines.append(f"| | {name} | {cell['failed']} | | | | |")
            elif cell.get("times_s"):
                median = statistics.median(cell["times_s"])
                compile_s = f"{cell['compile_s']:.1f}" if cell["compile_s"] else ""
                lines.append(
                    f"| | {name} | {median:.2f} | {median / ours:.2f} | {median / floor:.2f} "
                    f"| {cell['peak_gib']:.2f} | {compile_s} |"
                )
    notes = [
        text.format(round(MODERNBERT_LAYERS * layers))
        for name, text in OTHER_ARCHITECTURES.items()
        if any(
            key.startswith(f"{name}:") and cell["times_s"] for key, cell in result["cells"].items()
        )
    ]
    if notes:
        lines += ["", f"All parameters are random. {' '.join(notes)}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=("forward", "train"), default="forward")
    parser.add_argument("--name", default="model", help="name of the files in results/")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--rounds", type=int, default=3, help="processes per peer and size")
    parser.add_argument("--runs", type=int, default=3, help="timed runs per process")
    parser.add_argument("--hf-flax-python", help="Python interpreter with HF-Flax")
    parser.add_argument("--skip", nargs="*", default=[], metavar="PEER[:T]")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--worker", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        peer, mode, *sizes = arguments.worker
        worker(Job(peer, mode, *map(int, sizes)))
        return
    words = sys.argv[1:]
    if "--hf-flax-python" in words:
        words[words.index("--hf-flax-python") + 1] = "PATH"
    arguments.shown = [shlex.quote(word) for word in words]
    result = measure(arguments)
    stem = arguments.output / f"{arguments.name}_{arguments.mode}_cpu"
    write_results(stem, result, table(result))
    print(table(result))


if __name__ == "__main__":
    main()
