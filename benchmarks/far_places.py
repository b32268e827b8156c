"""A task whose answer stands in two far places of a document: which of two addresses is the older?

A document is a stretch of one real address, the names of the States in order, over and over, and a
stretch of another address, from `GAP` years before or after. The label says whether they stand in
order, "chronological" or "reverse"; no date is in the texts. The test has every pair in both
orders, so that counting words, which are the same in both, is right in exactly half of them. A
window sees one address or the other, or one and the States. Who reads the first address alone, and
knows its very year, is right in `from_one_place` of them: the earliest must be the older.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flax_bigbird.examples.state_of_the_union import speeches as data
from flax_bigbird.examples.state_of_the_union.speeches import Speech
from flax_bigbird.train import train, train_options

LABELS = ("chronological", "reverse")
LENGTH, WINDOW = 2048, 512  # tokens
CHARACTERS, BETWEEN = 3200, 2000  # of each address, of the States: 690 and 640 pieces
STEPS = {"the quarter-century of each": 300, "the order": 250, "windows": 100}
GAP = range(40, 70)  # years
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


def documents(speeches: Sequence[Speech], pairs: int, seed: int) -> list[Row]:
    """Rows with `text`, `label` and `years`: every pair in both orders, one after the other."""
    generator = np.random.default_rng(seed)
    middle = (STATES * (BETWEEN // len(STATES) + 1))[:BETWEEN]

    def stretch(speech: Speech) -> str:
        start = int(generator.integers(max(1, len(speech.text) - CHARACTERS)))
        return speech.text[start : start + CHARACTERS]

    rows = []
    while len(rows) < 2 * pairs:
        chosen = [speeches[n] for n in generator.integers(len(speeches), size=2)]
        older, newer = sorted(chosen, key=lambda speech: speech.year)
        if newer.year - older.year not in GAP:
            continue
        texts, years = (stretch(older), stretch(newer)), (older.year, newer.year)
        for label, step in zip(LABELS, (1, -1), strict=True):
            text = f" {middle} ".join(texts[::step])
            rows.append({"text": text, "label": label, "years": years[::step]})
    return rows


def from_one_place(speeches: Sequence[Speech]) -> float:
    """The share of all pairs in both orders that is right by the first address's year alone."""
    years = np.array([speech.year for speech in speeches])
    apart = years[None, :] - years[:, None]
    near, far = GAP.start, GAP.stop
    later = ((apart >= near) & (apart < far)).sum(1)
    earlier = ((-apart >= near) & (-apart < far)).sum(1)
    return float(np.maximum(later, earlier).sum() / (later + earlier).sum())


def dates_of_both(rows: Sequence[Row]) -> list[Row]:
    """The same texts; the label is a set: the quarter-century of the first, and of the second."""
    return [
        row
        | {
            "label": [
                f"{which} {data.LABELS[data.quarter_century(year)]}"
                for which, year in zip(("first", "second"), row["years"], strict=True)
            ]
        }
        for row in rows
    ]


def train_on_whole(rows: Sequence[Row], model: Path, folder: Path, seed: int) -> Path:
    """A model that has read whole documents: first to date both addresses, then to order them."""
    both = dates_of_both(rows)
    dates = _train(both, model, folder / "dates", "the quarter-century of each", seed)
    return _train(rows, dates, folder / "order", "the order", seed)


def train_on_windows(rows: Sequence[Row], model: Path, folder: Path, seed: int) -> Path:
    """A model that has read windows, each under its document's label."""
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
            learning_rate=5e-4,
            logging_steps=1,
            seed=seed,
        )
    )
    return folder / "run"
