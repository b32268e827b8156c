"""Measures bits per base of a small model on held-out stretches of a chromosome.

A new model (`examples/pretraining/new_model.py`) whose tokens are bases is trained on one stretch
of chromosome X, first at 512 tokens and then at 4,096. On stretches elsewhere on the chromosome,
15% of the 256 bases in the middle are masked, and the model predicts them from 512 and from 4,096
tokens. Beside it are interpolated Markov models that are trained on the same stretch (`markov.py`):
one that reads from left to right, and a mixture of models of both sides that sees the same masked
input.

    apt-get download smalt-examples && dpkg-deb -x smalt-examples_*.deb smalt
    python benchmarks/genomes.py smalt/usr/share/doc/smalt/test/data/hs37chrXtrunc.fa.gz

Rows of the table are written one by one, and those that are in the results are not repeated; nor
are finished training runs in --folder, and interrupted ones resume.
"""

import argparse
import functools
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from markov import TwoSidedMixture, bits, encode_bases, fit_left_to_right
from report import processor, write_results

from flax_bigbird import FlaxBigBirdForMaskedLM
from flax_bigbird.data.files import expand_paths, iterate_rows
from flax_bigbird.data.tokenization import load_tokenizer, tokenize
from flax_bigbird.data.vocabulary import prepare_vocabulary
from flax_bigbird.nn.losses import negative_log_likelihood
from flax_bigbird.train import train, train_options

sys.path.append(str(Path(__file__).parents[1] / "examples" / "pretraining"))
from new_model import new_model

RESULTS = Path(__file__).parent / "results"
TRAINING, HELD_OUT = (3_000_000, 11_000_000), (40_000_000, 55_000_000)
VALIDATION_FRACTION = 0.05  # the end of the training stretch; for the options of Markov models
LENGTHS = (512, 4096)
TARGET_ZONE, MASKED_FRACTION = 256, 0.15
LAYERS, WIDTH = 4, 128
QUICK = {"steps": [2, 1], "stretches": 3, "max_order": 3}


def load_rows(path: str, region: tuple[int, int]) -> list[dict[str, Any]]:
    """Returns the rows of a FASTA file of one record that start in a region."""
    kind, files = expand_paths([path])
    rows = []
    for row in iterate_rows(files, kind):
        if row["start"] >= region[1]:
            break
        if row["start"] >= region[0]:
            rows.append(row)
    return rows


def choose_stretches(rows: list[dict[str, Any]], count: int, seed: int) -> list[str]:
    """Returns random stretches of the longest length without N, none of which overlap."""
    room = LENGTHS[-1] - 2
    stretches = [
        row["text"][start : start + room]
        for row in rows
        for start in range(0, len(row["text"]) - room + 1, room)
    ]
    stretches = [stretch for stretch in stretches if "N" not in stretch]
    order = np.random.default_rng(seed).permutation(len(stretches))
    return [stretches[index] for index in order[:count]]


def choose_targets(num_stretches: int, seed: int) -> np.ndarray:
    """Returns the masked positions of each stretch, `[stretches, targets]`."""
    generator = np.random.default_rng(seed)
    first = (LENGTHS[-1] - 2 - TARGET_ZONE) // 2
    count = round(TARGET_ZONE * MASKED_FRACTION)
    choices = [generator.choice(TARGET_ZONE, count, replace=False) for _ in range(num_stretches)]
    return first + np.sort(choices)


def model_bits(folder: Path, stretches: list[str], targets: np.ndarray, length: int) -> np.ndarray:
    """Returns the bits of every masked base, `[stretches, targets]`.

    Args:
      folder: The folder of the model.
      stretches: The stretches.
      targets: The masked positions.
      length: The number of tokens around the middle of a stretch that the model reads.
    """
    model = FlaxBigBirdForMaskedLM.from_pretrained(folder)
    tokenizer: Any = load_tokenizer(folder)
    room = length - 2
    start = (LENGTHS[-1] - 2 - room) // 2

    @jax.jit
    def losses(params, ids, positions, labels):
        logits = model(ids, params=params, logits_positions=positions).logits
        return negative_log_likelihood(logits, labels) / math.log(2)

    result = []
    for tokens, places in zip(tokenize(tokenizer, stretches), targets, strict=True):
        ids = np.array(tokens, np.int32)
        labels = ids[places]
        ids[places] = tokenizer.mask_token_id
        row = [tokenizer.cls_token_id, *ids[start : start + room], tokenizer.sep_token_id]
        inputs = (np.array(row, np.int32), (places - start + 1).astype(np.int32), labels)
        result.append(losses(model.params, *(array[None] for array in inputs))[0])
    return np.array(result)


def train_models(rows: list[dict[str, Any]], folder: Path, steps: list[int], rate: float) -> float:
    """Trains a model at 512 tokens in `folder/short`, and continues at 4,096 in `folder/long`.

    Returns:
      The processor time in seconds, of runs that were not finished before.
    """
    path, start = folder / "train.fa", folder / "new"
    if not start.exists():
        path.write_text("".join(f">{row['start']}\n{row['text']}\n" for row in rows))
        vocabulary = folder / "vocabulary"
        vocabulary.mkdir(exist_ok=True)
        prepare_vocabulary("characters", (row["text"] for row in rows), 20)(vocabulary, LENGTHS[-1])
        new_model(str(vocabulary), start, LAYERS, WIDTH)
    begin = time.process_time()
    for name, length, count, tokens in zip(
        ("short", "long"), LENGTHS, steps, (2048, 4096), strict=True
    ):
        output = folder / name
        if not (output / "model.safetensors").exists():
            options = train_options(
                "masked-lm",
                train_files=[str(path)],
                validation_fraction=0,
                model=str(start),
                output_dir=str(output),
                max_length=length,
                min_bucket_length=length,
                tokens_per_batch=tokens,
                random_position_offset=name == "short",
                optim="muon",
                learning_rate=rate if name == "short" else rate / 4,
                warmup_ratio=0.05,
                adam_beta2=0.98,
                max_steps=count,
                save_steps=200,
            )
            train(options)
        start = output
    return time.process_time() - begin


def measurements(
    training: list[dict[str, Any]], stretches: list[str], targets: np.ndarray, arguments: Any
) -> dict[str, Callable[[], tuple[str, np.ndarray]]]:
    """Returns functions to the description and the bits, `[stretches, n]`, of each row by key."""
    codes = [encode_bases(stretch) for stretch in stretches]
    joined = encode_bases("N".join(row["text"] for row in training))
    order = arguments.max_order

    @functools.cache
    def left_to_right() -> Any:
        return fit_left_to_right(joined, order, VALIDATION_FRACTION)

    def frequencies() -> tuple[str, np.ndarray]:
        counts = np.bincount(joined, minlength=5)[:4]
        rows = [bits(np.tile(counts / counts.sum(), (len(c), 1)), c) for c in codes]
        return "frequencies of bases, all bases", np.array(rows)

    def left(places: np.ndarray | None, which: str) -> tuple[str, np.ndarray]:
        model = left_to_right()
        rows = []
        for index, stretch in enumerate(codes):
            at = np.arange(len(stretch)) if places is None else places[index]
            rows.append(bits(model.probabilities(stretch, at), stretch[at]))
        return f"Markov, {model.order} bases on the left, {which}", np.array(rows)

    def both_sides() -> tuple[str, np.ndarray]:
        mixture = TwoSidedMixture(joined, order, VALIDATION_FRACTION, MASKED_FRACTION)
        rows = [mixture.masked_bits(c, places) for c, places in zip(codes, targets, strict=True)]
        return f"Markov mixture of both sides, masked as for the model: {mixture}", np.array(rows)

    def model(length: int) -> tuple[str, np.ndarray]:
        values = model_bits(arguments.folder / "long", stretches, targets, length)
        return f"**model, {length:,} tokens**", values

    return {
        "frequencies": frequencies,
        "left, all": lambda: left(None, "all bases"),
        "left": lambda: left(targets, "the same bases as below, none masked"),
        "both sides": both_sides,
        **{f"model, {length}": functools.partial(model, length) for length in LENGTHS},
    }


def with_error(values: np.ndarray) -> str:
    """Returns the mean over stretches and its standard error."""
    return f"{values.mean():.3f} ± {values.std(ddof=1) / math.sqrt(len(values)):.3f}"


def table(result: dict[str, Any]) -> str:
    """Returns the page of results."""
    a, size = result["arguments"], HELD_OUT[1] - HELD_OUT[0]
    targets = round(TARGET_ZONE * MASKED_FRACTION)
    paragraphs = [
        "# Genomes",
        "Bits per base on chromosome X of GRCh37 (`hs37chrXtrunc.fa.gz` in Debian's package "
        f"`smalt-examples`); `{result['command']}` on {result['machine']}.",
        f"All models are trained on the bases from {TRAINING[0]:,} to {TRAINING[1]:,}. The model "
        f"has {LAYERS} layers of width {WIDTH} and is trained from scratch, for "
        f"{a['steps'][0]:,} steps of 2,048 tokens at {LENGTHS[0]} tokens and {a['steps'][1]:,} of "
        f"4,096 at {LENGTHS[1]:,}{result.get('training', '')}. The orders and weights of the "
        f"Markov models are chosen on the last {VALIDATION_FRACTION:.0%} of that stretch, which "
        "they are not counted on.",
        f"Held out: {a['stretches']} stretches of {LENGTHS[-1] - 2:,} bases from the "
        f"{size // 1_000_000} million bases after {HELD_OUT[0]:,}, none with N. "
        f"{MASKED_FRACTION:.0%} of the {TARGET_ZONE} bases in the middle of each are masked "
        f"({a['stretches'] * targets:,} in all). The model and the Markov mixture see the same "
        "masked input, to the left and to the right; a model that reads from left to right does "
        "not see the right side, and is not a fair comparison with a masked model. Means over "
        "stretches with standard errors; differences are taken stretch by stretch.",
        "| prediction | bits per base | difference from the mixture of both sides |",
    ]
    text = "\n\n".join(paragraphs) + "\n|---|---|---|\n| every base equally likely | 2 | |\n"
    rows = {key: (row["name"], np.array(row["bits"])) for key, row in result["rows"].items()}
    for key, (name, values) in rows.items():
        paired = "both sides" in rows and key not in ("frequencies", "left, all", "both sides")
        difference = with_error(values - rows["both sides"][1]) if paired else ""
        text += f"| {name} | {with_error(values)} | {difference} |\n"
    if len(rows) == 6:
        short, long = (rows[f"model, {length}"][1] for length in LENGTHS)
        best = min((short, long), key=np.mean) - rows["both sides"][1]
        text += (
            f"\nThe {'model' if best.mean() < 0 else 'Markov mixture'} predicts better, by "
            f"{with_error(np.sign(best.mean()) * best)} bits. With {LENGTHS[1]:,} tokens, the "
            f"model takes {with_error(long - short)} bits more than with {LENGTHS[0]}.\n"
        )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", help="a FASTA file whose first record is chromosome X of GRCh37")
    parser.add_argument("--folder", type=Path, default=Path("genomes"), help="for training runs")
    parser.add_argument("--steps", type=int, nargs=2, default=[800, 30])
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--stretches", type=int, default=120)
    parser.add_argument("--max-order", type=int, default=11)
    parser.add_argument("--output", type=Path, default=RESULTS / "genomes.json")
    parser.add_argument(
        "--quick", action="store_true", help="a few steps; the figures mean nothing"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        vars(arguments).update(QUICK)
        arguments.folder /= "quick"
        arguments.output = arguments.folder / "genomes.json"
    arguments.folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"rows": {}}
    if arguments.output.exists():
        result = json.loads(arguments.output.read_text(encoding="utf-8"))
    names = ("steps", "learning_rate", "stretches", "max_order")
    result["arguments"] = {name: getattr(arguments, name) for name in names}
    result["command"] = "python benchmarks/genomes.py hs37chrXtrunc.fa.gz"
    result["machine"] = f"{os.cpu_count()} cores, {processor()}"
    training = load_rows(arguments.path, TRAINING)
    if arguments.quick:
        training = training[:3]
    stretches = choose_stretches(load_rows(arguments.path, HELD_OUT), arguments.stretches, seed=0)
    targets = choose_targets(len(stretches), seed=0)
    for key, measure in measurements(training, stretches, targets, arguments).items():
        if key in result["rows"]:
            continue
        if key.startswith("model") and "training" not in result:
            seconds = train_models(
                training, arguments.folder, arguments.steps, arguments.learning_rate
            )
            result["training"] = f" ({seconds / 60:.0f} minutes of processor time)"
        name, values = measure()
        result["rows"][key] = {"name": name, "bits": values.mean(-1).round(5).tolist()}
        print(name, with_error(values.mean(-1)), flush=True)
        write_results(arguments.output, result, table(result))


if __name__ == "__main__":
    main()
