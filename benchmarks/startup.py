"""Measures startup: imports, the help of the command, and compilation.

Each figure is the median over new processes. "cached" means that an earlier process has filled
JAX's persistent compilation cache, which the `bigbird` command uses.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import processor

MODEL = """
import os, time
start = time.perf_counter()
import jax, jax.numpy as jnp
import flax_bigbird
from flax_bigbird.nn.losses import cross_entropy, gather_targets
from transformers import BigBirdConfig
import optax
jax.config.update("jax_compilation_cache_dir", os.environ.get("CACHE") or None)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
config = BigBirdConfig(num_hidden_layers={layers})
model = flax_bigbird.FlaxBigBirdForMaskedLM(config, _do_init=False)
shapes = model.params_shape_tree
ids = jax.ShapeDtypeStruct((1, 4096), jnp.int32)
start = time.perf_counter()
if "{measured}" == "forward":
    jax.jit(lambda p, i, m: model(i, m, params=p).logits).lower(shapes, ids, ids).compile()
elif "{measured}" == "init":
    jax.block_until_ready(model.init_weights(jax.random.key(0), (1, 768)))
else:
    optimizer = optax.adamw(1e-4)
    state = jax.eval_shape(optimizer.init, shapes)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def step(params, state, ids, mask, labels, key):
        def loss(params):
            targets = gather_targets(labels, 740)
            out = model(ids, mask, params=params, dropout_rng=key, train=True,
                        logits_positions=targets.positions)
            return cross_entropy(out.logits, targets.labels)

        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    jax.jit(step).lower(shapes, state, ids, ids, ids, key).compile()
print(time.perf_counter() - start)
"""
HELP = "import sys; sys.argv = ['bigbird', '--help']; from flax_bigbird.cli.main import run; run()"
PROCESSES = {
    "an empty process": "pass",
    "`import jax, flax.linen`": "import jax, flax.linen",
    "`import flax_bigbird`": "import flax_bigbird",
    "`from flax_bigbird import FlaxBigBirdModel`": "from flax_bigbird import FlaxBigBirdModel",
    "`bigbird --help`": HELP,
}
COMPILED = {
    "forward, T=4096": "forward",
    "training step, T=4096": "train",
    "random parameters": "init",
}


def run(code: str, cache: str = "") -> tuple[float, str]:
    """Returns the seconds that the process took, and the last line of its output."""
    environment = os.environ | {"CACHE": cache, "TF_CPP_MIN_LOG_LEVEL": "3"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return time.perf_counter() - start, (done.stdout.strip().splitlines() or [""])[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    rounds = range(arguments.rounds)
    command = " ".join(["python", "benchmarks/startup.py", *sys.argv[1:]])
    lines = [
        "# Start-up",
        "",
        f"{processor()}, {os.cpu_count()} cores. `{command}`",
        "",
        "| process | seconds |",
        "|---|---|",
    ]
    for name, code in PROCESSES.items():
        run(code)  # loads the files into the file system's cache
        lines.append(f"| {name} | {statistics.median(run(code)[0] for _ in rounds):.2f} |")
    lines += [
        "",
        f"| tracing and compiling, {arguments.layers} layers, base width | cold (s) | cached (s) |",
        "|---|---|---|",
    ]
    for name, measured in COMPILED.items():
        code = MODEL.replace("{layers}", str(arguments.layers)).replace("{measured}", measured)
        cold = statistics.median(float(run(code)[1]) for _ in rounds)
        with tempfile.TemporaryDirectory() as cache:
            run(code, cache)
            warm = statistics.median(float(run(code, cache)[1]) for _ in rounds)
        lines.append(f"| {name} | {cold:.1f} | {warm:.1f} |")
    text = "\n".join(lines) + "\n"
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "startup_cpu.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
