"""Compares recipes of masked-language-model pretraining at equal processor time.

Each recipe trains a new model on windows of 128 tokens of State of the Union addresses and books,
with a linear schedule whose number of steps follows from the measured cost of a step. The models
are then evaluated on masked words of held-out addresses and books (`masked_words.py`), in bits per
character, which compare recipes with different vocabularies.

    python benchmarks/pretraining_sweep.py --books train.parquet --held-out-books validation.parquet
    python benchmarks/pretraining_sweep.py --evaluate bigbird-books-mini --books ...

The books are those of `mlschmitt/classic-books-markdown`, with a column "text". The results are
written after each recipe, and finished recipes are not repeated.
"""

import argparse
import dataclasses
import json
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from masked_words import evaluate, held_out_texts
from random_attention import texts
from report import processor, write_results

from flax_bigbird.data.vocabulary import save_vocabulary, train_vocabulary
from flax_bigbird.train import TrainerCallback, train, train_options

sys.path.append(str(Path(__file__).parents[1] / "examples" / "pretraining"))
from new_model import new_model

RESULTS = Path(__file__).parent / "results"
LENGTH = 128  # tokens
POSITIONS = 4096
BOOK_CHARACTERS = 10_000_000  # of the training books, about as many as of the addresses
EXCERPTS = 800  # of addresses, and as many of books


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a candidate trains, and how.

    Attributes:
      layers: The number of layers.
      width: The hidden size; heads have 64 dimensions.
      vocabulary: The number of tokens of the vocabulary.
      initializer_range: The standard deviation of new parameters.
      positions: How position embeddings start: "random", as the other parameters, for two windows,
        whose table is tiled for longer inputs later; or "sinusoidal" for all `POSITIONS`, which
        windows at random offsets train.
      neighbors: Whether the heads of the first layer attend to neighboring tokens from the start.
      optim: The optimizer.
      learning_rate: The peak of the learning rate.
      mask: The fraction of tokens to predict.
      tokens_per_batch: The tokens of an optimizer step.
      causal: The fraction of the processor time in which the model is trained as a causal one.
    """

    layers: int = 3
    width: int = 128
    vocabulary: int = 8000
    initializer_range: float = 0.02
    positions: str = "random"
    neighbors: bool = False
    optim: str = "adamw"
    learning_rate: float = 1e-3
    mask: float = 0.25
    tokens_per_batch: int = 4096
    causal: float = 0.0


SHIPPED = Recipe()  # from stage 2
NEW = Recipe(
    initializer_range=0.088,
    positions="sinusoidal",
    neighbors=True,
    optim="muon",
    learning_rate=2e-3,
)
RECIPES = {
    "shipped recipe, without its causal stage": SHIPPED,
    "new recipe": NEW,
    "new, but AdamW": dataclasses.replace(NEW, optim="adamw"),
    "new, but no attention to neighbors": dataclasses.replace(NEW, neighbors=False),
    "new, but random positions": dataclasses.replace(NEW, positions="random", neighbors=False),
    "new, but initialization 0.02": dataclasses.replace(NEW, initializer_range=0.02),
    "new, but learning rate 4e-3": dataclasses.replace(NEW, learning_rate=4e-3),
    "new, but learning rate 8e-3": dataclasses.replace(NEW, learning_rate=8e-3),
    "new, but mask rate 0.15": dataclasses.replace(NEW, mask=0.15),
    "new, but mask rate 0.4": dataclasses.replace(NEW, mask=0.4),
    "new, but batches of 1,024 tokens": dataclasses.replace(NEW, tokens_per_batch=1024),
    "new, but batches of 2,048 tokens": dataclasses.replace(NEW, tokens_per_batch=2048),
    "new, but batches of 8,192 tokens": dataclasses.replace(NEW, tokens_per_batch=8192),
    "shipped recipe": dataclasses.replace(SHIPPED, causal=0.3),
    "new, after a causal stage": dataclasses.replace(NEW, causal=0.3),
    "new, but 16,000 tokens in the vocabulary": dataclasses.replace(NEW, vocabulary=16000),
    "new, but 2 layers of 192": dataclasses.replace(NEW, layers=2, width=192),
    "new, but 6 layers of 128": dataclasses.replace(NEW, layers=6),
}


def processor_seconds() -> float:
    """Returns the processor time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class StepCost(TrainerCallback):
    """Measures the processor time per step from the second log on, after compilation."""

    def __init__(self) -> None:
        self.logs: list[tuple[int, float]] = []

    def on_log(self, state: Any, logs: Mapping[str, int | float]) -> None:
        del logs
        self.logs.append((state.global_step, processor_seconds()))

    @property
    def seconds_per_step(self) -> float:
        """The mean over the steps between the first and the last log."""
        (first, start), (last, end) = self.logs[0], self.logs[-1]
        return (end - start) / (last - first)


def architecture(recipe: Recipe) -> dict[str, Any]:
    """Returns the keys of the configuration."""
    return {
        "hidden_size": recipe.width,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.width // 64,
        "intermediate_size": 4 * recipe.width,
        "initializer_range": recipe.initializer_range,
        "max_position_embeddings": POSITIONS if recipe.positions == "sinusoidal" else 2 * LENGTH,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def run(recipe: Recipe, folder: Path, data: Path, vocabulary: Path, seconds: float) -> dict:
    """Trains a recipe for a processor time, and returns the steps and the tokens."""
    common: dict[str, Any] = {
        "train_files": [str(data)],
        "validation_fraction": 0.0,
        "max_length": LENGTH,
        "min_bucket_length": LENGTH,
        "tokens_per_batch": recipe.tokens_per_batch,
        "optim": recipe.optim,
        "learning_rate": recipe.learning_rate,
        "warmup_ratio": 0.05,
        "adam_beta2": 0.98,
        "random_position_offset": recipe.positions == "sinusoidal",
        "overwrite_output_dir": True,
        "save_steps": 100_000,
    }
    masked = {"whole_word_mask": False, "mlm_probability": recipe.mask}
    start: dict[str, Any] = {"tokenizer": str(vocabulary), "config_overrides": architecture(recipe)}
    if recipe.positions == "sinusoidal":
        size = (recipe.layers, recipe.width, recipe.initializer_range)
        new_model(str(vocabulary), folder / "new", *size, neighbors=recipe.neighbors)
        start = {"model": str(folder / "new")}
    stages = [("masked-lm", masked, 1 - recipe.causal)]
    if recipe.causal:
        stages = [("causal-lm", {}, recipe.causal), *stages]
    result: dict[str, Any] = {"steps": 0, "tokens": 0, "seconds": 0.0}
    for task, changes, fraction in stages:
        cost = StepCost()
        calibration = train_options(
            task,
            **common,
            **changes,
            **start,
            output_dir=str(folder / f"{task}-cost"),
            max_steps=10,
            logging_steps=2,
        )
        train(calibration, [cost])
        steps = round(fraction * seconds / cost.seconds_per_step)
        measured = StepCost()
        options = train_options(
            task,
            **common,
            **changes,
            **start,
            output_dir=str(folder / task),
            max_steps=steps,
            logging_steps=max(1, steps // 20),
        )
        report = train(options, [measured])
        start = {"model": str(folder / task)}
        result["steps"] += report["steps"]
        result["tokens"] += report["tokens"]
        result["seconds"] += measured.seconds_per_step * report["steps"]
        result.setdefault("losses", []).append(report["losses"])
    return result


def load_texts(arguments: argparse.Namespace) -> tuple[list[str], dict[str, list[str]]]:
    """Returns the training texts, half addresses and half books, and the held-out ones by kind."""
    import pyarrow.parquet as parquet

    books = parquet.read_table(arguments.books, columns=["text"])["text"].to_pylist()
    sample, total = [], 0
    for text in books:
        if total < BOOK_CHARACTERS:
            sample.append(" ".join(text.split())[:400_000])
            total += len(sample[-1])
    return texts()[0] + sample, held_out_texts(arguments.held_out_books)


def prepare_vocabulary(training: list[str], size: int, folder: Path) -> Path:
    """Trains the vocabulary of a size unless it exists, and returns its folder."""
    target = folder / f"vocabulary-{size}"
    if not (target / "tokenizer.json").exists():
        target.mkdir(parents=True, exist_ok=True)
        save_vocabulary(train_vocabulary(training, size), target, POSITIONS)
    return target


def table(results: dict[str, Any]) -> str:
    """Returns the Markdown page."""
    seconds = [row["seconds"] for row in results["recipes"].values() if "seconds" in row]
    lines = [
        "# Recipes of pretraining",
        "",
        f"{results['seconds']:.0f} s of processor time each on {results['machine']} (the number of "
        f"steps is fixed after the first ones: {min(seconds):.0f} to {max(seconds):.0f} s); "
        "`python benchmarks/pretraining_sweep.py`. Windows of 128 tokens, half of addresses and "
        "half of books. Bits per character of masked words (15%, whole words), which do not depend "
        "on the vocabulary; the standard error of each is about "
        f"{results['error']:.2f}, that of differences is smaller, because the words are the same.",
        "",
        "| recipe | steps | tokens | addresses | books |",
        "|---|---|---|---|---|",
    ]
    for name, row in results["recipes"].items():
        bits = [f"{row['bits'][kind]['bits_per_character']:.3f}" for kind in ("addresses", "books")]
        size = f"{row['steps']:,} | {row['tokens'] / 1e6:.2f} M" if "steps" in row else "|"
        lines.append(f"| {name} | {size} | {' | '.join(bits)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--books", required=True, help="the Parquet file of the training books")
    parser.add_argument("--held-out-books", required=True)
    parser.add_argument("--folder", default="pretraining_sweep", help="where runs are written")
    parser.add_argument("--seconds", type=float, default=300, help="of processor time per recipe")
    parser.add_argument("--only", action="append", help="the beginning of a recipe's name")
    parser.add_argument("--evaluate", action="append", default=[], help="a model to evaluate only")
    parser.add_argument("--output", default=str(RESULTS / "pretraining_sweep.json"))
    arguments = parser.parse_args()
    path, folder = Path(arguments.output), Path(arguments.folder)
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"recipes": {}}
    results |= {"seconds": arguments.seconds, "machine": f"{os.cpu_count()} cores, {processor()}"}
    training, held_out = load_texts(arguments)
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "training.jsonl"
    if not data.exists():
        data.write_text("".join(json.dumps({"text": text}) + "\n" for text in training))
    for name in arguments.evaluate:
        record(
            results, path, name, results["recipes"].get(name, {}) | {"bits": bits(name, held_out)}
        )
    names = [n for n in RECIPES if any(n.startswith(p) for p in arguments.only or [""])]
    for name in [] if arguments.evaluate else names:
        if name in results["recipes"]:
            continue
        recipe = RECIPES[name]
        vocabulary = prepare_vocabulary(training, recipe.vocabulary, folder)
        target = folder / f"{list(RECIPES).index(name):02}"
        row = dataclasses.asdict(recipe) | run(recipe, target, data, vocabulary, arguments.seconds)
        row["bits"] = bits(str(target / "masked-lm"), held_out)
        record(results, path, name, row)


def bits(model: str, held_out: dict[str, list[str]]) -> dict[str, dict[str, float]]:
    """Returns the bits per character of masked words, and their standard errors, by text kind."""
    return {k: evaluate(model, texts, EXCERPTS, (LENGTH,))[LENGTH] for k, texts in held_out.items()}


def record(results: dict[str, Any], path: Path, name: str, row: dict[str, Any]) -> None:
    """Adds a row to the results and writes them."""
    results["recipes"][name] = row
    results["error"] = float(np.mean([kind["error"] for kind in row["bits"].values()]))
    write_results(path, results, table(results))
    print(name, {k: row.get(k) for k in ("steps", "tokens", "seconds", "bits")}, flush=True)


if __name__ == "__main__":
    main()
