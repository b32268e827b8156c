"""A task whose answer stands in two far places of a real document: which report was read first.

Into a stretch of a State of the Union address two sentences are put between its own, at random
places far apart: "The report of the Treasury was then read." and "The report of the Navy was then
read." The label is the one that comes first. Every word occurs equally often under both labels, so
that counting words tells nothing, and a window that holds only one of the sentences does not know
what is outside.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

OFFICES = ("Treasury", "Navy")
SENTENCE = "The report of the {} was then read."
_END = re.compile(r"(?<=[.!?;]) ")


def document(
    text: str, characters: int, apart: int, generator: np.random.Generator
) -> dict[str, str]:
    """A row with `text` and `label` from a random stretch of a speech.

    Args:
      characters: of the stretch.
      apart: characters at least between the two sentences.
    """
    words = re.sub("|".join(OFFICES), "Office", text)  # the two names stand nowhere else
    start = int(generator.integers(0, max(1, len(words) - characters)))
    stretch = words[start : start + characters]
    ends = np.array([0] + [found.end() for found in _END.finditer(stretch)] + [len(stretch)])
    while True:
        one, other = sorted(generator.choice(ends, 2, replace=False))
        if other - one >= min(apart, 0.6 * len(stretch)):
            break
    first = int(generator.integers(2))
    said = [SENTENCE.format(OFFICES[number]) for number in (first, 1 - first)]
    parts = (stretch[:one], said[0], stretch[one:other], said[1], stretch[other:])
    return {"text": " ".join(part.strip() for part in parts), "label": OFFICES[first]}


def write(
    path: Path, speeches: Sequence[str], count: int, characters: int, apart: int, seed: int
) -> str:
    """JSONL of `count` documents, each of a speech in turn."""
    generator = np.random.default_rng(seed)
    rows = [
        document(speeches[number % len(speeches)], characters, apart, generator)
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)
