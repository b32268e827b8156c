"""The labels of sequence classification: which problem they define, and checks of every row."""

from collections.abc import Iterable
from typing import Any

from flax_bigbird.data.errors import DataError
from flax_bigbird.data.loading import SPLIT_NAMES, row_location
from flax_bigbird.data.types import Dataset
from flax_bigbird.tasks.base import Split
from flax_bigbird.tasks.labels import are_generic, class_name, class_names, is_integer

SINGLE_LABEL, MULTI_LABEL = "single_label_classification", "multi_label_classification"
REGRESSION = "regression"

_EXPECTED_LABELS = {
    REGRESSION: "numbers",
    MULTI_LABEL: "lists of names or integers",
    SINGLE_LABEL: "names or integers",
}


def get_labels(column: str, rows: Dataset, split: Split) -> list[Any]:
    """Returns the labels of all rows.

    Raises:
      DataError: if there are no rows, or a row has no label.
    """
    labels = list(rows[column])
    missing = [index for index, label in enumerate(labels) if label is None]
    if missing:
        raise DataError(
            f"column {column!r} of the {SPLIT_NAMES[split]} must hold a label in "
            f"every row; {row_location(rows, missing[0], split)} has none ({len(missing)} in all): "
            "fill or remove them"
        )
    if not labels:
        raise DataError(f"the {SPLIT_NAMES[split]} must have rows; it has none: check the files")
    return labels


def infer_problem_type(label: Any) -> str:
    """Returns the kind of problem that a label of the training data belongs to."""
    if isinstance(label, list):
        return MULTI_LABEL
    return REGRESSION if isinstance(label, float) else SINGLE_LABEL


def check_label_types(labels: list[Any], kind: str, rows: Dataset, split: Split) -> None:
    """Raises `DataError` if a label does not have the type that the problem type needs."""
    is_valid = {
        REGRESSION: lambda x: isinstance(x, int | float) and not isinstance(x, bool),
        MULTI_LABEL: lambda x: isinstance(x, list) and all(_is_label(item) for item in x),
        SINGLE_LABEL: _is_label,
    }[kind]
    for index, label in enumerate(labels):
        if not is_valid(label):
            raise DataError(
                f"labels must be {_EXPECTED_LABELS[kind]} for the problem_type {kind}; "
                f"{row_location(rows, index, split)} has {label!r}: correct it, or give another "
                "problem_type"
            )


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int)


def distinct_labels(labels: list[Any], kind: str) -> list[Any]:
    """Returns the distinct labels: integers in ascending order, then names alphabetically."""
    flat = labels if kind == SINGLE_LABEL else [label for value in labels for label in value]
    return sorted(set(flat), key=lambda label: (isinstance(label, str), label))


def defines_auroc(labels: Iterable[Any], kind: str, num_labels: int) -> bool:
    """Returns whether labels define the area under the ROC curve.

    There must be two classes, both with examples, or a label that some examples have and others do
    not.

    Args:
      labels: The labels of all rows.
      kind: The kind of problem.
      num_labels: The number of labels of the model.
    """
    if kind == MULTI_LABEL:
        sets = {frozenset(map(str, label)) for label in labels if isinstance(label, list)}
        return len(sets) > 1
    return kind == SINGLE_LABEL and num_labels == 2 and len(set(map(str, labels))) > 1


def replace_class_codes(
    rows: Dataset, column: str, label_names: list[str], label_indices: dict[Any, int]
) -> Dataset:
    """Replaces the codes of a `datasets.ClassLabel`, and booleans, by the names of the labels.

    A code is an index into the names of the dataset, whose order may not be that of the model,
    and a name that is an integer could be taken for a code. Codes are indices of the model only if
    its labels have no names but those of the kind `LABEL_0`.

    Args:
      rows: The rows.
      column: The column of the labels.
      label_names: The names of the model's labels, in its order.
      label_indices: The indices of the model's labels, see `flax_bigbird.tasks.labels`.
    """
    names = class_names(rows, column)
    if getattr(rows.features[column], "dtype", None) == "bool":
        # As indices, False and True would be the first and the second label whatever their names.
        names = ["False", "True"] if {"False", "True"} <= set(label_names) else None
    if not names or (names == label_names and not any(map(is_integer, names))):
        return rows
    if are_generic(label_names) and not all(name in label_indices for name in names):
        return rows

    def replace(code: Any) -> Any:
        if isinstance(code, list):
            return [replace(item) for item in code]
        name = class_name(names, code)
        return name if isinstance(name, str) else None  # None if there is no label, as for -1

    values = [replace(code) for code in rows[column]]
    return rows.remove_columns(column).add_column(column, values)  # type: ignore[arg-type]


def check_known_labels(
    labels: list[Any],
    kind: str,
    label_names: list[str],
    label_indices: dict[Any, int],
    rows: Dataset,
    split: Split,
) -> None:
    """Raises `DataError` if the model does not have a label of the rows."""
    if kind == REGRESSION:
        return
    for index, value in enumerate(labels):
        for label in value if kind == MULTI_LABEL else [value]:
            if label not in label_indices:
                shown = ", ".join(label_names[:10]) + (", ..." if len(label_names) > 10 else "")
                raise DataError(
                    f"labels must be among those of the training data ({shown}); "
                    f"{row_location(rows, index, split)} has {label!r}: add examples of it, or "
                    "remove the row"
                )
