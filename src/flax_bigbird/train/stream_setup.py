"""The training data of a run with `streaming`: documents that are read while training."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flax_bigbird._messages import pluralize
from flax_bigbird.data.batching import Bucket, CollateFn, SelectRows
from flax_bigbird.data.corpus import Corpus
from flax_bigbird.data.stream_batches import BatchSource, StreamBatches
from flax_bigbird.data.streaming import stream_dataset, stream_files
from flax_bigbird.data.types import Dataset
from flax_bigbird.parallel.processes import gather_from_all
from flax_bigbird.tasks.base import Task
from flax_bigbird.train.arguments import TrainingArguments
from flax_bigbird.train.callbacks import TrainerCallback
from flax_bigbird.train.data_setup import data_fingerprint, load_validation_rows

TOKENIZER_DOCUMENTS = 20_000
"""How many of the first documents a new tokenizer is trained on."""


@dataclass(frozen=True)
class StreamSource:
    """A stream before there is a model; see `TrainingSource`.

    Attributes:
      corpus: The documents.
      num_readers: The number of processes that need different rows of each batch.
      rows: The first rows.
      validation_rows: The validation rows, if there are any.
    """

    corpus: Corpus
    num_readers: int
    rows: Dataset
    validation_rows: Dataset | None

    def hold_out(self, options: TrainingArguments, task: type[Task]) -> "StreamSource":
        del options, task  # which rows there are is not known
        return self

    def iterate_texts(self, options: TrainingArguments, task: type[Task]) -> Iterator[str]:
        del options, task
        return self.corpus.iterate_texts(TOKENIZER_DOCUMENTS)

    def fingerprint(self, options: TrainingArguments, content_hash: Callable[[Path], str]) -> str:
        paths = [options.validation_files]
        return data_fingerprint(options, paths, content_hash, self.corpus.fingerprint)

    def encode(
        self, options: TrainingArguments, task: Task, config: Any, callback: TrainerCallback
    ) -> "StreamData":
        del config
        task.check_rows(options, self.rows, "train")
        data = StreamData(self.corpus, options, task, self.num_readers)
        if self.corpus.num_shards < data.num_readers:
            callback.on_message(
                f"The stream has {pluralize(self.corpus.num_shards, 'shard')}, and "
                f"{data.num_readers:,} processes read it: they divide shards by rows, unless "
                "these are row groups of Parquet files. With as many files as processes, each "
                "reads less."
            )
        return data


@dataclass(frozen=True)
class StreamData:
    """The examples of a stream; see `TrainingData`.

    Attributes:
      corpus: The documents.
      options: The options of the run, with a `max_length`.
      task: The task.
      num_readers: The number of processes that need different rows of each batch.
    """

    corpus: Corpus
    options: Any
    task: Any
    num_readers: int = 1

    @property
    def buckets(self) -> list[Bucket]:
        tokens = self.options.tokens_per_batch
        none = np.zeros(0, np.int64)
        return [
            Bucket(length, none, max(1, tokens // length)) for length in self.options.bucket_lengths
        ]

    @property
    def main_bucket(self) -> Bucket:
        return self.buckets[-1]

    @property
    def mean_length(self) -> int:
        """The maximum length, as the lengths are not known before the documents are read."""
        return self.options.length

    @property
    def inputs_per_example(self) -> int:
        return 1

    @property
    def description(self) -> str:
        return f"a stream of {pluralize(self.corpus.num_shards, 'shard')}"

    def summary(self) -> dict[str, int | float]:
        return {"shards": self.corpus.num_shards}

    def count_steps(self, options: TrainingArguments) -> tuple[int, int]:
        assert options.max_steps is not None
        return options.max_steps, options.eval_steps or min(options.max_steps, options.save_steps)

    def iterate_batches(
        self, collate: CollateFn, seed: int, batch_rows: SelectRows
    ) -> StreamBatches:
        source = BatchSource(
            self.corpus,
            self.task.window_encoder(),
            self.buckets,
            collate,
            seed,
            shuffle_buffer_size=self.options.shuffle_buffer_size,
            num_workers=self.options.preprocessing_num_workers,
            num_readers=self.num_readers,
            batch_rows=batch_rows,
            exchange=gather_from_all,
        )
        return StreamBatches(source)

    def fit_new_head(
        self, task: Task, model: Any, seed: int, on_message: Callable[[str], None]
    ) -> None:
        del task, model, seed, on_message  # no task of a stream has a head to fit


def open_stream(
    options: TrainingArguments,
    task: type[Task],
    content_hash: Callable[[Path], str],
    num_readers: int,
) -> StreamSource:
    """Returns the stream that the options name.

    Args:
      options: The options of the run.
      task: The class of the task.
      content_hash: The function that hashes a file.
      num_readers: The number of processes that need different rows of each batch.

    Raises:
      DataError: if it cannot be read.
    """
    column: str = options.text_column  # type: ignore[attr-defined]
    if options.dataset:
        corpus = stream_dataset(
            options.dataset, options.dataset_config, options.train_split, column, options.seed
        )
    else:
        corpus = stream_files(options.train_files, column, options.seed, options.file_format)
    rows = corpus.sample()
    return StreamSource(
        corpus, num_readers, rows, load_validation_rows(options, task, content_hash)
    )
