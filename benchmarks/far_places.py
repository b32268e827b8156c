"""A task whose answer stands in two far places of a document: do two addresses stand in order?

A document is a stretch of an address from before 1890, the names of the States in order, over and
over, and a stretch of an address from 1930 on, or the same with the two addresses exchanged. The
label says which: "chronological" or "reverse". Both kinds are made of the same words, so that
counting words tells nothing; and a window is of one address or the other, or of one and the States,
so that it knows the time of what it reads but not what stands on the other side.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flax_bigbird.cli.demo.data import Speech

LABELS = ("chronological", "reverse")
OLD_BEFORE, NEW_FROM = 1890, 1930
STATES = (
    "Alabama, Alaska, Arizona, Arkansas, California, Colorado, Connecticut, Delaware, "
    "Florida, Georgia, Hawaii, Idaho, Illinois, Indiana, Iowa, Kansas, Kentucky, Louisiana, "
    "Maine, Maryland, Massachusetts, Michigan, Minnesota, Mississippi, Missouri, Montana, "
    "Nebraska, Nevada, New Hampshire, New Jersey, New Mexico, New York, North Carolina, North "
    "Dakota, Ohio, Oklahoma, Oregon, Pennsylvania, Rhode Island, South Carolina, South "
    "Dakota, Tennessee, Texas, Utah, Vermont, Virginia, Washington, West Virginia, Wisconsin, "
    "Wyoming. "
)


def documents(
    speeches: Sequence[Speech], count: int, characters: int, between: int, seed: int
) -> list[dict[str, str]]:
    """Rows with `text` and `label`, half of each label.

    Args:
      characters: of each stretch.
      between: characters of States between the two.
    """
    generator = np.random.default_rng(seed)
    old = [speech.text for speech in speeches if speech.year < OLD_BEFORE]
    new = [speech.text for speech in speeches if speech.year >= NEW_FROM]
    middle = (STATES * (between // len(STATES) + 1))[:between]

    def stretch(texts: list[str]) -> str:
        text = texts[generator.integers(len(texts))]
        start = int(generator.integers(max(1, len(text) - characters)))
        return text[start : start + characters]

    rows = []
    for number in range(count):
        order = (stretch(old), stretch(new))
        first = number % 2
        text = " ".join((order[first], middle, order[1 - first]))
        rows.append({"text": text, "label": LABELS[first]})
    return rows


def write(path: Path, rows: list[dict[str, str]]) -> str:
    """JSONL of rows; returns the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)
