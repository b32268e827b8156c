"""Times attention alone, forward and backward: the native kernel, plain JAX and FlexAttention.

Everything runs in one process, in turn, round after round, so that other load affects all alike.
A figure is the best of the rounds. The matmul rate is measured between them.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from report import processor, write_results

from flax_bigbird.attention import (
    BlockPattern,
    bigbird_pattern,
    block_sparse_attention,
    random_blocks,
)
from flax_bigbird.attention.backends import cpu

HEADS, WIDTH, BLOCK, RANDOM = 12, 64, 64, 3


def pattern_of(length: int) -> BlockPattern:
    """Builds a pattern in which no block counts twice, because FlexAttention cannot do that."""
    rows = length // BLOCK
    random = random_blocks.fixed(rows, RANDOM, HEADS, 0)
    return bigbird_pattern(rows, BLOCK, random=random)


def flops(pattern: BlockPattern) -> float:
    """Returns the FLOPs of the forward pass: two matmuls for each pair of blocks that is read."""
    pairs = int((pattern.counts > 0).sum())
    pairs += pattern.global_rows.shape[1] * pattern.num_blocks * HEADS
    return 4.0 * pairs * BLOCK * BLOCK * WIDTH


def ours(pattern: BlockPattern, arrays, implementation: str) -> dict[str, Callable[[], None]]:
    """Compiles the forward pass, and the forward pass with gradients; the mask is an argument."""
    q, k, v, d_out = (jnp.asarray(x) for x in arrays)
    mask = jnp.ones(q.shape[:2], bool)

    def forward(q, k, v, mask):
        return block_sparse_attention(q, k, v, pattern, mask=mask, implementation=implementation)

    def both(q, k, v, mask, d_out):
        out, pull = jax.vjp(lambda q, k, v: forward(q, k, v, mask), q, k, v)
        return out, pull(d_out)

    compiled = jax.jit(forward).lower(q, k, v, mask).compile()
    compiled_both = jax.jit(both).lower(q, k, v, mask, d_out).compile()
    return {
        "forward": lambda: jax.block_until_ready(compiled(q, k, v, mask)),
        "both": lambda: jax.block_until_ready(compiled_both(q, k, v, mask, d_out)),
    }


def flex(pattern: BlockPattern, arrays) -> dict[str, Callable[[], None]]:
    """Compiles PyTorch's FlexAttention with the same blocks; its CPU kernel has no backward."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch.nn.attention.flex_attention import (  # pyright: ignore[reportMissingImports]
        BlockMask,
        flex_attention,
    )

    rows = pattern.num_blocks
    table = np.zeros((1, HEADS, rows, rows), bool)
    for head in range(HEADS):
        for row in range(rows):
            blocks, counts = pattern.blocks[0, head, row], pattern.counts[0, head, row]
            table[0, head, row, blocks[counts > 0]] = True
    table[:, :, np.asarray(pattern.global_rows[0])] = True
    read = torch.tensor(table)
    indices = torch.argsort(read.to(torch.int32), dim=-1, descending=True, stable=True)
    none = torch.zeros((1, HEADS, rows), dtype=torch.int32)
    mask = BlockMask.from_kv_blocks(
        none,
        torch.zeros_like(indices, dtype=torch.int32),
        read.sum(-1, dtype=torch.int32),
        indices.to(torch.int32),
        BLOCK_SIZE=BLOCK,
        compute_q_blocks=False,
    )
    q, k, v = (torch.tensor(x.transpose(0, 2, 1, 3)).contiguous() for x in arrays[:3])
    compiled = torch.compile(flex_attention)

    def forward():
        with torch.no_grad():
            return compiled(q, k, v, block_mask=mask)

    got = forward().numpy().transpose(0, 2, 1, 3)
    q, k, v = (jnp.asarray(x) for x in arrays[:3])
    want = np.asarray(block_sparse_attention(q, k, v, pattern))
    np.testing.assert_allclose(got, want, atol=1e-4)
    return {"forward": forward}


def matmul() -> Callable[[], None]:
    """Compiles a 2048 x 2048 float32 matmul in JAX."""
    x = jax.random.normal(jax.random.PRNGKey(0), (2048, 2048))
    product = jax.jit(jnp.dot).lower(x, x).compile()
    return lambda: jax.block_until_ready(product(x, x))


def measure(length: int, rounds: int, peers: list[str]) -> dict:
    """Measures the best wall-clock and processor time of each peer and pass."""
    pattern = pattern_of(length)
    rng = np.random.default_rng(0)
    shape = (1, length, HEADS, WIDTH)
    arrays = [rng.standard_normal(shape, np.float32) for _ in range(4)]
    calls = {("matmul", "forward"): matmul()}
    failed = {}
    for peer in peers:
        try:
            compiled = flex(pattern, arrays) if peer == "flex" else ours(pattern, arrays, peer)
        except Exception as error:
            failed[peer] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        calls |= {(peer, name): call for name, call in compiled.items()}
    best: dict[tuple[str, str], list[float]] = {}
    for round_ in range(rounds + 1):
        for key, call in calls.items():
            call()  # the host may have taken memory that was idle for a round
            wall, used = time.perf_counter(), time.process_time()
            call()
            wall, used = time.perf_counter() - wall, time.process_time() - used
            if round_:
                before = best.get(key, [math.inf, math.inf])
                best[key] = [min(wall, before[0]), min(used, before[1])]
        print(f"T={length}: round {round_} of {rounds}", file=sys.stderr, flush=True)
    times = {f"{peer}:{name}": pair for (peer, name), pair in best.items()}
    return {"length": length, "flops": flops(pattern), "wall_cpu_s": times, "failed": failed}


def table(result: dict) -> str:
    """Formats the Markdown table."""
    lines = [
        f"# Attention alone: {HEADS} heads of {WIDTH}, blocks of {BLOCK}, {RANDOM} random, float32",
        "",
        f"{result['processor']}, {result['cores']} cores; kernel: {result['instructions']}. "
        f"`{result['command']}`",
        "",
        "| T | | forward (ms) | relative to FlexAttention | relative to the matmul rate "
        "| backward / forward |",
        "|---|---|---|---|---|---|",
    ]
    for cell in result["lengths"]:
        times = {name: pair[0] for name, pair in cell["wall_cpu_s"].items()}
        rate = 2 * 2048**3 / times["matmul:forward"]
        for peer in ("cpu", "xla", "flex"):
            forward = times.get(f"{peer}:forward")
            if forward is None:
                continue
            both, flex_time = times.get(f"{peer}:both"), times.get("flex:forward")
            ratio = f"{forward / flex_time:.2f}" if flex_time else ""
            backward = f"{both / forward - 1:.2f}" if both else ""
            lines.append(
                f"| {cell['length']} | {peer} | {forward * 1e3:.0f} | {ratio} "
                f"| {cell['flops'] / forward / rate:.0%} | {backward} |"
            )
        lines.append(f"| | 2048 x 2048 matmul | {rate / 1e9:.0f} GFLOP/s | | 100% | |")
        lines += [f"| | {peer} | {why} | | | |" for peer, why in cell["failed"].items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 65536])
    parser.add_argument("--rounds", type=int, nargs="+", default=[20, 3], help="one per length")
    parser.add_argument("--peers", nargs="+", default=["cpu", "xla", "flex"])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    rounds = arguments.rounds + arguments.rounds[-1:] * len(arguments.lengths)
    result = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "instructions": next(iter(cpu.instruction_sets()), "none"),
        "command": " ".join(["python", "benchmarks/attention.py", *sys.argv[1:]]),
        "lengths": [
            measure(length, count, arguments.peers)
            for length, count in zip(arguments.lengths, rounds, strict=False)
        ],
    }
    stem = arguments.output / "attention_cpu"
    write_results(stem, result, table(result))
    print(table(result))


if __name__ == "__main__":
    main()
