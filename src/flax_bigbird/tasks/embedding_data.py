"""The examples that embedding models are trained on: pairs, triplets, scored pairs, and texts."""

import math
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from flax_bigbird._messages import pluralize
from flax_bigbird.data.columns import ColumnKind
from flax_bigbird.data.encoded_rows import column_array
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.data.loading import SPLIT_NAMES
from flax_bigbird.data.tokenization import text_hash, tokenize
from flax_bigbird.data.types import Dataset, Row, Tokenizer
from flax_bigbird.data.windows import NUM_SPECIAL_TOKENS, with_special_tokens
from flax_bigbird.tasks.base import Split, get_text
from flax_bigbird.tasks.candidates import get_negatives, get_texts
from flax_bigbird.tasks.option_names import Command
from flax_bigbird.tasks.retrieval_columns import (
    DOCUMENT_NAMES,
    LABEL_NAMES,
    QUERY_NAMES,
    recognize_columns,
    recognize_negatives,
    require_role,
    split_names,
)
from flax_bigbird.tasks.retrieval_options import SCORED_LOSSES

MIN_CROPPED_TOKENS = 8
"""The number of tokens that a text must have to be cropped."""

_CROP_OPTIONS = ("crop_min_ratio", "crop_max_ratio")
_EMBED: Command = "embed"


class Example(NamedTuple):
    """A query and its documents, or two texts and their score.

    Attributes:
      query: The query.
      documents: The relevant document, and the hard negatives after it.
      score: The score of a pair; 0 if there is none.
    """

    query: str
    documents: list[str]
    score: float


def resolve_example_columns(options: Any, names: Collection[str]) -> Any:
    """Returns the options with the columns of the data; texts alone have no `query_column`.

    Raises:
      DataError: if a column is missing.
      OptionError: if several columns may be meant, or an option would have no effect.
    """
    if options.command == _EMBED:
        return options
    options = recognize_columns(options, names, {"query_column": QUERY_NAMES})
    if options.query_column is None:
        _check_texts_alone(options, names)
        return options
    options = recognize_columns(options, names, {"document_column": DOCUMENT_NAMES})
    if options.document_column is None and "text" in names:
        options = options.replace(document_column="text")
    require_role(options.document_column, "document_column", DOCUMENT_NAMES, names)
    options = recognize_negatives(options, names)
    if options.loss != "multiple_negatives_ranking":
        options = recognize_columns(options, names, {"score_column": LABEL_NAMES})
    _check_pairs(options, names)
    return options


def example_columns(options: Any) -> dict[str, ColumnKind]:
    """Returns the columns of the examples, and what each holds."""
    if options.query_column is None:
        return {options.text_column: "text"}
    columns: dict[str, ColumnKind] = {
        options.query_column: "text",
        options.document_column: "text",
    }
    columns |= dict.fromkeys(split_names(options.negative_column), "text_or_texts")
    if options.score_column is not None:
        columns[options.score_column] = "label"
    return columns


def get_example(row: Row, options: Any) -> Example:
    """Returns the texts of a row.

    Raises:
      DataError: if the row cannot be used.
    """
    query = get_text(row, options.query_column)
    (document,) = get_texts({"": get_text(row, options.document_column)}, "")
    negatives = get_negatives(row, options)
    if options.score_column is None:
        return Example(query, [document, *negatives], 0.0)
    score = row.get(options.score_column)
    if not isinstance(score, int | float) or not math.isfinite(score):
        raise DataError(
            f"scores must be numbers; column {options.score_column!r} has {score!r}: correct it, "
            "or train on pairs without scores with loss=multiple_negatives_ranking"
        )
    if options.loss == "cosine_similarity" and not -1 <= score <= 1:
        raise DataError(
            f"scores must be from -1 to 1 for loss=cosine_similarity; column "
            f"{options.score_column!r} has {score!r}: scale them, or use loss=cosent"
        )
    return Example(query, [document], float(score))


def count_documents(rows: Dataset, options: Any, max_count: int) -> int:
    """Returns the number of different documents of all rows, or `max_count` if there are more."""
    documents: set[str] = set()
    for row in rows:
        values: Any = row
        if options.query_column is None:
            documents.add(values[options.text_column])
        else:
            documents.update(get_example(values, options).documents)
        if len(documents) >= max_count:
            return max_count
    return len(documents)


def encode_example(
    example: Example, tokenizer: Tokenizer, options: Any, prompts: tuple[str, str] = ("", "")
) -> dict[str, Any]:
    """Returns the token ids of an example, with `[CLS]` and `[SEP]`, truncated to `max_length`.

    Args:
      example: The example.
      tokenizer: The tokenizer.
      options: The options, with a `max_length`.
      prompts: The texts before the query, and before each document.
    """
    texts = [prompts[0] + example.query, *(prompts[1] + text for text in example.documents)]
    size = options.length - NUM_SPECIAL_TOKENS
    tokens = tokenize(tokenizer, texts)
    query, *documents = [with_special_tokens(ids[:size], tokenizer) for ids in tokens]
    return {
        "query_ids": query,
        "documents": documents,
        "length": max(map(len, documents)),
        "query_length": len(query),
        "num_documents": len(documents),
        "query_id": text_hash(example.query),
        "document_ids": [text_hash(text) for text in example.documents],
        "score": example.score,
        "cut": any(len(ids) > size for ids in tokens),
    }


def encode_text(text: str, tokenizer: Tokenizer, options: Any) -> Iterator[dict[str, Any]]:
    """Yields the token ids of a text that is cropped in training, unless it is too short.

    All tokens are kept, so that crops come from the whole text. The query is a placeholder.
    """
    (ids,) = tokenize(tokenizer, [text])
    if len(ids) < MIN_CROPPED_TOKENS:
        return
    longest = _crop_size(len(ids), options.crop_max_ratio, options.length)
    identity = text_hash(text)
    yield {
        "query_ids": with_special_tokens([], tokenizer),
        "documents": [ids],
        "length": longest + NUM_SPECIAL_TOKENS,
        "query_length": 0,
        "num_documents": 1,
        "query_id": identity,
        "document_ids": [identity],
        "score": 0.0,
        "cut": False,
    }


def crop(
    ids: list[int], options: Any, tokenizer: Tokenizer, generator: np.random.Generator
) -> list[int]:
    """Returns `[CLS] tokens [SEP]` of a random part of a text.

    Args:
      ids: The token ids of the text.
      options: The options, with the smallest and the largest part.
      tokenizer: The tokenizer.
      generator: The source of randomness.
    """
    ratio = generator.uniform(options.crop_min_ratio, options.crop_max_ratio)
    size = _crop_size(len(ids), ratio, options.length)
    start = int(generator.integers(0, len(ids) - size + 1))
    return with_special_tokens(ids[start : start + size], tokenizer)


def length_messages(examples: Dataset, num_rows: int, options: Any, split: Split) -> list[str]:
    """Returns sentences about texts that are truncated or too short.

    Args:
      examples: The encoded examples.
      num_rows: The number of rows that they were made from.
      options: The options, with a `max_length`.
      split: The split of the rows.

    Raises:
      DataError: if all texts are too short.
    """
    messages, name = [], SPLIT_NAMES[split]
    if not len(examples):
        raise DataError(
            f"the texts of the {name} must have {MIN_CROPPED_TOKENS} tokens, so that parts of "
            f"them are a pair; none of {num_rows:,} has: give longer texts"
        )
    if too_short := num_rows - len(examples):
        texts = f"of {pluralize(num_rows, 'text')} of the {name}"
        short = f"fewer than {MIN_CROPPED_TOKENS} tokens"
        one, many = f"has {short} and is left out", f"have {short} and are left out"
        messages.append(pluralize(too_short, f"{texts} {one}", f"{texts} {many}"))
    if truncated := int(column_array(examples, "cut").sum()):
        all_rows = f"of {pluralize(len(examples), 'row')} of the {name}"
        cut = f"a text longer than {options.length:,} tokens, which is truncated"
        messages.append(pluralize(truncated, f"{all_rows} has {cut}", f"{all_rows} have {cut}"))
    return messages


def _crop_size(num_tokens: int, ratio: float, length: int) -> int:
    return min(max(1, round(ratio * num_tokens)), length - NUM_SPECIAL_TOKENS)


def _check_texts_alone(options: Any, names: Collection[str]) -> None:
    """Raises an error if the data are no texts alone, or options belong to pairs."""
    for name in ("document_column", "negative_column", "score_column"):
        require_role(
            "" if getattr(options, name) is None else None, "query_column", QUERY_NAMES, names
        )
    if options.text_column not in names:
        raise DataError(
            f"the data must have pairs, with a column such as {', '.join(QUERY_NAMES)}, or texts "
            f"in the column {options.text_column!r}; got {', '.join(names) or 'no columns'}: name "
            "the column with query_column or text_column"
        )
    for name in ("query_prompt", "document_prompt"):
        if getattr(options, name) is not None:
            raise OptionError(
                f"{name} belongs to pairs; got {getattr(options, name)!r} for texts alone: leave "
                "it out"
            )
    if options.loss in SCORED_LOSSES:
        raise OptionError(
            f"loss={options.loss} needs pairs with scores; got texts alone: leave it out, or give "
            "pairs"
        )


def _check_pairs(options: Any, names: Collection[str]) -> None:
    """Raises `OptionError` if options contradict the columns of pairs."""
    fields = type(options).model_fields
    for name in _CROP_OPTIONS:
        if getattr(options, name) != fields[name].default:
            raise OptionError(
                f"{name} belongs to texts alone, without a column of queries; got "
                f"{getattr(options, name)} for pairs: leave it out"
            )
    is_scored = options.score_column is not None
    if is_scored and options.negative_column is not None:
        raise OptionError(
            f"pairs must have scores or negatives; the data have score_column="
            f"{options.score_column!r} and negative_column={options.negative_column!r}: give "
            "loss=multiple_negatives_ranking to leave the scores out"
        )
    if options.loss in SCORED_LOSSES:
        require_role(options.score_column, "score_column", LABEL_NAMES, names)
    if is_scored and options.loss == "multiple_negatives_ranking":
        raise OptionError(
            f"loss=multiple_negatives_ranking uses no scores; got score_column="
            f"{options.score_column!r}: leave one of them out"
        )
    if is_scored and options.symmetric:
        raise OptionError(
            "symmetric belongs to loss=multiple_negatives_ranking; got it for pairs with scores: "
            "leave it out"
        )
