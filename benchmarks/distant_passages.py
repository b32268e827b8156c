"""A classification task whose evidence is in two distant passages: which address is older?

Each example holds a passage of one real address, the names of the States repeated as filler, and a
passage of another address, given 40 to 69 years earlier or later. The label says whether the two
are in "chronological" or "reverse" order; the texts contain no dates. The test set has every pair
in both orders. Word counts do not depend on the order, so a model of word counts is right in
exactly half of the examples. A window holds one of the addresses at most. A model that reads the
first address only, and knows its exact year, reaches `accuracy_from_first_year`: if the year is
early, the other address is probably later.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flax_bigbird.examples.state_of_the_union.speeches import LABELS as PERIODS
from flax_bigbird.examples.state_of_the_union.speeches import Speech, quarter_century
from flax_bigbird.train import train, train_options

LABELS = ("chronological", "reverse")
LENGTH, WINDOW = 2048, 512  # tokens
PASSAGE_LENGTH, FILLER_LENGTH = 3200, 2000  # characters; about 690 and 640 tokens
STEPS = {"dates": 300, "order": 250, "windows": 100}  # training steps of each stage
YEARS_APART = range(40, 70)
STATES = (
    "Alabama, Alaska, Arizona, Arkansas, California, Colorado, Connecticut, Delaware, "
    "Florida, Georgia, Hawaii, Idaho, Illinois, Indiana, Iowa, Kansas, Kentucky, Louisiana, "
    "Maine, Maryland, Massachusetts, Michigan, Minnesota, Mississippi, Missouri, Montana, "
    "Nebraska, Nevada, New Hampshire, New Jersey, New Mexico, New York, North Carolina, North "
    "Dakota, Ohio, Oklahoma, Oregon, Pennsylvania, Rhode Island, South Carolina, South "
    "Dakota, Tennessee, Texas, Utah, Vermont, Virginia, Washington, West Virginia, Wisconsin, "
    "Wyoming. "
)

Row = dict[str, Any]


def build_examples(speeches: Sequence[Speech], pairs: int, seed: int) -> list[Row]:
    """Returns rows with `text`, `label` and `years`; each pair is there in both orders."""
    generator = np.random.default_rng(seed)
    filler = (STATES * (FILLER_LENGTH // len(STATES) + 1))[:FILLER_LENGTH]

    def passage(speech: Speech) -> str:
        start = int(generator.integers(max(1, len(speech.text) - PASSAGE_LENGTH)))
        return speech.text[start : start + PASSAGE_LENGTH]

    rows = []
    while len(rows) < 2 * pairs:
        pair = [speeches[index] for index in generator.integers(len(speeches), size=2)]
        older, newer = sorted(pair, key=lambda speech: speech.year)
        if newer.year - older.year not in YEARS_APART:
            continue
        texts, years = (passage(older), passage(newer)), (older.year, newer.year)
        for label, step in zip(LABELS, (1, -1), strict=True):
            text = f" {filler} ".join(texts[::step])
            rows.append({"text": text, "label": label, "years": years[::step]})
    return rows


def accuracy_from_first_year(speeches: Sequence[Speech]) -> float:
    """Returns the best accuracy over all pairs of a model that knows the first year only."""
    years = np.array([speech.year for speech in speeches])
    difference = years[None, :] - years[:, None]
    low, high = YEARS_APART.start, YEARS_APART.stop
    later = ((difference >= low) & (difference < high)).sum(1)
    earlier = ((-difference >= low) & (-difference < high)).sum(1)
    return float(np.maximum(later, earlier).sum() / (later + earlier).sum())


def with_date_labels(rows: Sequence[Row]) -> list[Row]:
    """Returns the same texts with two labels each: the quarter-centuries of both addresses."""
    return [
        row
        | {
            "label": [
                f"{position} {PERIODS[quarter_century(year)]}"
                for position, year in zip(("first", "second"), row["years"], strict=True)
            ]
        }
        for row in rows
    ]


def train_on_documents(rows: Sequence[Row], model: Path, folder: Path, seed: int) -> Path:
    """Trains on whole documents, first to date both addresses and then to order them.

    Returns:
      The folder of the trained model.
    """
    dates = _train(with_date_labels(rows), model, folder / "dates", "dates", seed)
    return _train(rows, dates, folder / "order", "order", seed)


def train_on_windows(rows: Sequence[Row], model: Path, folder: Path, seed: int) -> Path:
    """Trains on windows, each with the label of its document; returns the model's folder."""
    return _train(rows, model, folder / "windows", "windows", seed, window=WINDOW)


def _train(
    rows: Sequence[Row], model: Path, folder: Path, stage: str, seed: int, window: int | None = None
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    train(
        train_options(
            "sequence-classification",
            model=str(model),
            train_files=[str(file)],
            validation_fraction=0.0,
            output_dir=str(folder / "run"),
            max_length=window or LENGTH,
            min_bucket_length=window or LENGTH,
            whole_documents=window is not None,
            tokens_per_batch=8192,
            max_steps=STEPS[stage],
            linear_probing=False,
            learning_rate=5e-4,
            logging_steps=1,
            seed=seed,
        )
    )
    return folder / "run"
