"""Held-out masked-token loss of one model under each `random_attention`, in evaluation.

Trains a small masked-language model on State of the Union addresses: short windows first, then
4,096-token windows once under each of "google" (how the published checkpoints were trained) and
"fixed". Both are then evaluated under every rule, and with no random blocks at all, on the same
windows with the same pieces masked. Stages that were finished are read back from `--folder`.
"""

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from model import processor

from flax_bigbird import FlaxBigBirdForMaskedLM
from flax_bigbird._hf import bigbird_config_class
from flax_bigbird.cli.demo import data, vocabulary
from flax_bigbird.cli.demo.windows import SpecialIds
from flax_bigbird.train.losses import IGNORED, cross_entropy, gather_targets

PIECES, WIDTH, LAYERS, HEADS, BLOCK, RANDOM = 4000, 192, 3, 3, 16, 3
LENGTH, MASKED = 4096, 0.15
TRAINED = ("google", "fixed")
EVALUATED = ("hf", "google", "fixed", "none")
NAMES = {
    "hf": '"hf": block 0, 1 + R times',
    "google": '"google"',
    "fixed": '"fixed"',
    "none": "no random blocks",
}
RESULTS = Path(__file__).parent / "results"


class Stage(NamedTuple):
    """`steps` of `batch` windows of `length` tokens."""

    name: str
    length: int
    batch: int
    steps: int
    rate: float


def stages(scale: float) -> tuple[Stage, Stage, Stage]:
    """Short windows (full attention), longer ones, and whole tables of positions."""
    return (
        Stage("short", 128, 64, round(scale * 1600), 1e-3),
        Stage("middle", 512, 16, round(scale * 300), 5e-4),
        Stage("long", LENGTH, 2, round(scale * 150), 3e-4),
    )


def configuration(rule: str):
    """The model's, with its random blocks by `rule`; "none" has no random blocks."""
    return bigbird_config_class()(
        vocab_size=PIECES,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=LENGTH,
        block_size=BLOCK,
        num_random_blocks=0 if rule == "none" else RANDOM,
        random_attention="hf" if rule == "none" else rule,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        type_vocab_size=1,
        pad_token_id=0,
        sep_token_id=5,
    )


def masked(ids: np.ndarray, special: SpecialIds, generator: np.random.Generator):
    """(ids, labels): 15% are targets, of which 80% become [MASK] and 10% any piece."""
    eligible = ~np.isin(ids, [special.pad, special.cls, special.sep])
    target = eligible & (generator.random(ids.shape) < MASKED)
    kind = generator.random(ids.shape)
    anything = generator.integers(special.mask + 1, PIECES, ids.shape)
    seen = np.where(target & (kind < 0.8), special.mask, ids)
    seen = np.where(target & (kind >= 0.9), anything, seen)
    return seen.astype(np.int32), np.where(target, ids, IGNORED).astype(np.int32)


def frame(pieces: np.ndarray, special: SpecialIds) -> np.ndarray:
    """[CLS] pieces [SEP]."""
    return np.concatenate([[special.cls], pieces, [special.sep]])


def batches(documents: list[np.ndarray], stage: Stage, special: SpecialIds) -> Iterator[tuple]:
    """(ids, labels, positions), each `[batch, length]`: windows chosen by length of document.

    Positions start anywhere in the table, so that short windows train all of it.
    """
    generator = np.random.default_rng(stage.length)
    room = stage.length - 2
    long = [pieces for pieces in documents if len(pieces) >= room]
    weight = np.array([len(pieces) - room + 1 for pieces in long], float)
    while True:
        chosen = generator.choice(len(long), stage.batch, p=weight / weight.sum())
        rows = []
        for index in chosen:
            start = int(generator.integers(0, len(long[index]) - room + 1))
            rows.append(frame(long[index][start : start + room], special))
        ids, labels = masked(np.stack(rows), special, generator)
        first = generator.integers(0, LENGTH - stage.length + 1, (stage.batch, 1))
        yield ids, labels, (first + np.arange(stage.length)).astype(np.int32)


def train(params: Any, rule: str, stage: Stage, documents: list[np.ndarray], special: SpecialIds):
    """Parameters after `stage`, with random blocks by `rule`."""
    model = FlaxBigBirdForMaskedLM(configuration(rule), _do_init=False)
    limit = round(1.35 * MASKED * stage.length)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, stage.rate, max(1, stage.steps // 20), max(2, stage.steps), stage.rate / 20
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.01)
    )

    @jax.jit
    def step(params, state, ids, labels, positions):
        def loss(params):
            targets = gather_targets(labels, limit)
            out = model(
                ids,
                position_ids=positions,
                params=params,
                train=True,
                logits_positions=targets.positions,
            )
            return cross_entropy(out.logits, targets.labels)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state, started, recent = optimizer.init(params), time.perf_counter(), []
    feed = batches(documents, stage, special)
    for number, batch in zip(range(1, stage.steps + 1), feed, strict=False):
        params, state, value = step(params, state, *batch)
        recent.append(float(value))
        if number % 50 == 0 or number == stage.steps:
            mean, rate = np.mean(recent[-50:]), number * stage.batch * stage.length
            rate /= time.perf_counter() - started
            print(
                f"{stage.name}, {rule}: step {number}, {mean / math.log(2):.3f} bits, "
                f"{rate:.0f} tokens/s",
                flush=True,
            )
    return params


def windows(documents: list[np.ndarray], special: SpecialIds) -> np.ndarray:
    """[windows, LENGTH]: the held-out documents cut into whole windows that do not overlap."""
    room = LENGTH - 2
    return np.stack(
        [
            frame(pieces[at : at + room], special)
            for pieces in documents
            for at in range(0, len(pieces) - room + 1, room)
        ]
    )


def evaluate(params: Any, rule: str, rows: np.ndarray, special: SpecialIds, draws: int):
    """[windows]: bits per masked piece, the mean over `draws` choices of the masked pieces."""
    model = FlaxBigBirdForMaskedLM(configuration(rule), _do_init=False)
    limit = round(1.35 * MASKED * LENGTH)

    @jax.jit
    def loss(ids, labels):
        targets = gather_targets(labels, limit)
        out = model(ids, params=params, logits_positions=targets.positions)
        return cross_entropy(out.logits, targets.labels)

    generator, found = np.random.default_rng(0), []
    for _ in range(draws):
        ids, labels = masked(rows, special, generator)
        found.append([float(loss(i[None], t[None])) for i, t in zip(ids, labels, strict=True)])
    return np.mean(found, 0) / math.log(2)


def unigram_bits(
    training: list[np.ndarray], rows: np.ndarray, special: SpecialIds, draws: int
) -> float:
    """Bits per masked piece of guessing by the pieces' frequencies in the training documents."""
    counts = np.bincount(np.concatenate(training), minlength=PIECES) + 1.0
    bits = -np.log2(counts / counts.sum())
    generator = np.random.default_rng(0)
    labels = np.concatenate([masked(rows, special, generator)[1].ravel() for _ in range(draws)])
    return float(bits[labels[labels != IGNORED]].mean())


def corpus(folder: Path) -> tuple[list[np.ndarray], list[np.ndarray], SpecialIds]:
    """(training, held out) documents as pieces; the demo's split by years."""
    training, held_out = data.split(data.load_speeches())
    model_file = vocabulary.train_vocabulary([s.text for s in training], PIECES)
    tokenizer = vocabulary.save_vocabulary(model_file, folder, LENGTH)

    def encoded(speeches):
        return [np.array(vocabulary.encode(tokenizer, s.text), np.int32) for s in speeches]

    return encoded(training), encoded(held_out), SpecialIds.of(tokenizer)


def stored(folder: Path, name: str, shapes: Any, make):
    """The parameters under `name`, made by `make()` unless an earlier run has left them."""
    path = folder / f"{name}.npz"
    leaves, tree = jax.tree.flatten(shapes)
    if path.exists():
        with np.load(path) as file:
            return jax.tree.unflatten(tree, [jnp.asarray(file[f"{i}"]) for i in range(len(leaves))])
    params = make()
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **{f"{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(params))})
    os.replace(partial, path)
    return params


def measure(arguments: argparse.Namespace) -> dict:
    """Trains what is not trained yet, and evaluates."""
    folder = Path(arguments.folder)
    folder.mkdir(parents=True, exist_ok=True)
    training, held_out, special = corpus(folder)
    short, middle, long = stages(arguments.scale)
    start = FlaxBigBirdForMaskedLM(configuration("fixed"), seed=0).params
    params = stored(folder, "short", start, lambda: train(start, "fixed", short, training, special))
    common = stored(
        folder, "middle", start, lambda: train(params, "fixed", middle, training, special)
    )
    rows = windows(held_out, special)
    print(f"{len(rows)} held-out windows of {LENGTH} tokens", flush=True)
    cells: dict[str, dict[str, list[float]]] = {}
    for rule in TRAINED:

        def continued(rule: str = rule):
            return train(common, rule, long, training, special)

        trained = stored(folder, f"long-{rule}", start, continued)
        cells[rule] = {
            other: evaluate(trained, other, rows, special, arguments.draws).tolist()
            for other in EVALUATED
        }
    return {
        "stages": [stage._asdict() for stage in (short, middle, long)],
        "training_tokens": int(sum(map(len, training))),
        "windows": len(rows),
        "draws": arguments.draws,
        "unigram_bits": unigram_bits(training, rows, special, arguments.draws),
        "cells": cells,
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "command": f"python benchmarks/random_attention.py --scale {arguments.scale:g}",
    }


def table(found: dict) -> str:
    """The result as Markdown."""
    seen = sum(stage["steps"] * stage["batch"] * stage["length"] for stage in found["stages"])
    lines = [
        "# Random blocks in evaluation: held-out masked-token loss",
        "",
        f"A masked-language model of {LAYERS} layers, {WIDTH} wide, blocks of {BLOCK}, {RANDOM} "
        f"random, trained on {seen / 1e6:.1f}M tokens of State of the Union addresses (a corpus of "
        f"{found['training_tokens'] / 1e6:.1f}M), the last {found['stages'][2]['steps']} steps on "
        f"windows of {LENGTH}. {found['windows']} held-out windows of {LENGTH} tokens, "
        f"{found['draws']} choices of the masked pieces; `{found['command']}`.",
        "",
        "Bits per masked piece; behind it the difference to no random blocks on the same windows "
        f"and pieces, with its standard error. Guessing by frequency: {found['unigram_bits']:.2f}.",
        "",
        "| in evaluation | " + " | ".join(f'trained under "{rule}"' for rule in TRAINED) + " |",
        "|---|" + "---|" * len(TRAINED),
    ]
    for rule in EVALUATED:
        cells = []
        for trained in TRAINED:
            values = np.array(found["cells"][trained][rule])
            cell = f"{values.mean():.3f}"
            if rule != "none":
                apart = values - np.array(found["cells"][trained]["none"])
                error = apart.std(ddof=1) / math.sqrt(len(apart))
                cell += f" ({apart.mean():+.3f} ± {error:.3f})"
            cells.append(cell)
        lines.append(f"| {NAMES[rule]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default="random_attention_run", help="trained stages")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of steps")
    parser.add_argument("--draws", type=int, default=3, help="choices of the masked pieces")
    arguments = parser.parse_args()
    found = measure(arguments)
    text = table(found)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "random_attention.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "random_attention.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
