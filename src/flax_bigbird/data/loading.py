"""Files, folders and `datasets` ids as a `datasets.Dataset`; what is wrong with them, by line."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flax_bigbird.tasks import files
from flax_bigbird.tasks.errors import DataError as DataError
from flax_bigbird.train.options import TrainOptions

if TYPE_CHECKING:
    from datasets import Dataset


def read_files(paths: Sequence[str]) -> "Dataset":
    """The rows of files of one kind, in order; a folder stands for the text files below it.

    Text files are one document each, in the column `text`. Columns keep the types that `datasets`
    finds.

    Raises:
      DataError: a file is missing, empty, of no known kind, not UTF-8, or broken (with the line).
    """
    kind, found = files.expand(paths)
    options: dict[str, Any] = {"sample_by": "document"} if kind == "text" else {}
    if kind == "csv":
        options["sep"] = files.separator(found[0])
    # datasets may skip or guess where a file is broken: the line is found before.
    files.check(found, kind)
    return _load(kind, [str(file) for file in found], options)


def read_dataset(name: str, configuration: str | None, split: str) -> "Dataset":
    """A split of a dataset of the Hub, or of a folder that `datasets` reads.

    Raises:
      DataError: it cannot be loaded.
    """
    datasets = _datasets()
    try:
        return datasets.load_dataset(name, configuration, split=split)
    except Exception as error:  # of many libraries: files, network, splits
        raise DataError(
            f"the dataset must be one that `datasets` loads; {name} "
            f"({configuration or 'default'}, {split}) is not: {_one_line(error)}"
        ) from error


def read_training_data(options: TrainOptions) -> tuple["Dataset", "Dataset | None"]:
    """(training rows, validation rows or None), as the options say.

    Without validation data, `validation_share` of the rows are held out at random, by the seed.
    """
    if options.dataset:
        training = read_dataset(options.dataset, options.dataset_name, options.train_split)
    else:
        training = read_files(options.train_files)
    if options.validation_files:
        return training, read_files(options.validation_files)
    if options.dataset and options.validation_split:
        split = options.validation_split
        return training, read_dataset(options.dataset, options.dataset_name, split)
    if options.validation_share == 0:
        return training, None
    if len(training) < 2:
        raise DataError(
            f"a share of the rows can be held out where there are two or more; got {len(training)}"
            ": give validation_files, or validation_share=0"
        )
    count = max(1, round(options.validation_share * len(training)))
    parts = training.train_test_split(test_size=count, seed=options.seed)
    return parts["train"], parts["test"]


def check_columns(rows: "Dataset", names: Sequence[str], what: str) -> None:
    """Raises `DataError` for a column that is not there, naming those that are."""
    for name in names:
        if name not in rows.column_names:
            raise DataError(
                f"the {what} must have a column {name!r}; got {', '.join(rows.column_names)}: name "
                "the right one with an option such as text_column or label_column"
            )


def _load(kind: str, names: list[str], options: dict[str, Any]) -> "Dataset":
    datasets = _datasets()
    try:
        return datasets.load_dataset(kind, data_files=names, split="train", **options)
    except Exception as error:
        cause = error.__cause__
        if isinstance(cause, OSError):
            raise cause from error  # a full disk says so itself
        raise DataError(
            f"data files must be readable as {kind}; {', '.join(names[:3])}: {_one_line(error)}"
        ) from error


def _datasets() -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets


def _one_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return " ".join(f"{type(cause).__name__}: {cause}".split())[:300]
