"""Measures greedy generation, and the prefill of prompts of several lengths.

It compares flax-bigbird with HF-Torch with full attention, and with the floor: the time of the
matmuls and of reading the weights. One process is started per peer, size and round, and prints one
line of JSON.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from report import machine, memory_kib, write_results

HEADS, VOCABULARY, BLOCK, RANDOM = 12, 50358, 64, 3
PEERS = {
    "flax-bigbird": "ours",
    "flax-bigbird, full attention": "ours_full",
    "HF-Torch, full attention": "torch",
}
MEMORY_FRACTION = 0.85  # of the machine's memory, above which a process fails


class Job(NamedTuple):
    """The measurement of one process: a prompt of `length` tokens, and `new` tokens after it."""

    peer: str
    layers: int
    width: int
    length: int
    new: int
    runs: int


def config(job: Job, attention_type: str):
    """Returns the configuration that all peers use."""
    from transformers import BigBirdConfig

    return BigBirdConfig(
        num_hidden_layers=job.layers,
        hidden_size=job.width,
        num_attention_heads=HEADS,
        intermediate_size=4 * job.width,
        max_position_embeddings=job.length + job.new,
        attention_type=attention_type,
        is_decoder=True,
    )


def prompt(job: Job):
    """Returns random ids."""
    import numpy as np

    return np.random.default_rng(0).integers(100, VOCABULARY, (1, job.length))


def run_ours(job: Job):
    """Returns a function that calls `generate`."""
    import jax

    from flax_bigbird import FlaxBigBirdForCausalLM

    attention_type = "original_full" if job.peer == "ours_full" else "block_sparse"
    model = FlaxBigBirdForCausalLM(config(job, attention_type))
    ids = prompt(job).astype("int32")

    def step():
        out = model.generate(ids, max_new_tokens=job.new, eos_token_id=None)
        jax.block_until_ready(out.sequences)
        assert out.sequences.shape == (1, job.length + job.new)

    return step


def run_torch(job: Job):
    """Returns a function that calls PyTorch's `generate`, with its key-value cache."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers

    transformers.logging.set_verbosity_error()
    model = transformers.BigBirdForCausalLM(config(job, "original_full")).eval()
    ids = torch.tensor(prompt(job))

    def step():
        with torch.no_grad():
            out = model.generate(
                ids, max_new_tokens=job.new, do_sample=False, eos_token_id=None, use_cache=True
            )
        assert out.shape == (1, job.length + job.new)

    return step


def rates() -> dict[str, float]:
    """Returns the FLOP/s of a float32 matmul and the bytes/s of reading 256 MB, the best of 20."""
    import jax
    import jax.numpy as jnp

    out = {}
    x = jax.random.normal(jax.random.PRNGKey(0), (2048, 2048))
    many = jnp.ones((2**13, 2**13))
    one = jnp.ones(2**13)
    for name, amount, argument, other in (
        ("flop_per_s", 2 * 2048**3, x, x),
        ("bytes_per_s", many.nbytes, many, one),
    ):
        run = jax.jit(jnp.dot).lower(argument, other).compile()
        times = []
        for _ in range(20):
            start = time.perf_counter()
            run(argument, other).block_until_ready()
            times.append(time.perf_counter() - start)
        out[name] = amount / min(times)
    return out


def floor_seconds(job: Job, rate: dict[str, float]) -> float:
    """Returns the time of the prompt's matmuls, and of reading every weight once per token."""
    weights = 12 * job.layers * job.width**2
    pairs = 2.5 * BLOCK * job.length  # block 0, the previous block, and half of the own block
    prefill = 2 * job.length * weights + 4 * job.layers * pairs * job.width
    table = VOCABULARY * job.width
    cache = job.layers * 2 * 3 * BLOCK * job.width
    streamed = 4 * (job.new * (weights + table + cache) - weights - cache)
    return prefill / rate["flop_per_s"] + streamed / rate["bytes_per_s"]


def worker(job: Job) -> None:
    """Measures one peer at one size in this process."""
    if job.peer == "rates":
        print(json.dumps(rates()))
        return
    if job.peer == "torch":
        # Its scores are [heads, T, T]: an error is better than running out of memory.
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit = int(MEMORY_FRACTION * total)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    step = run_torch(job) if job.peer == "torch" else run_ours(job)
    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    times = []
    for _ in range(job.runs):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    peak = memory_kib() / 2**20
    print(json.dumps({"times_s": times, "first_s": first, "peak_gib": peak}))


def start(job: Job) -> dict:
    """Runs a worker process; returns the last line of its output, or its failure."""
    command = [sys.executable, __file__, "--worker", *map(str, job)]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["killed"])[-1]
        return {"failed": f"exit {done.returncode}: {last[:80]}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def sizes(arguments: argparse.Namespace) -> list[tuple[int, int]]:
    """Returns the lengths of prompt and continuation: the generation, then the prompts alone."""
    prompts = [(length, 1) for length in arguments.prompts]
    return [(arguments.length, arguments.new), *prompts]


def measure(arguments: argparse.Namespace) -> dict:
    """Measures all peers at all sizes, `--rounds` times in turn."""
    rounds, cells = [], {}
    for round_ in range(arguments.rounds):
        rounds.append(start(Job("rates", 0, 0, 0, 0, 0)))
        for length, new in sizes(arguments):
            for name, peer in PEERS.items():
                cell = cells.setdefault(f"{name}:{length}:{new}", {"times_s": []})
                if "failed" in cell or f"{name}:{length}" in arguments.skip:
                    continue
                print(f"round {round_ + 1}: {name}, {length} + {new}", file=sys.stderr)
                job = Job(peer, arguments.layers, arguments.width, length, new, arguments.runs)
                result = start(job)
                cell["times_s"] += result.pop("times_s", [])
                cell |= result
    return {
        "layers": arguments.layers,
        "width": arguments.width,
        "sizes": sizes(arguments),
        "rates": {key: max(x[key] for x in rounds) for key in rounds[0]},
        "machine": machine(),
        "command": " ".join(["python", "benchmarks/generation.py", *sys.argv[1:]]),
        "cells": cells,
    }


def table(result: dict) -> str:
    """Returns the results as a Markdown table."""
    machine, rate = result["machine"], result["rates"]
    lines = [
        f"# Greedy generation: {result['layers']} layers, {result['width']} wide, float32, batch 1",
        "",
        f"{machine['processor']}, {machine['cores']} cores; 2048 x 2048 matmul: "
        f"{rate['flop_per_s'] / 1e9:.0f} GFLOP/s, reading: {rate['bytes_per_s'] / 1e9:.0f} GB/s. "
        f"`{result['command']}`",
        "",
        "| prompt + new | | time (s) | over ours | over the floor | peak (GiB) | first call (s) |",
        "|---|---|---|---|---|---|---|",
    ]
    for length, new in result["sizes"]:
        job = Job("", result["layers"], result["width"], length, new, 0)
        floor = floor_seconds(job, rate)
        cells = {name: result["cells"].get(f"{name}:{length}:{new}", {}) for name in PEERS}
        ours = statistics.median(cells["flax-bigbird"]["times_s"])
        lines.append(f"| {length} + {new} | floor | {floor:.3f} | {floor / ours:.2f} | 1.00 | | |")
        for name, cell in cells.items():
            if cell.get("failed"):
                lines.append(f"| | {name} | {cell['failed']} | | | | |")
            elif cell.get("times_s"):
                median = statistics.median(cell["times_s"])
                lines.append(
                    f"| | {name} | {median:.3f} | {median / ours:.2f} | {median / floor:.2f} "
                    f"| {cell['peak_gib']:.2f} | {cell['first_s']:.1f} |"
                )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=4096, help="tokens of the prompt")
    parser.add_argument("--new", type=int, default=128, help="tokens to generate")
    parser.add_argument("--prompts", type=int, nargs="*", default=[1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3, help="processes per peer and size")
    parser.add_argument("--runs", type=int, default=3, help="timed runs per process")
    parser.add_argument("--skip", nargs="*", default=[], metavar="PEER:T")
    parser.add_argument("--quick", action="store_true", help="run a tiny model and write nothing")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--worker", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(Job(arguments.worker[0], *map(int, arguments.worker[1:])))
        return
    if arguments.quick:
        arguments.length, arguments.new, arguments.prompts = 256, 8, [128]
        arguments.layers, arguments.width, arguments.rounds, arguments.runs = 1, 96, 1, 2
    result = measure(arguments)
    if not arguments.quick:
        stem = arguments.output / "generation_cpu"
        write_results(stem, result, table(result))
    print(table(result))


if __name__ == "__main__":
    main()
