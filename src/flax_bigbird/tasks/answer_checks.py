"""Checks that the answers of a split can be parsed, and are where their rows say."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from flax_bigbird._messages import pluralize
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.loading import (
    SPLIT_NAMES,
    iterate_column,
    require_columns,
    require_texts,
    row_location,
)
from flax_bigbird.data.types import Dataset
from flax_bigbird.tasks.answers import MAX_SHIFT, Answers, first_answer, parse_answers
from flax_bigbird.tasks.base import Split


class CheckedAnswers(NamedTuple):
    """The answers of a split that can be used.

    Attributes:
      messages: Sentences for the log: on empty texts, and answers that are moved or left out.
      misplaced: The indices of the rows whose answer is not in its context.
    """

    messages: list[str]
    misplaced: list[int]


class _AnswerErrors:
    """Counts the answers of a split that are not where their rows say.

    Attributes:
      num_shifted: The number of answers that are moved.
      max_shift: The largest number of characters that one is moved by.
      num_unknown: The number of rows with answers, and without `answer_start`.
      misplaced: The indices of the rows whose answer does not occur near its offset.
      example: What is wrong with the first of them, in words.
    """

    def __init__(self, rows: Iterable[tuple[str, Answers]]):
        self.num_shifted = self.max_shift = self.num_unknown = 0
        self.misplaced: list[int] = []
        self.example = ""
        for index, (context, answers) in enumerate(rows):
            if not answers.texts:
                continue
            if answers.starts is None:
                self.num_unknown += 1
                continue
            span = first_answer(context, answers)
            if span is None:
                text, start = answers.texts[0], answers.starts[0]
                there = context[max(0, start) : max(0, start) + len(text)]
                self.example = self.example or (
                    f"has {text[:40]!r} at {start}, where the context has {there[:40]!r}"
                )
                self.misplaced.append(index)
            elif span.shift:
                self.num_shifted += 1
                self.max_shift = max(self.max_shift, abs(span.shift))

    def messages(self, split: Split) -> list[str]:
        """Returns sentences for the log about answers that are moved or left out."""
        messages, what = [], SPLIT_NAMES[split]
        if self.num_shifted:
            answers = pluralize(
                self.num_shifted,
                f"answer of the {what} is not where answer_start says, and is moved to where its",
                f"answers of the {what} are not where answer_start says, and are moved to where "
                "their",
            )
            messages.append(f"{answers} text is, by up to {pluralize(self.max_shift, 'character')}")
        if self.misplaced:
            one, many = "its row is dropped", "their rows are dropped"
            if split == "test":
                one, many = "the loss leaves it out", "the loss leaves them out"
            where = "where answer_start says"
            one = f"answer of the {what} is not in its context {where}; {one}"
            many = f"answers of the {what} are not in their context {where}; {many}"
            messages.append(pluralize(len(self.misplaced), one, many))
        if self.num_unknown:
            one = f"answer of the {what} has no answer_start; the loss leaves it out"
            many = f"answers of the {what} have no answer_start; the loss leaves them out"
            messages.append(pluralize(self.num_unknown, one, many))
        return messages


def check_answers(options: Any, rows: Dataset, split: Split) -> CheckedAnswers:
    """Checks the questions, the contexts and the answers of all rows.

    Args:
      options: The options of question answering.
      rows: The rows.
      split: The split of the rows.

    Raises:
      DataError: if a column is missing, or a row cannot be used. The message names the row.
    """
    texts = [options.question_column, options.context_column]
    require_columns(rows, [*texts, options.answers_column], split)
    messages = require_texts(rows, texts, split)
    answers = _parse_all(rows, options.answers_column, split)
    contexts = iterate_column(rows, options.context_column)
    errors = _AnswerErrors(zip(contexts, answers, strict=True))
    num_misplaced, what = len(errors.misplaced), SPLIT_NAMES[split]
    if errors.num_unknown and split != "test":
        which = pluralize(errors.num_unknown, f"row of the {what} has", f"rows of the {what} have")
        raise DataError(f"answers must have answer_start to be trained on; {which} none: add it")
    drops = options.skip_bad_rows and num_misplaced < len(rows)
    if num_misplaced and split != "test" and not drops:
        raise DataError(
            "an answer must be in its context where answer_start says, give or take "
            f"{MAX_SHIFT} characters; {row_location(rows, errors.misplaced[0], split)} "
            f"{errors.example} ({pluralize(num_misplaced, 'row')} in all): correct them, or drop "
            "them with skip_bad_rows"
        )
    return CheckedAnswers(messages + errors.messages(split), errors.misplaced)


def _parse_all(rows: Dataset, column: str, split: Split) -> Iterator[Answers]:
    """Yields the answers of every row.

    Raises:
      DataError: if they cannot be parsed. The message names the row.
    """
    for index, value in enumerate(iterate_column(rows, column)):
        try:
            yield parse_answers(value)
        except DataError as error:
            raise DataError(
                "answers must hold the lists text and answer_start, as in SQuAD; "
                f"{row_location(rows, index, split)} {error}: correct it"
            ) from error
