"""`python meshes_program.py FOLDER DATA MESH...`: trains on meshes, and compares with one device.

It prints a JSON line per mesh: the largest differences of losses, of parameters after three
steps, and of the outputs of an evaluation, relative for values above 1.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from tiny_runs import TINY_MODEL, tiny_run_options

from flax_bigbird.parallel.mesh import create_mesh
from flax_bigbird.parallel.processes import to_host
from flax_bigbird.train.callbacks import TrainerCallback
from flax_bigbird.train.optimizer import create_optimizer
from flax_bigbird.train.run_directory import open_run_directory
from flax_bigbird.train.setup import prepare_run
from flax_bigbird.train.steps import TrainingSteps

OPTIMIZERS = {
    "adamw": {"adam_epsilon": 1e-3},  # a small one would magnify the rounding of gradients
    "muon": {
        "optim": "muon",
        "adam_epsilon": 1e-3,
        "layerwise_lr_decay": 0.5,
        "gradient_accumulation_steps": 2,
    },
}
NUM_STEPS = 3


def run_steps(run, params, mesh):
    """Returns the losses of some steps, the parameters, and the outputs of an evaluation."""
    optimizer = create_optimizer(run.options, NUM_STEPS)
    steps = TrainingSteps(run.task, run.model, optimizer, mesh, seed=0)
    params = steps.place_params(params)
    state = steps.init_optimizer(params)
    bucket = run.train_data.buckets[-1]
    losses = []
    for number in range(NUM_STEPS):
        rows, finish = steps.batch_sharding.batch_rows(3)
        generators = [np.random.default_rng([number, row]) for row in rows]
        examples = [run.train_data.rows[int(bucket.indices[3 * number + row])] for row in rows]
        collated = [
            run.task.collate(e, bucket.length, g) for e, g in zip(examples, generators, strict=True)
        ]
        (part,) = finish({name: np.stack([c[name] for c in collated]) for name in collated[0]})
        if run.options.gradient_accumulation_steps == 1:
            params, state, totals = steps.step(params, state, part, number)
        else:
            total = steps.add(
                steps.gradient(params, part, number, 0), steps.gradient(params, part, number, 1)
            )
            params, state, totals = steps.apply(params, state, total)
        losses.append([float(totals.loss) / float(totals.num_targets), int(totals.num_tokens)])
    rows, finish = steps.evaluation_sharding.batch_rows(3)
    outputs = steps.eval_step(params, [(finish({k: v[rows] for k, v in _batch(run).items()}))[0]])
    outputs = {name: np.asarray(value)[:3] for name, value in outputs.items()}
    return np.array(losses), to_host(params), outputs


def _batch(run):
    bucket = run.train_data.buckets[-1]
    collated = [
        run.task.collate(run.train_data.rows[int(i)], bucket.length, np.random.default_rng(int(i)))
        for i in bucket.indices[:3]
    ]
    return {name: np.stack([c[name] for c in collated]) for name in collated[0]}


def difference(got, want):
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max(
        float((np.abs(np.float64(a) - b) / np.maximum(1, np.abs(b))).max()) for a, b in pairs
    )


if __name__ == "__main__":
    folder, data, *meshes = sys.argv[1:]
    jax.config.update("jax_default_matmul_precision", "highest")
    runs = {}
    for name, changes in OPTIMIZERS.items():
        options = tiny_run_options(
            Path(folder) / name,
            "masked-lm",
            train_files=[data],
            validation_fraction=0,
            config_overrides=TINY_MODEL | {"num_attention_heads": 8, "hidden_dropout_prob": 0.1},
            vocab_size=120,
            max_length=128,
            min_bucket_length=128,
            tokens_per_batch=3 * 128,
            warmup_ratio=0.0,
            weight_decay=0.1,
            **changes,
        )
        run = prepare_run(options, open_run_directory(options), TrainerCallback())
        params = jax.tree.map(np.asarray, run.model.params)
        runs[name] = (run, params, run_steps(run, params, None))
    for line in meshes:
        optimizer, text, count = line.split(":")
        run, params, want = runs[optimizer]
        mesh = create_mesh(text, jax.devices()[: int(count)])
        got = run_steps(run, params, mesh)
        differences = [difference(a, b) for a, b in zip(got, want, strict=True)]
        print(json.dumps({"mesh": line, "differences": differences}), flush=True)
