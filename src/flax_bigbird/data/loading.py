"""Loads files and `datasets` ids as `datasets.Dataset`, splits them, and checks their columns."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from flax_bigbird.data import files
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.types import Dataset

SPLIT_NAMES = {"train": "training data", "validation": "validation data", "test": "data"}
"""What the splits are called in messages."""


def load_files(paths: Sequence[str]) -> Dataset:
    """Loads the rows of files of one format, in order.

    A folder stands for the text files below it. Text files are one document each, in the column
    `text`. Columns have the types that `datasets` infers.

    Raises:
      DataError: if a file is missing, empty, of an unknown format, not UTF-8, or broken. The
        message names the line.
    """
    format, paths_found = files.expand_paths(paths)
    options: dict[str, Any] = {"sample_by": "document"} if format == "text" else {}
    if format == "csv":
        options["sep"] = files.column_separator(paths_found[0])
    # `datasets` may skip or guess where a file is broken, so the files are checked first.
    files.check_files(paths_found, format)
    names = [str(file) for file in paths_found]
    try:
        return _datasets().load_dataset(format, data_files=names, split="train", **options)
    except Exception as error:
        cause = error.__cause__
        if isinstance(cause, OSError):
            raise cause from error  # for example a full disk, whose own message is clearer
        raise DataError(
            f"data files must be readable as {format}; {', '.join(names[:3])}: {_one_line(error)}"
        ) from error


def load_dataset_split(name: str, configuration: str | None, split: str) -> Dataset:
    """Loads a split of a dataset on the Hugging Face Hub, or of a folder that `datasets` reads.

    Args:
      name: The dataset's id or folder.
      configuration: The dataset's configuration; None for the default.
      split: The name of the split.

    Raises:
      DataError: if `datasets` cannot load it.
    """
    try:
        return _datasets().load_dataset(name, configuration, split=split)
    except Exception as error:  # of many libraries: files, network, splits
        raise DataError(
            f"the dataset must be one that `datasets` loads; {name} "
            f"({configuration or 'default'}, {split}) is not: {_one_line(error)}"
        ) from error


def train_validation_split(
    rows: Dataset, validation_fraction: float, seed: int
) -> tuple[Dataset, Dataset | None]:
    """Holds out a random fraction of the rows for validation.

    Args:
      rows: All rows.
      validation_fraction: The fraction to hold out; 0 holds out nothing.
      seed: The seed of the choice.

    Returns:
      The training rows and the validation rows, which are None if nothing is held out.

    Raises:
      DataError: if there are too few rows.
    """
    if validation_fraction == 0:
        return rows, None
    if len(rows) < 2:
        raise DataError(
            f"a fraction of the rows can be held out of two or more; got {len(rows)}: give "
            "validation_files, or validation_fraction=0"
        )
    count = max(1, round(validation_fraction * len(rows)))
    parts = rows.train_test_split(test_size=count, seed=seed)
    return parts["train"], parts["test"]


def require_columns(rows: Dataset, names: Iterable[str], split: str) -> None:
    """Checks that columns exist.

    Args:
      rows: The rows.
      names: The names of the columns.
      split: The split of the rows, a key of `SPLIT_NAMES`.

    Raises:
      DataError: if a column is missing. The message lists those that exist.
    """
    for name in names:
        if name not in rows.column_names:
            raise DataError(
                f"the {SPLIT_NAMES[split]} must have a column {name!r}; got "
                f"{', '.join(rows.column_names)}: name the right one with an option such as "
                "text_column or label_column"
            )


def require_texts(rows: Dataset, names: Iterable[str], split: str) -> list[str]:
    """Checks that columns hold a text in every row.

    Args:
      rows: The rows.
      names: The names of the columns.
      split: The split of the rows, a key of `SPLIT_NAMES`.

    Returns:
      A sentence for the log for each column in which some texts are empty.

    Raises:
      DataError: if a column is missing or holds something else. The message names the row.
    """
    names = list(names)
    require_columns(rows, names, split)
    return [message for name in names for message in _check_texts(rows, name, split)]


def iterate_column(rows: Dataset, name: str) -> Iterator[Any]:
    """Yields the values of a column without holding them all in memory."""
    for batch in rows.select_columns(name).iter(256):
        yield from batch[name]  # type: ignore[index]


def _check_texts(rows: Dataset, name: str, split: str) -> list[str]:
    dtype = getattr(rows.features[name], "dtype", None)
    if dtype not in ("string", "large_string"):
        raise DataError(
            f"column {name!r} of the {SPLIT_NAMES[split]} must hold texts; it holds {dtype}: name "
            "another column"
        )
    missing, empty = [], []
    for row, text in enumerate(iterate_column(rows, name), 1):
        if text is None:
            missing.append(row)
        elif not text or text.isspace():
            empty.append(row)
    if missing:
        raise DataError(
            f"column {name!r} of the {SPLIT_NAMES[split]} must hold a text in every row; row "
            f"{missing[0]} has none ({len(missing)} in all): fill or remove them"
        )
    if not empty:
        return []
    return [
        f"{len(empty):,} texts in column {name!r} of the {SPLIT_NAMES[split]} are empty, row "
        f"{empty[0]} first"
    ]


def _datasets() -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets


def _one_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return " ".join(f"{type(cause).__name__}: {cause}".split())[:300]
