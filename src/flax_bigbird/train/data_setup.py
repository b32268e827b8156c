"""Loads and encodes the training and validation data of a run, and assigns it to buckets."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flax_bigbird._messages import pluralize
from flax_bigbird.config import SparsityConfig
from flax_bigbird.data import files
from flax_bigbird.data.batching import (
    Bucket,
    CollateFn,
    Examples,
    SelectRows,
    batches_per_epoch,
    padding_fraction,
    training_batches,
)
from flax_bigbird.data.loading import file_columns, load_dataset_split, load_files
from flax_bigbird.data.packing import pack_examples
from flax_bigbird.data.splitting import train_validation_split, train_validation_split_of_groups
from flax_bigbird.data.types import Dataset
from flax_bigbird.tasks.base import EncodedDataset, Split, Task
from flax_bigbird.tasks.evaluation import assign_example_buckets, unknown_tokens_messages
from flax_bigbird.train.arguments import TrainingArguments
from flax_bigbird.train.callbacks import TrainerCallback


@dataclass(frozen=True)
class SplitData:
    """The encoded examples of a split, assigned to buckets; see `TrainingData`.

    Attributes:
      encoded: The examples, and the source rows that the metrics need.
      lengths: `[examples]`, their lengths in tokens.
      buckets: The buckets, whose indices refer to `rows`.
      rows: The rows of batches: the examples, or rows into which short ones are packed.
    """

    encoded: EncodedDataset
    lengths: np.ndarray
    buckets: list[Bucket]
    rows: Examples

    @property
    def num_rows(self) -> int:
        return sum(len(bucket.indices) for bucket in self.buckets)

    @property
    def num_tokens(self) -> int:
        return int(self.lengths.sum())

    @property
    def padding_fraction(self) -> float:
        """The fraction of the tokens of all padded rows that is padding."""
        return padding_fraction(self.lengths, self.buckets)

    @property
    def main_bucket(self) -> Bucket:
        """The bucket with the most rows."""
        return max(self.buckets, key=lambda bucket: len(bucket.indices))

    @property
    def mean_length(self) -> int:
        return int(self.lengths.mean())

    @property
    def inputs_per_example(self) -> int:
        return self.encoded.inputs_per_example

    @property
    def description(self) -> str:
        return (
            f"{pluralize(self.num_rows, 'row')} of {pluralize(self.num_tokens, 'token')}, padding "
            f"{self.padding_fraction:.0%}"
        )

    def summary(self) -> dict[str, int | float]:
        """Returns the entry of report.json."""
        return {"rows": self.num_rows, "tokens": self.num_tokens, "padding": self.padding_fraction}

    def count_steps(self, options: TrainingArguments) -> tuple[int, int]:
        steps_per_epoch = batches_per_epoch(self.buckets) / options.gradient_accumulation_steps
        max_steps = options.max_steps
        if max_steps is None:
            max_steps = max(1, math.ceil(options.num_train_epochs * steps_per_epoch))
        return max_steps, options.eval_steps or max(1, min(max_steps, round(steps_per_epoch)))

    def iterate_batches(self, collate: CollateFn, seed: int, batch_rows: SelectRows) -> Any:
        return iter(training_batches(self.rows, self.buckets, collate, seed, batch_rows))

    def fit_new_head(
        self, task: Task, model: Any, seed: int, on_message: Callable[[str], None]
    ) -> Any:
        return task.fit_new_head(model, self.encoded, self.buckets, seed, on_message)


@dataclass(frozen=True)
class LoadedSource:
    """The rows of a run that are loaded; see `TrainingSource`.

    Attributes:
      rows: The training rows.
      validation_rows: The validation rows, if there are any.
    """

    rows: Dataset
    validation_rows: Dataset | None

    def hold_out(self, options: TrainingArguments, task: type[Task]) -> "LoadedSource":
        if self.validation_rows is not None:
            return self
        return LoadedSource(*hold_out_rows(options, task, self.rows))

    def iterate_texts(self, options: TrainingArguments, task: type[Task]) -> Iterator[str]:
        return task.iterate_texts(options, self.rows)

    def fingerprint(self, options: TrainingArguments, content_hash: Callable[[Path], str]) -> str:
        paths = [options.train_files, options.validation_files]
        return data_fingerprint(options, paths, content_hash)

    def encode(
        self, options: TrainingArguments, task: Task, config: Any, callback: TrainerCallback
    ) -> SplitData:
        data = setup_split(options, task, self.rows, "train", callback)
        return pack_split(options, data, config, callback) if task.packing else data


def load_rows(
    options: TrainingArguments, task: type[Task], content_hash: Callable[[Path], str]
) -> tuple[TrainingArguments, LoadedSource]:
    """Loads the rows of a run.

    Args:
      options: The options of the run.
      task: The class of the task.
      content_hash: The function that hashes a file.

    Returns:
      The options with the columns of the data (see `Task.resolve_columns`), and the rows of the
      training data and, if they are given, of the validation data.

    Raises:
      DataError: if the data cannot be loaded.
    """
    reading: dict[str, Any] = {"separator": options.separator, "file_format": options.file_format}
    if options.dataset:
        rows = load_dataset_split(options.dataset, options.dataset_config, options.train_split)
        options = task.resolve_columns(options, rows.column_names)
    else:
        options = task.resolve_columns(options, file_columns(options.train_files, **reading))
        reading["content_hash"] = content_hash
        rows = load_files(options.train_files, task.columns(options), **reading)
    return options, LoadedSource(rows, load_validation_rows(options, task, content_hash))


def load_validation_rows(
    options: TrainingArguments, task: type[Task], content_hash: Callable[[Path], str]
) -> Dataset | None:
    """Returns the rows of the validation data if they are given; see `load_rows`."""
    if options.validation_files:
        return load_files(
            options.validation_files,
            task.columns(options),
            "validation",
            separator=options.separator,
            file_format=options.file_format,
            content_hash=content_hash,
        )
    if options.dataset and options.validation_split:
        return load_dataset_split(options.dataset, options.dataset_config, options.validation_split)
    return None


def data_fingerprint(
    options: TrainingArguments,
    paths: Sequence[list[str]],
    content_hash: Callable[[Path], str],
    stream: str | None = None,
) -> str:
    """Returns a hash of the content of the data of a run; "" for a dataset, which has none.

    Args:
      options: The options of the run.
      paths: The lists of files whose content is hashed.
      content_hash: The function that hashes a file.
      stream: The fingerprint of data that are streamed, if there are any.
    """
    if options.dataset:
        return ""
    hashes = [
        [content_hash(file) for file in files.expand_paths(names, options.file_format)[1]]
        for names in paths
        if names
    ]
    known = hashes if stream is None else (stream, hashes)
    return hashlib.sha256(repr(known).encode()).hexdigest()[:32]


def hold_out_rows(
    options: TrainingArguments, task_class: type[Task], rows: Dataset
) -> tuple[Dataset, Dataset | None]:
    """Holds out `validation_fraction` of the rows for validation, stratified or in whole groups.

    Args:
      options: The options of the run.
      task_class: The task, which knows where the labels are.
      rows: The rows of the training data, which `Task.infer_config` has checked.

    Returns:
      The training rows, and the validation rows or None.

    Raises:
      DataError: if the rows are too few.
    """
    fraction = options.validation_fraction
    groups = task_class.group_labels(options, rows) if fraction else None
    if groups is not None:
        return train_validation_split_of_groups(rows, fraction, options.seed, groups)
    labels = task_class.stratification_labels(options, rows) if fraction else None
    return train_validation_split(rows, fraction, options.seed, labels)


def setup_split(
    options: TrainingArguments,
    task: Task,
    rows: Dataset,
    split: Split,
    callback: TrainerCallback,
) -> SplitData:
    """Encodes the rows of a split and assigns the examples to buckets.

    Args:
      options: The options of the run, with a `max_length`.
      task: The task.
      rows: The rows.
      split: "train" or "validation", for messages.
      callback: The callback that receives the messages.
    """
    encoded = task.encode_dataset(rows, split)
    for message in [*encoded.messages, *unknown_tokens_messages(task, encoded, split)]:
        callback.on_message(f"{message}.")
    lengths, buckets = assign_example_buckets(options, encoded)
    return SplitData(encoded, lengths, buckets, encoded.examples)


def pack_split(
    options: TrainingArguments, data: SplitData, config: Any, callback: TrainerCallback
) -> SplitData:
    """Packs the short examples of a split into rows of `max_length` tokens.

    Args:
      options: The options of the run, with a `max_length`.
      data: The examples.
      config: The model's configuration.
      callback: The callback that receives a message with their number.
    """
    rows_per_batch = max(1, options.tokens_per_batch // options.length)
    packed = pack_examples(
        data.encoded.examples,
        data.lengths,
        data.buckets,
        options.length,
        rows_per_batch,
        block_size=config.block_size,
        max_blocks=SparsityConfig.from_hf(config).max_packed_blocks,
    )
    num_packed = sum(len(row) for row in packed.packed_rows)
    too_long = pluralize(len(data.lengths) - num_packed, "is", "are")
    callback.on_message(
        f"{pluralize(num_packed, 'example is', 'examples are')} packed into "
        f"{pluralize(len(packed.packed_rows), 'row')} of {options.length:,} tokens; {too_long} too "
        "long to be packed."
    )
    return SplitData(data.encoded, data.lengths, packed.buckets, packed)
