"""Recognizes the columns of queries, documents, negatives and scores by their usual names.

The names are those of the data sets of sentence-transformers and of the Hub.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.tasks.options import option_fields

QUERY_NAMES = ("query", "question", "anchor", "sentence1", "text1")
DOCUMENT_NAMES = (
    "document",
    "passage",
    "positive",
    "answer",
    "context",
    "response",
    "sentence2",
    "text2",
    "documents",
    "docs",
    "passages",
    "candidates",
)
LABEL_NAMES = ("label", "score", "similarity", "relevance", "labels", "scores")
NEGATIVE_NAMES = ("negative", "negatives", "hard_negative", "hard_negatives")
_NUMBERED_NEGATIVE = re.compile(r"(hard_)?negative_?\d+")


def split_names(column: str | None) -> list[str]:
    """Returns the names of an option that may hold several, with commas between them."""
    return [name.strip() for name in column.split(",")] if column else []


def recognize_columns(
    options: Any, names: Collection[str], usual_names: Mapping[str, Iterable[str]]
) -> Any:
    """Returns the options with a column for each role that the data have.

    Args:
      options: The options; those that are None are looked for.
      names: The names of the columns of the data.
      usual_names: The usual names of the column of each option.

    Raises:
      OptionError: if several columns may be meant.
    """
    known = option_fields(type(options))
    given = {getattr(options, option, None) for option in usual_names}
    changes = {}
    for option, candidates in usual_names.items():
        if option not in known or getattr(options, option) is not None:
            continue
        found = [name for name in candidates if name in names and name not in given]
        if len(found) > 1:
            flag = f"--{option.replace('_', '-')}"
            raise OptionError(
                f"must be given if several columns may be meant; the data have "
                f"{' and '.join(found)}: name one of them with {option}, on the command line "
                f"{flag}",
                option=option,
            )
        if found:
            changes[option] = found[0]
    return options.replace(**changes) if changes else options


def recognize_negatives(options: Any, names: Collection[str]) -> Any:
    """Returns the options with the columns of negatives that the data have.

    Several numbered columns, such as `negative_1` and `negative_2`, are taken together.
    """
    if "negative_column" not in option_fields(type(options)) or options.negative_column is not None:
        return options
    numbered = sorted((n for n in names if _NUMBERED_NEGATIVE.fullmatch(n)), key=_number)
    plain = [name for name in NEGATIVE_NAMES if name in names]
    if len(plain) > 1 or (numbered and plain and plain != ["negative"]):
        raise OptionError(
            "must be given if several columns may be meant; the data have "
            f"{' and '.join([*plain, *numbered])}: name one of them, or several with commas "
            "between them",
            option="negative_column",
        )
    found = [*plain, *numbered]
    return options.replace(negative_column=",".join(found)) if found else options


def require_role(column: str | None, role: str, usual: Iterable[str], names: Iterable[str]) -> None:
    """Raises `DataError` if no column of a role was given or recognized.

    Args:
      column: The column.
      role: The option that names the column.
      usual: The usual names of the column.
      names: The names of the columns of the data.
    """
    if column is None:
        raise DataError(
            f"the data must have a column for {role}, such as {', '.join(usual)}; got "
            f"{', '.join(names) or 'no columns'}: name it with {role}"
        )


def _number(name: str) -> int:
    return int(re.sub(r"\D", "", name))
