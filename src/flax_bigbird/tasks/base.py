"""What a task defines: how rows are encoded, the loss, the metrics, and how outputs are decoded.

Training and evaluation use a task only through the class `Task`, prediction only through its base
`PredictionTask`, which is enough for a task without a loss. A task is complete when it is
constructed: its options, the tokenizer, and the model's configuration hold all that it needs to
know.
"""

import abc
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from flax_bigbird.data.batching import Bucket
from flax_bigbird.data.splitting import RowLabels
from flax_bigbird.data.types import Arrays, Dataset, Row
from flax_bigbird.tasks.prediction_task import PredictionTask as PredictionTask
from flax_bigbird.tasks.prediction_task import Window as Window
from flax_bigbird.tasks.prediction_task import get_text as get_text

Split = Literal["train", "validation", "test"]

Metrics = Mapping[str, bool | None]
"""The names of metrics, and whether a greater value is better; None if it is neither better nor
worse, as of a threshold."""


@dataclass(frozen=True)
class EncodedDataset:
    """The examples of a split.

    Attributes:
      examples: One row per example, with at least `length`, its number of tokens.
      messages: Sentences for the log, for example how many documents were truncated.
      source: The rows that the examples were made from, if the metrics need them.
      inputs_per_example: The number of input sequences that the model reads per example.
      max_windows: The maximum number of windows of `max_length` tokens that an example consists of,
        one after another.
      max_evaluation_tokens: The maximum number of tokens of a batch in evaluations, besides
        `tokens_per_batch`.
      repeats_in_batch: Whether the batches of a bucket with fewer examples than a batch has are
        filled with repetitions; otherwise, they are smaller.
    """

    examples: Dataset
    messages: list[str] = field(default_factory=list)
    source: Dataset | None = None
    inputs_per_example: int = 1
    max_windows: int = 1
    max_evaluation_tokens: int | None = None
    repeats_in_batch: bool = True


class Loss(NamedTuple):
    """The loss of a batch.

    Attributes:
      mean: The mean over the targets of the batch, a scalar.
      num_targets: The number of targets, by which the losses of batches are weighted.
    """

    mean: Any
    num_targets: Any


class Task(PredictionTask):
    """One task, for training, evaluation, and prediction.

    Attributes:
      is_pretraining: Whether training starts from a new model unless a model is given.
      token_columns: The columns of the encoded examples that hold token ids.
      splits_batches: Whether the loss of a batch is the mean over parts of it, so that gradients of
        parts may be added instead.
      masks_rows: Whether the `loss` of this class leaves out rows where
        `flax_bigbird.data.types.ROW_MASK` is False; a subclass with another `loss` says so again.
        Otherwise, a batch that the devices do not divide is computed by each of them.
    """

    is_pretraining: ClassVar[bool] = False
    token_columns: ClassVar[tuple[str, ...]] = ("input_ids",)
    splits_batches: ClassVar[bool] = True
    masks_rows: ClassVar[bool] = False

    # Methods that run before the model exists.

    @classmethod
    @abc.abstractmethod
    def check_rows(cls, options: Any, rows: Dataset, split: Split) -> list[str]:
        """Checks that rows have the columns and values that the task reads.

        Returns:
          Sentences for the log, for example how many texts are empty.

        Raises:
          DataError: if a column is missing or a value cannot be used. The message names the row.
        """

    @classmethod
    def infer_config(cls, options: Any, rows: Dataset) -> dict[str, Any]:
        """Returns the keys of the model's configuration that follow from the training rows.

        Raises:
          DataError: if the rows cannot be used for training.
        """
        del options, rows
        return {}

    @classmethod
    def stratification_labels(cls, options: Any, rows: Dataset) -> RowLabels | None:
        """Returns the labels of each row, by which validation rows are held out in proportion.

        None stands for rows without labels, which are held out at random.
        """
        del options, rows
        return None

    @classmethod
    def group_labels(cls, options: Any, rows: Dataset) -> Sequence[Hashable] | None:
        """Returns the group of each row; rows of a group are held out together.

        None, the default, stands for rows that do not belong together.
        """
        del options, rows
        return None

    @classmethod
    @abc.abstractmethod
    def iterate_texts(cls, options: Any, rows: Dataset) -> Iterator[str]:
        """Yields the texts that a vocabulary can be trained on."""

    @classmethod
    @abc.abstractmethod
    def evaluation_metrics(
        cls, options: Any, config: Any = None, rows: Dataset | None = None
    ) -> Metrics:
        """Returns the metrics that `compute_metrics` returns for validation data.

        The first one chooses the best model of a run, unless `metric_for_best_model` names another.
        A subclass that computes other metrics overrides this method too.

        Args:
          options: The options. If `config` is given, they have the columns of the data.
          config: The configuration of the model; None if it is not known yet. The result then has
            the metrics of all configurations that the options allow.
          rows: The validation rows, which `check_rows` has checked; None if they are not known yet.
            The result then has the metrics that some rows do not define, too.
        """

    # Training and evaluation.

    @property
    def packing(self) -> bool:
        """Whether short examples are packed into rows, see `flax_bigbird.data.packing`."""
        return False

    @property
    def logits_per_token(self) -> float:
        """The fraction of the tokens whose logits over the vocabulary are computed."""
        return 0.0

    @abc.abstractmethod
    def encode_dataset(self, rows: Dataset, split: Split) -> EncodedDataset:
        """Encodes the rows of a split, with their labels.

        The result is cached by `datasets` under a fingerprint of everything that it depends on.

        Raises:
          DataError: if a row cannot be used.
        """

    @abc.abstractmethod
    def collate(self, example: Row, length: int, generator: np.random.Generator) -> Arrays:
        """Returns the arrays of one example, padded to `length` tokens.

        Args:
          example: A row of `EncodedDataset.examples`.
          length: The number of tokens to pad to.
          generator: The source of all randomness, such as the choice of masked tokens.
        """

    @abc.abstractmethod
    def loss(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Loss:
        """Returns the loss of a batch. This function is traced.

        Args:
          model: An instance of `model_class`.
          params: The model's parameters.
          batch: The stacked arrays of `collate`.
          **call: Arguments for the model, such as `train` and `dropout_rng`.
        """

    def fit_new_head(
        self,
        model: Any,
        encoded: EncodedDataset,
        buckets: list[Bucket],
        seed: int,
        log: Callable[[str], None],
    ) -> Any:
        """Fits a new head to the outputs of the model, which is not changed.

        Args:
          model: The model, whose head has random parameters.
          encoded: The training examples.
          buckets: The buckets of the examples.
          seed: The seed of every random choice.
          log: Called with sentences about the work.

        Returns:
          All parameters of the model, those of the head among them; None, the default, to start
          from the random ones.
        """
        del model, encoded, buckets, seed, log
        return None

    @abc.abstractmethod
    def eval_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        """Returns the values that the metrics are computed from, `[B, ...]` each; it is traced."""

    def merge_windows(self, outputs: Arrays, encoded: EncodedDataset) -> Arrays:
        """Returns the outputs of documents, computed from the outputs of their windows.

        Args:
          outputs: The outputs of `eval_step` for all examples, in the order of the examples.
          encoded: The examples.
        """
        del encoded
        return outputs

    @abc.abstractmethod
    def compute_metrics(self, outputs: Arrays, encoded: EncodedDataset) -> dict[str, float]:
        """Returns the metrics of a split, those of `evaluation_metrics`.

        Args:
          outputs: The outputs of `merge_windows`.
          encoded: The examples.
        """

    def tuned_config(self, outputs: Arrays, encoded: EncodedDataset) -> dict[str, Any]:
        """Returns keys of the model's configuration that are chosen on the validation data.

        Args:
          outputs: The outputs of `merge_windows` for the validation data.
          encoded: The examples.
        """
        del outputs, encoded
        return {}

    def report_details(self, outputs: Arrays, encoded: EncodedDataset) -> dict[str, Any]:
        """Returns additional entries for the report of a run, for example a confusion matrix."""
        del outputs, encoded
        return {}

    def save_files(self, folder: Path) -> None:
        """Writes the files of the task beside the model of a run that is saved in `folder`."""
        del folder
