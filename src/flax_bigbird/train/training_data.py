"""What a run needs of its training data, whether they are loaded or streamed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from flax_bigbird.data.batching import Bucket, CollateFn, SelectRows
from flax_bigbird.data.types import Dataset
from flax_bigbird.tasks.base import Task
from flax_bigbird.train.arguments import TrainingArguments
from flax_bigbird.train.callbacks import TrainerCallback


@runtime_checkable
class TrainingData(Protocol):
    """The training examples of a run, as the trainer sees them."""

    @property
    def main_bucket(self) -> Bucket:
        """The bucket that most of the work is done in."""
        ...

    @property
    def mean_length(self) -> int:
        """The mean length of an example in tokens, for the throughput."""
        ...

    @property
    def inputs_per_example(self) -> int:
        """See `EncodedDataset`."""
        ...

    @property
    def description(self) -> str:
        """What the run trains on, for messages."""
        ...

    def summary(self) -> dict[str, int | float]:
        """Returns the entry of report.json."""
        ...

    def count_steps(self, options: TrainingArguments) -> tuple[int, int]:
        """Returns the number of optimizer steps of a run, and the number between evaluations."""
        ...

    def iterate_batches(self, collate: CollateFn, seed: int, batch_rows: SelectRows) -> Any:
        """Returns an endless iterator of training batches with grain's `get_state`, `set_state`."""
        ...

    def fit_new_head(
        self, task: Task, model: Any, seed: int, on_message: Callable[[str], None]
    ) -> Any:
        """Returns the parameters with a fitted head, or None; see `Task.fit_new_head`."""
        ...


@runtime_checkable
class TrainingSource(Protocol):
    """The rows of a run, before there is a model.

    Attributes:
      rows: The training rows, or the first ones of a stream.
      validation_rows: The validation rows, if there are any.
    """

    @property
    def rows(self) -> Dataset: ...

    @property
    def validation_rows(self) -> Dataset | None: ...

    def hold_out(self, options: TrainingArguments, task: type[Task]) -> "TrainingSource":
        """Returns the source after validation rows are held out, if the options ask for them."""
        ...

    def iterate_texts(self, options: TrainingArguments, task: type[Task]) -> Iterator[str]:
        """Yields texts to train a tokenizer on."""
        ...

    def fingerprint(self, options: TrainingArguments, content_hash: Callable[[Path], str]) -> str:
        """Returns a hash of the content of the data; "" for a dataset, which has none.

        Args:
          options: The options of the run.
          content_hash: The function that hashes a file.
        """
        ...

    def encode(
        self, options: TrainingArguments, task: Task, config: Any, callback: TrainerCallback
    ) -> TrainingData:
        """Returns the training examples.

        Args:
          options: The options of the run, with a `max_length`.
          task: The task.
          config: The model's configuration.
          callback: The callback that receives messages about the examples.
        """
        ...
