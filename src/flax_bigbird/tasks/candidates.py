"""The documents of a query with their labels, as the rows of reranking give them."""

import math
from typing import Any, NamedTuple

from flax_bigbird._messages import pluralize
from flax_bigbird.data.columns import ColumnKind
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.data.types import Row
from flax_bigbird.tasks.base import get_text
from flax_bigbird.tasks.options import option_fields
from flax_bigbird.tasks.retrieval_columns import (
    DOCUMENT_NAMES,
    LABEL_NAMES,
    QUERY_NAMES,
    recognize_columns,
    recognize_negatives,
    require_role,
    split_names,
)


class Candidates(NamedTuple):
    """A query and its documents.

    Attributes:
      query: The query.
      documents: The documents.
      labels: How relevant each document is; empty for rows without labels.
      is_list: Whether the row has several documents, or a list of them.
    """

    query: str
    documents: list[str]
    labels: list[float]
    is_list: bool


def resolve_candidate_columns(options: Any, names: Any) -> Any:
    """Returns the options with the columns of the data.

    Raises:
      DataError: if there is no column of queries, documents, or labels.
      OptionError: if several columns may be meant, or there are labels beside negatives.
    """
    roles = {
        "query_column": QUERY_NAMES,
        "document_column": DOCUMENT_NAMES,
        "label_column": LABEL_NAMES,
    }
    options = recognize_negatives(recognize_columns(options, names, roles), names)
    if options.document_column is None and "text" in names:
        options = options.replace(document_column="text")
    has_labels = "label_column" in option_fields(type(options))
    if has_labels and options.negative_column and options.label_column:
        raise OptionError(
            "rows must have labels or negatives; the data have label_column="
            f"{options.label_column!r} and negative_column={options.negative_column!r}: leave one "
            "of the columns out"
        )
    for role, usual in roles.items():
        is_label = role == "label_column"
        if not is_label or (has_labels and not options.negative_column):
            require_role(getattr(options, role), role, usual, names)
    return options


def candidate_columns(options: Any) -> dict[str, ColumnKind]:
    """Returns the columns that hold queries, documents and labels, and what each holds."""
    columns: dict[str, ColumnKind] = {
        options.query_column: "text",
        options.document_column: "text_or_texts",
    }
    columns |= dict.fromkeys(split_names(options.negative_column), "text_or_texts")
    if options.label_column is not None:
        columns[options.label_column] = "label"
    return columns


def get_candidates(row: Row, options: Any, *, labeled: bool) -> Candidates:
    """Returns the query and the documents of a row.

    Args:
      row: The row.
      options: The options, with columns.
      labeled: Whether to return labels.

    Raises:
      DataError: if the row cannot be used.
    """
    query = get_text(row, options.query_column)
    documents = get_texts(row, options.document_column)
    is_list = isinstance(row.get(options.document_column), list)
    if not documents:
        raise DataError(
            f"column {options.document_column!r} must hold a document or several; got none: add "
            "one, or remove the row"
        )
    if not labeled:
        return Candidates(query, documents, [], is_list)
    negatives = get_negatives(row, options)
    if options.negative_column is not None:
        labels = [1.0] * len(documents) + [0.0] * len(negatives)
        return Candidates(query, documents + negatives, labels, True)
    values = row.get(options.label_column)
    values = values if isinstance(values, list) else [values]
    if len(values) != len(documents):
        raise DataError(
            f"every document must have a label; column {options.label_column!r} has {len(values)} "
            f"for {pluralize(len(documents), 'document')}: correct the row"
        )
    labels = [_check_label(value, options) for value in values]
    return Candidates(query, documents, labels, is_list)


def get_texts(row: Row, column: str) -> list[str]:
    """Returns the texts in a column that holds a text or a list of them.

    Raises:
      DataError: if it holds something else.
    """
    value = row.get(column)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [get_text({column: item}, column) for item in value]
    return [get_text(row, column)]


def get_negatives(row: Row, options: Any) -> list[str]:
    """Returns the texts in the columns of negatives, any of which may be missing in a row."""
    columns = split_names(options.negative_column)
    present = (column for column in columns if row.get(column) not in (None, ""))
    return [text for column in present for text in get_texts(row, column)]


def _check_label(value: Any, options: Any) -> float:
    is_number = isinstance(value, int | float) and math.isfinite(value) and value >= 0
    if is_number and (options.loss == "listwise_softmax" or value <= 1):
        return float(value)
    rule = "numbers from 0" if options.loss == "listwise_softmax" else "numbers from 0 to 1"
    raise DataError(
        f"labels must be {rule} for loss={options.loss}; column {options.label_column!r} has "
        f"{value!r}: correct it, or choose another column or loss"
    )
