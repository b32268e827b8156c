"""Answers as spans of a context: parses them, and corrects offsets that are a little wrong.

Published data sets have answers whose `answer_start` is off by a few characters, because white
space or accents were counted in another way. Such an answer is moved to where its text is.
"""

from typing import Any, NamedTuple

from flax_bigbird.data.columns import answers_as_lists
from flax_bigbird.data.errors import DataError

MAX_SHIFT = 10
"""The maximum number of characters that an answer is moved by."""


class Answers(NamedTuple):
    """The answers to a question.

    Attributes:
      texts: The texts of the answers, none if the context does not answer the question.
      starts: For each of them, its first character in the context; None if that is unknown.
    """

    texts: list[str]
    starts: list[int] | None


class AnswerSpan(NamedTuple):
    """The characters of an answer in its context.

    Attributes:
      start: The first character.
      end: The index after the last character.
      shift: How far `start` is from where the row says it is.
    """

    start: int
    end: int
    shift: int


def parse_answers(value: Any) -> Answers:
    """Returns the answers in a cell of the column `answers`.

    It holds the lists `text` and `answer_start`, a text and a number, or a list of such pairs.
    `answer_start` may be missing, and floats stand for integers.

    Raises:
      DataError: if the cell holds something else. The message names neither the row nor the remedy.
    """
    value = answers_as_lists(value)
    if not isinstance(value, dict) or "text" not in value:
        raise DataError(f"has {_shorten(value)}")
    texts, starts = _as_list(value["text"]), _as_list(value.get("answer_start"))
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"has a text that is not a string: {_shorten(value)}")
    if not starts:
        return Answers(texts, None if texts else [])
    if len(starts) != len(texts) or not all(map(_is_whole, starts)):
        raise DataError(f"does not have one whole number per text: {_shorten(value)}")
    return Answers(texts, [int(start) for start in starts])


def first_answer(context: str, answers: Answers) -> AnswerSpan | None:
    """Returns where the first answer is: the occurrence of its text that is nearest to its start.

    Args:
      context: The context.
      answers: The answers.

    Returns:
      The span; None if there is no answer, its start is unknown, or its text does not occur within
      `MAX_SHIFT` characters.
    """
    if not answers.texts or answers.starts is None:
        return None
    text, start = answers.texts[0], answers.starts[0]
    if not text.strip():
        return None
    shifts = sorted(range(-MAX_SHIFT, MAX_SHIFT + 1), key=abs)
    for shift in shifts:
        if start + shift >= 0 and context.startswith(text, start + shift):
            return AnswerSpan(start + shift, start + shift + len(text), shift)
    return None


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
