"""Holds out validation rows, stratified so that every label also occurs in the training rows."""

import itertools
from collections import defaultdict
from collections.abc import Collection, Hashable, Sequence

import numpy as np

from flax_bigbird.data.errors import DataError
from flax_bigbird.data.types import Dataset

RowLabels = Sequence[Collection[Hashable]]
"""The labels of each row: one for a class, any number for sets of labels and for tags."""


def train_validation_split(
    rows: Dataset, validation_fraction: float, seed: int, labels: RowLabels | None = None
) -> tuple[Dataset, Dataset | None]:
    """Holds out a random fraction of the rows for validation.

    Args:
      rows: All rows.
      validation_fraction: The fraction to hold out; 0 holds out nothing.
      seed: The seed of the choice.
      labels: The labels of each row, by which the split is stratified; None for rows without
        labels. At least one row of every label is a training row, so a label that occurs in a
        single row is never held out.

    Returns:
      The training rows and the validation rows, which are None if nothing is held out.

    Raises:
      DataError: if there are too few rows, or every row has a label that no other row has.
    """
    if validation_fraction == 0:
        return rows, None
    if len(rows) < 2:
        raise DataError(
            f"a fraction of the rows can be held out of two or more; got {len(rows)}: give "
            "validation_files, or validation_fraction=0"
        )
    count = min(max(1, round(validation_fraction * len(rows))), len(rows) - 1)
    if labels is None:
        parts = rows.train_test_split(test_size=count, seed=seed)
        return parts["train"], parts["test"]
    held_out = stratified_choice(labels, count, np.random.default_rng(seed))
    if not held_out.any():
        raise DataError(
            "rows can be held out if their labels occur in other rows too; got "
            f"{len(rows)} rows, each with a label that no other row has: give validation_files, or "
            "validation_fraction=0"
        )
    return rows.select(np.flatnonzero(~held_out)), rows.select(np.flatnonzero(held_out))


def train_validation_split_of_groups(
    rows: Dataset, validation_fraction: float, seed: int, groups: Sequence[Hashable]
) -> tuple[Dataset, Dataset]:
    """Holds out whole groups of rows for validation, chosen at random.

    Args:
      rows: All rows.
      validation_fraction: The fraction of the groups to hold out, above 0.
      seed: The seed of the choice.
      groups: The group of each row.

    Returns:
      The training rows and the validation rows, in their order.

    Raises:
      DataError: if there are fewer than two groups.
    """
    indices = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    if len(indices) < 2:
        raise DataError(
            "a fraction of the rows can be held out of two groups or more, because rows with the "
            f"same query are held out together; got {len(indices)}: give validation_files, or "
            "validation_fraction=0"
        )
    count = min(max(1, round(validation_fraction * len(indices))), len(indices) - 1)
    chosen = np.random.default_rng(seed).choice(len(indices), count, replace=False)
    held_out = np.isin([indices[group] for group in groups], chosen)
    return rows.select(np.flatnonzero(~held_out)), rows.select(np.flatnonzero(held_out))


def stratified_choice(labels: RowLabels, count: int, generator: np.random.Generator) -> np.ndarray:
    """Chooses rows such that each label is about as frequent among them as among all rows.

    This is the iterative stratification of Sechidis et al. (2011), with the labels in a fixed
    order, from the rarest to the most frequent. Each row goes to the part that still needs more
    rows of the label.

    Args:
      labels: The labels of each row.
      count: The number of rows to choose; with several labels per row, the result may differ a
        little. It is smaller if more rows cannot be chosen without choosing all rows of a label.
      generator: The source of randomness.

    Returns:
      `[num_rows]`, whether a row is chosen. Of each label, at least one row is not.
    """
    num_rows = len(labels)
    rows_by_label: dict[Hashable, list[int]] = defaultdict(list)
    for row in generator.permutation(num_rows).tolist():
        for label in set(labels[row]) or {None}:
            rows_by_label[label].append(row)
    remaining = {label: len(rows) for label, rows in rows_by_label.items()}
    # How many rows each part needs, in units of 1 / num_rows, so that all numbers are integers.
    needs = {label: [n * (num_rows - count), n * count] for label, n in remaining.items()}
    total = [num_rows * (num_rows - count), num_rows * count]
    chosen = np.zeros(num_rows, bool)
    assigned = np.zeros(num_rows, bool)
    for label in sorted(rows_by_label, key=lambda label: (len(rows_by_label[label]), str(label))):
        for row in rows_by_label[label]:
            if assigned[row]:
                continue
            row_labels = set(labels[row]) or {None}
            part = int((needs[label][1], total[1]) > (needs[label][0], total[0]))
            part = part if all(remaining[name] > 1 for name in row_labels) else 0
            for name in row_labels:
                remaining[name] -= part
                needs[name][part] -= num_rows
            total[part] -= num_rows
            assigned[row], chosen[row] = True, bool(part)
    if not chosen.any():  # there are so few rows that the fraction of each label rounds to none
        candidates = (row for row in range(num_rows) if _can_be_chosen(labels[row], remaining))
        chosen[list(itertools.islice(candidates, 1))] = True
    return chosen


def _can_be_chosen(row_labels: Collection[Hashable], remaining: dict[Hashable, int]) -> bool:
    """Returns whether each label of a row occurs in another row that is not chosen."""
    return all(remaining[name] > 1 for name in row_labels or {None})
