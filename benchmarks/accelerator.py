"""Times attention and whole models on one GPU or TPU, beside the hardware's limits and the peers.

`python benchmarks/accelerator.py` measures everything that the machine supports. It prints the
limits first: the rate of a large bfloat16 matmul and the bandwidth of a copy, both measured. Each
PyTorch peer runs in a process of its own, with the Python of `--torch-python` if this one has no
PyTorch for the device. `--smoke` runs everything at toy sizes, on any device.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import model as base_model
import numpy as np
from report import write_results

HEADS, WIDTH, BLOCK, RANDOM, LAYERS = 12, 64, 64, 3, 12
ATTENTION = [(8, 4096), (2, 16384), (1, 65536)]  # examples, tokens
MAX_FULL_LENGTH = 16384  # tokens; longer full attention takes minutes
MODELS = [("bigbird", 4096, 8), ("modernbert", 8192, 4)]
SMOKE_ATTENTION, SMOKE_MODELS = [(1, 256)], [("bigbird", 768, 1), ("modernbert", 256, 1)]


def best(call: Callable[[], object], rounds: int = 5, min_seconds: float = 0.05) -> float:
    """Returns the seconds per call of the best round; a round takes at least `min_seconds`.

    A device runs calls in order, so that only the last of a round has to be waited for.
    """
    import jax

    jax.block_until_ready(call())
    start = time.perf_counter()
    jax.block_until_ready(call())
    calls = max(1, int(min_seconds / max(time.perf_counter() - start, 1e-6)))
    times = []
    for _ in range(rounds):
        result = None
        start = time.perf_counter()
        for _ in range(calls):
            result = call()
        jax.block_until_ready(result)
        times.append((time.perf_counter() - start) / calls)
    return min(times)


def floor(side: int) -> dict[str, float]:
    """Measures the FLOP/s of a bfloat16 matmul, and the bytes/s that a copy reads and writes."""
    import jax
    import jax.numpy as jnp

    x = jax.random.normal(jax.random.PRNGKey(0), (side, side), jnp.bfloat16)
    seconds = best(functools.partial(jax.jit(jnp.dot), x, x))
    y = jnp.zeros((side * side * 4,), jnp.float32)
    copied = best(functools.partial(jax.jit(lambda y: y + 1), y))
    return {"flops": 2 * side**3 / seconds, "bytes": 2 * y.nbytes / copied}


def attention_flops(pattern) -> float:
    """Returns the forward FLOPs per example: two matmuls for each pair of blocks that is read."""
    pairs = int((pattern.counts > 0).sum())
    pairs += pattern.global_rows.shape[1] * pattern.num_blocks * HEADS
    return 4.0 * pairs * BLOCK * BLOCK * WIDTH


def attention_cell(batch: int, length: int) -> dict:
    """Times the forward pass of each implementation, and the forward pass with gradients."""
    import jax
    import jax.numpy as jnp

    from flax_bigbird.attention import (
        available_full_implementations,
        available_implementations,
        bigbird_pattern,
        block_sparse_attention,
        full_attention,
        random_blocks,
    )

    rows = length // BLOCK
    pattern = bigbird_pattern(rows, BLOCK, random=random_blocks.fixed(rows, RANDOM, HEADS, 0))
    shape = (batch, length, HEADS, WIDTH)
    keys = jax.random.split(jax.random.PRNGKey(0), 4)
    q, k, v, d_out = (jax.random.normal(key, shape, jnp.bfloat16) for key in keys)
    peers: dict[str, Callable] = {
        name: functools.partial(block_sparse_attention, pattern=pattern, implementation=name)
        for name, reason in available_implementations().items()
        if not reason and name != "reference"
    }
    if length <= MAX_FULL_LENGTH:
        full = [name for name, why in available_full_implementations().items() if not why]
        peers[f"full attention ({full[0]})"] = full_attention
    if jax.default_backend() == "tpu":
        peers["splash attention, the same blocks"] = splash(pattern)
    cell: dict = {"batch": batch, "length": length, "flops": batch * attention_flops(pattern)}
    for name, attend in peers.items():

        def both(q, k, v, d_out, attend=attend):
            out, pull = jax.vjp(attend, q, k, v)
            return out, pull(d_out)

        try:
            cell[name] = {
                "forward": best(functools.partial(jax.jit(attend), q, k, v)),
                "both": best(functools.partial(jax.jit(both), q, k, v, d_out)),
            }
        except Exception as error:  # out of memory, or what a compiler cannot do
            cell[name] = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        print(json.dumps({name: cell[name]}), file=sys.stderr, flush=True)
    return cell


def splash(pattern) -> Callable:
    """Builds JAX's block-sparse attention for TPUs, which reads a block once however it counts."""
    import jax
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    rows, counts, blocks = pattern.num_blocks, pattern.counts, pattern.blocks
    read = np.zeros((HEADS, rows, rows), bool)
    for head, row in np.ndindex(HEADS, rows):
        read[head, row, blocks[0, head, row][counts[0, head, row] > 0]] = True
    read[:, np.asarray(pattern.global_rows[0])] = True
    masks = [library.NumpyMask(np.kron(of_head, np.ones((BLOCK, BLOCK), bool))) for of_head in read]
    kernel = library.make_splash_mha(
        mask=library.MultiHeadMask(masks), head_shards=1, q_seq_shards=1
    )

    def attend(q, k, v):
        q, k, v = (x.swapaxes(1, 2) for x in (q * WIDTH**-0.5, k, v))
        out = jax.vmap(kernel)(q, k, v)  # a pair only if residuals are saved
        return out.swapaxes(1, 2)  # pyright: ignore[reportAttributeAccessIssue]

    return attend


def ours(mode: str, batch: int, length: int, layers: int) -> float:
    """Times a step of the base model: bfloat16, float32 parameters, donated buffers."""
    import jax
    import jax.numpy as jnp
    import optax

    import flax_bigbird
    from flax_bigbird.nn.losses import cross_entropy, gather_targets

    job = base_model.Job("ours", mode, layers, batch, length, 1)
    ids, mask, labels = (jnp.asarray(x) for x in base_model.inputs(job))
    name = "FlaxBigBirdModel" if mode == "forward" else "FlaxBigBirdForMaskedLM"
    model = getattr(flax_bigbird, name)(base_model.config(job), dtype=jnp.bfloat16)
    if mode == "forward":
        step = jax.jit(lambda params, ids, mask: model(ids, mask, params=params).last_hidden_state)
        return best(functools.partial(step, model.params, ids, mask))
    optimizer = optax.adamw(1e-4)
    targets = gather_targets(labels, base_model.num_targets(job))

    def loss_of(params, key):
        logits = model(
            ids,
            mask,
            params=params,
            dropout_rng=key,
            train=True,
            logits_positions=targets.positions,
        ).logits
        return cross_entropy(logits, targets.labels)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train(params, state, key):
        loss, gradients = jax.value_and_grad(loss_of)(params, key)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    state = [model.params, optimizer.init(model.params)]

    def call():
        *state[:], loss = train(*state, jax.random.PRNGKey(0))
        return loss

    return best(call)


def torch_peer(name: str, mode: str, batch: int, length: int, layers: int) -> dict:
    """Times a step of HF-Torch in bfloat16, compiled if possible, with its fastest attention.

    It uses autocast where that works, and otherwise parameters in bfloat16, which is less work.
    """
    import torch  # pyright: ignore[reportMissingImports]
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    job = base_model.Job("torch", mode, layers, batch, length, 1)
    if name == "bigbird":
        kind = transformers.BigBirdModel if mode == "forward" else transformers.BigBirdForMaskedLM
        network = kind(base_model.config(job))
    else:
        config = transformers.ModernBertConfig(
            num_hidden_layers=layers if layers < LAYERS else 22, max_position_embeddings=length
        )
        network = None
        for attention in ("flash_attention_2", "sdpa"):
            try:
                network = transformers.ModernBertModel._from_config(
                    config, attn_implementation=attention
                )
                break
            except (ImportError, ValueError) as error:
                print(f"{attention}: {error}", file=sys.stderr)
        assert network is not None
    network = network.to(device)  # pyright: ignore[reportArgumentType]
    ids, mask, labels = (
        torch.tensor(np.minimum(x, 50000), device=device) for x in base_model.inputs(job)
    )
    network = network.eval() if mode == "forward" else network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=device == "cuda")

    def step(call, autocast):
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            if mode == "forward":
                with torch.no_grad():
                    call(ids, attention_mask=mask)
                return
            loss = call(ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    failures = []
    # BigBird's sparse attention fails under autocast in some releases.
    for autocast in (True, False):
        if not autocast:
            network.to(torch.bfloat16)
        for is_compiled in (True, False):
            torch.compiler.reset()
            call = torch.compile(network) if is_compiled else network
            try:
                step(call, autocast)
            except Exception as error:
                failures.append(f"{type(error).__name__}: {error}".splitlines()[0][:120])
                continue
            times = []
            for _ in range(7):
                wait()
                start = time.perf_counter()
                step(call, autocast)
                wait()
                times.append(time.perf_counter() - start)
            return {
                "s": min(times[2:]),
                "compiled": is_compiled,
                "autocast": autocast,
                "failures": failures,
            }
    raise RuntimeError("; ".join(failures))


def in_process(python: str, *arguments: object) -> dict:
    """Measures a figure in a process of its own, so that its memory is freed afterwards."""
    command = [python, __file__, "--worker", *map(str, arguments)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["killed"])[-1]
        return {"failed": f"exit {done.returncode}: {last[:200]}"}
    result = json.loads(done.stdout.strip().splitlines()[-1])
    print(json.dumps({" ".join(map(str, arguments)): result}), file=sys.stderr, flush=True)
    return result


def models(sizes, layers: int, torch_python: str) -> list[dict]:
    """Times the forward pass of each model, and the training step of the base model."""
    cells = []
    for name, length, batch in sizes:
        for mode in ("forward", "train") if name == "bigbird" else ("forward",):
            size = (mode, batch, length, layers)
            cells.append(
                {
                    "peer": name,
                    "mode": mode,
                    "batch": batch,
                    "length": length,
                    "flops": base_model.flops(mode, layers, batch, length),
                    "ours": in_process(sys.executable, "ours", *size),
                    "torch": in_process(torch_python, name, *size),
                }
            )
    return cells


def table(result: dict) -> str:
    """Formats the Markdown page."""
    peak = result["floor"]["flops"]
    lines = [
        f"# {result['device']}: bfloat16, {HEADS} heads of {WIDTH}, blocks of {BLOCK}",
        "",
        f"JAX {result['jax']}. `{result['command']}`",
        "",
        f"Floor: matmul {peak / 1e12:.3g} TFLOP/s, copy {result['floor']['bytes'] / 1e9:.4g} GB/s.",
        "",
        "| attention | B x T | forward (ms) | of peak | forward + backward (ms) | of peak |",
        "|---|---|---|---|---|---|",
    ]
    for cell in result["attention"]:
        for name, times in cell.items():
            if not isinstance(times, dict):
                continue
            size = f"{cell['batch']} x {cell['length']}"
            if "failed" in times:
                lines.append(f"| {name} | {size} | {times['failed']} | | | |")
                continue
            work = cell["flops"]
            utilization = ["", ""]
            if not name.startswith("full"):
                utilization = [
                    f"{n * work / times[x] / peak:.1%}" for x, n in (("forward", 1), ("both", 3.5))
                ]
            lines.append(
                f"| {name} | {size} | {times['forward'] * 1e3:.3f} | {utilization[0]} "
                f"| {times['both'] * 1e3:.3f} | {utilization[1]} |"
            )
    lines += [
        "",
        "Utilization counts the FLOPs of the blocks that are read, and 2.5 times the forward FLOPs "
        "for the backward pass.",
        "",
        "| model | B x T | flax-bigbird, tokens/s | of the peak | peer, tokens/s | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for cell in result["models"]:
        tokens = cell["batch"] * cell["length"]
        rates = [tokens / x["s"] if "s" in x else None for x in (cell["ours"], cell["torch"])]
        shown = [
            f"{rate:,.0f}" if rate else x["failed"]
            for rate, x in zip(rates, (cell["ours"], cell["torch"]), strict=True)
        ]
        used = f"{cell['flops'] / cell['ours']['s'] / peak:.1%}" if rates[0] else ""
        compiled = "" if cell["torch"].get("compiled", True) else " (does not compile)"
        compiled += "" if cell["torch"].get("autocast", True) else " (autocast fails)"
        ratio = f"{rates[0] / rates[1]:.2f}" if rates[0] and rates[1] else ""
        lines.append(
            f"| {cell['mode']}, beside HF-Torch {cell['peer']}{compiled} "
            f"| {cell['batch']} x {cell['length']} | {shown[0]} | {used} | {shown[1]} | {ratio} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--smoke", action="store_true", help="toy sizes, on any device")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        name, mode, *sizes = arguments.worker
        size = mode, *map(int, sizes)
        result = {"s": ours(*size)} if name == "ours" else torch_peer(name, *size)
        print(json.dumps(result))
        return
    import jax

    device = jax.devices()[0]
    if device.platform == "cpu" and not arguments.smoke:
        parser.error("JAX sees no GPU and no TPU: install jax[cuda13] or jax[tpu], or use --smoke")
    measured = floor(256 if arguments.smoke else 8192)
    print(f"floor: {json.dumps(measured)}", flush=True)
    cells = [attention_cell(*size) for size in (SMOKE_ATTENTION if arguments.smoke else ATTENTION)]
    layers = 1 if arguments.smoke else LAYERS
    result = {
        "device": device.device_kind,
        "jax": jax.__version__,
        "command": " ".join(["python", "benchmarks/accelerator.py", *sys.argv[1:]]),
        "floor": measured,
        "attention": cells,
        "models": models(
            SMOKE_MODELS if arguments.smoke else MODELS, layers, arguments.torch_python
        ),
    }
    print(table(result))
    if not arguments.smoke:
        stem = arguments.output / f"accelerator_{device.platform}"
        write_results(stem, result, table(result))


if __name__ == "__main__":
    main()
