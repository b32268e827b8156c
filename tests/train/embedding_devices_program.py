"""`python embedding_devices_program.py FOLDER DATA`: trains, and prints losses and metrics."""

import json
import sys
from pathlib import Path

import jax
from tiny_runs import TINY_MODEL, tiny_run_options

from flax_bigbird.train import train

if __name__ == "__main__":
    folder, data = sys.argv[1:]
    options = tiny_run_options(
        Path(folder),
        "embedding",
        train_files=[data],
        config_overrides=TINY_MODEL | {"initializer_range": 0.3},
        vocab_size=100,
        max_length=32,
        tokens_per_batch=1536,
        mini_batch_size=4,
        max_steps=4,
        eval_steps=4,
        save_steps=100,
    )
    report = train(options)
    kept = {name: report[name] for name in ("losses", "metrics", "tokens")}
    print(json.dumps(kept | {"devices": jax.device_count()}))
