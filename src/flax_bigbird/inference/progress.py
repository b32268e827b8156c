"""The progress bar of the calls that return something for every text."""

from collections.abc import Iterable, Iterator
from typing import Any


def track_answers(answers: Iterable[Any], total: int | None, unit: str) -> Iterator[Any]:
    """Yields answers, and shows how many there are so far.

    Args:
      answers: The answers.
      total: The number of all answers, if it is known.
      unit: What an answer stands for, in the plural.
    """
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(unit), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        yield from progress.track(answers, total=total)
