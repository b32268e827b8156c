"""Forward and training step of a 2-layer, base-width BigBird: ours, HF-Torch, HF-Flax, the floor.

The parent starts one process per peer, length and round; a process prints one line of JSON.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

LAYERS, WIDTH, MLP, VOCABULARY, BLOCK, RANDOM = 2, 768, 3072, 50358, 64, 3
PEERS = {
    "flax-bigbird": "ours",
    "flax-bigbird, no native code": "ours_xla",
    "HF-Torch": "torch",
    "HF-Flax": "hf_flax",
}


def flops(length: int, mode: str) -> float:
    """Floating-point operations of the matmuls, each multiply-add counted as two."""
    dense = 8 * length * WIDTH**2 + 4 * length * WIDTH * MLP
    rows = length // BLOCK
    if length <= (5 + 2 * RANDOM) * BLOCK:
        pairs = length**2
    else:
        distinct = 5 if mode == "forward" else 5 + RANDOM  # evaluation repeats block 0
        pairs = BLOCK**2 * ((rows - 2) * distinct - 2 + 2 * rows)
    total = LAYERS * (dense + 4 * pairs * WIDTH)
    if mode == "train":
        total = 3 * (total + 2 * length * WIDTH * (VOCABULARY + WIDTH))
    return float(total)


def config(length: int):
    """The configuration all peers build."""
    from transformers import BigBirdConfig

    table = max(4096, length)
    return BigBirdConfig(num_hidden_layers=LAYERS, max_position_embeddings=table)


def inputs(length: int, mode: str):
    """Random ids; 15% of the positions are targets."""
    import numpy as np

    rng = np.random.default_rng(0)
    ids = rng.integers(100, VOCABULARY, (1, length))
    labels = np.where(rng.random((1, length)) < 0.15, ids, -100)
    return ids, np.ones((1, length), np.int64), labels


def run_jax(length: int, mode: str, package: str):
    """A compiled step of `flax_bigbird` or of HF-Flax, and its compile time."""
    import importlib

    import jax
    import jax.numpy as jnp
    import optax

    module = importlib.import_module(package)
    ids, mask, labels = (jnp.asarray(x) for x in inputs(length, mode))
    name = "FlaxBigBirdModel" if mode == "forward" else "FlaxBigBirdForMaskedLM"
    model = getattr(module, name)(config(length))
    if mode == "forward":

        def step(params, ids, mask):
            return model(ids, mask, params=params).last_hidden_state

        arguments = (model.params, ids, mask)
    else:
        optimiser = optax.adamw(1e-4)

        def loss_fn(params, ids, mask, labels, key):
            logits = model(ids, mask, params=params, dropout_rng=key, train=True).logits
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
            return jnp.where(labels >= 0, losses, 0).sum() / (labels >= 0).sum()

        def step(params, state, ids, mask, labels, key):
            loss, grads = jax.value_and_grad(loss_fn)(params, ids, mask, labels, key)
            updates, state = optimiser.update(grads, state, params)
            return optax.apply_updates(params, updates), state, loss

        state = optimiser.init(model.params)
        arguments = (model.params, state, ids, mask, labels, jax.random.PRNGKey(0))
    start = time.perf_counter()
    compiled = jax.jit(step).lower(*arguments).compile()
    compile_s = time.perf_counter() - start
    return (lambda: jax.block_until_ready(compiled(*arguments))), compile_s


def run_torch(length: int, mode: str):
    """A step of HF-Torch; it compiles nothing."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    ids, mask, labels = (torch.tensor(x) for x in inputs(length, mode))
    if mode == "forward":
        model = transformers.BigBirdModel(config(length)).eval()

        def step():
            with torch.no_grad():
                model(ids, mask)
    else:
        model = transformers.BigBirdForMaskedLM(config(length)).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)

        def step():
            optimiser.zero_grad()
            model(ids, mask, labels=labels).loss.backward()
            optimiser.step()

    return step, None


def gemm_rate() -> float:
    """FLOP/s of a 2048 x 2048 float32 matmul in JAX, the best of 20."""
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


def worker(peer: str, mode: str, length: int, runs: int) -> None:
    """One peer at one length, in this process."""
    if peer == "gemm":
        print(json.dumps({"gemm": gemm_rate()}))
        return
    if peer == "torch":
        step, compile_s = run_torch(length, mode)
    else:
        if peer == "ours_xla":
            from flax_bigbird.attention import api

            del api._IMPLEMENTATIONS["cpu"]  # as where no compiler was found
        package = "transformers" if peer == "hf_flax" else "flax_bigbird"
        step, compile_s = run_jax(length, mode, package)
    step()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"times_s": times, "compile_s": compile_s, "peak_gib": peak}))


def start(python: str, *arguments: object) -> dict:
    """Runs a worker process; its last line of output is the result, else the failure."""
    command = [python, __file__, "--worker", *map(str, arguments)]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["killed"])[-1]
        return {"failed": f"exit {done.returncode}: {last}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(arguments: argparse.Namespace) -> dict:
    """All peers at all lengths, in turn, `--rounds` times."""
    pythons = {"HF-Flax": arguments.hf_flax_python}
    skip = {tuple(item.split(":")) for item in arguments.skip}
    rates, cells = [], {}
    for round_ in range(arguments.rounds):
        rates.append(start(sys.executable, "gemm", arguments.mode, 0, 0)["gemm"])
        for length in arguments.lengths:
            for name, peer in PEERS.items():
                python = pythons.get(name, sys.executable)
                cell = cells.setdefault(f"{name}:{length}", {"times_s": []})
                if python is None or (name, str(length)) in skip or "failed" in cell:
                    continue
                print(f"round {round_ + 1}: {name}, T={length}", file=sys.stderr, flush=True)
                result = start(python, peer, arguments.mode, length, arguments.runs)
                cell["times_s"] += result.pop("times_s", [])
                cell |= result
    return {
        "mode": arguments.mode,
        "lengths": arguments.lengths,
        "gemm_flop_per_s": max(rates),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "command": " ".join(["python", "benchmarks/model.py", *arguments.shown]),
        "cells": cells,
    }


def processor() -> str:
    """The processor's name, as Linux gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def table(result: dict) -> str:
    """The Markdown table."""
    mode, rate = result["mode"], result["gemm_flop_per_s"]
    what = "forward" if mode == "forward" else "MLM training step (full logits, AdamW)"
    machine = result["machine"]
    lines = [
        f"# {what}: {LAYERS} layers, {WIDTH} wide, float32, batch 1",
        "",
        f"{machine['processor']}, {machine['cores']} cores; 2048 x 2048 matmul: "
        f"{rate / 1e9:.0f} GFLOP/s. `{result['command']}`",
        "",
        "| T | | time (s) | over ours | over the floor | peak (GiB) | compile (s) |",
        "|---|---|---|---|---|---|---|",
    ]
    for length in result["lengths"]:
        floor = flops(length, mode) / rate
        cells = {name: result["cells"].get(f"{name}:{length}", {}) for name in PEERS}
        ours = statistics.median(cells["flax-bigbird"]["times_s"])
        lines.append(f"| {length} | floor | {floor:.2f} | {floor / ours:.2f} | 1.00 | | |")
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
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=("forward", "train"), default="forward")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--rounds", type=int, default=3, help="processes per peer and length")
    parser.add_argument("--runs", type=int, default=3, help="timed runs per process")
    parser.add_argument("--hf-flax-python", help="interpreter that has HF-Flax")
    parser.add_argument("--skip", nargs="*", default=[], metavar="PEER:T")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        peer, mode, length, runs = arguments.worker
        worker(peer, mode, int(length), int(runs))
        return
    words = sys.argv[1:]
    if "--hf-flax-python" in words:
        words[words.index("--hf-flax-python") + 1] = "PATH"
    arguments.shown = words
    result = measure(arguments)
    arguments.output.mkdir(parents=True, exist_ok=True)
    stem = arguments.output / f"model_{arguments.mode}_cpu"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(result))
    print(table(result))


if __name__ == "__main__":
    main()
