"""The training data of a run with `streaming`: documents that are read while training."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from flax_bigbird.data.batching import BatchRows, Bucket, CollateFn
from flax_bigbird.data.stream_batches import BatchSource, StreamBatches
from flax_bigbird.data.streaming import Corpus, stream_dataset, stream_files
from flax_bigbird.tasks.base import EncodedDataset
from flax_bigbird.train.arguments import TrainingArguments

TOKENIZER_DOCUMENTS = 20_000
"""How many of the first documents a new tokenizer is trained on."""


@dataclass(frozen=True)
class StreamData:
    """What the trainer needs to know of a stream; it has the attributes of `SplitData`.

    Attributes:
      corpus: The documents.
      options: The options of the run, with a `max_length`.
      task: The task.
    """

    corpus: Corpus
    options: Any
    task: Any

    @property
    def encoded(self) -> EncodedDataset:
        """No examples, as they are not known before they are read."""
        import datasets

        return EncodedDataset(datasets.Dataset.from_list([]))

    @property
    def lengths(self) -> np.ndarray:
        """`[1]`, the maximum length of an example."""
        return np.array([self.options.length])

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
    def description(self) -> str:
        return f"a stream of {self.corpus.num_shards:,} shards"

    def iterate_batches(
        self, collate: CollateFn, seed: int, batch_rows: Callable[[Bucket], BatchRows]
    ) -> StreamBatches:
        """Returns an iterator of training batches, which is resumable."""
        source = BatchSource(
            self.corpus,
            self.task.window_encoder(),
            self.buckets,
            collate,
            seed,
            shuffle_buffer_size=self.options.shuffle_buffer_size,
            num_workers=self.options.preprocessing_num_workers,
            batch_rows=batch_rows,
        )
        return StreamBatches(source)

    def summary(self) -> dict[str, int | float]:
        """Returns the entry of report.json."""
        return {"shards": self.corpus.num_shards}


def open_corpus(options: TrainingArguments) -> Corpus:
    """Returns the corpus that the options name.

    Raises:
      DataError: if it cannot be read.
    """
    column: str = options.text_column  # type: ignore[attr-defined]
    if options.dataset:
        return stream_dataset(
            options.dataset, options.dataset_config, options.train_split, column, options.seed
        )
    return stream_files(options.train_files, column, options.seed, options.file_format)
