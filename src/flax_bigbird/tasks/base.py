"""What a task defines: how rows are encoded, the loss, the metrics, and how outputs are decoded.

Training and evaluation use a task only through the class `Task`, prediction only through its base
`PredictionTask`, which is enough for a task without a loss. A task is complete when it is
constructed: its options, the tokenizer, and the model's configuration hold all that it needs to
know.
"""

import abc
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from flax_bigbird.data.batching import Bucket
from flax_bigbird.data.columns import ColumnKind, find_surrogate
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.splitting import RowLabels
from flax_bigbird.data.tokenization import check_vocabulary_fits
from flax_bigbird.data.types import Arrays, Dataset, Row, Tokenizer
from flax_bigbird.tasks.options import TaskOptions

Split = Literal["train", "validation", "test"]


class Window(NamedTuple):
    """One input sequence of the model, made from a row.

    Attributes:
      input_ids: The token ids, with `[CLS]` and `[SEP]`, at most `max_length` of them.
      info: What `decode` needs to know about the window, for example the position of each word.
    """

    input_ids: list[int]
    info: Any = None


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
    """

    examples: Dataset
    messages: list[str] = field(default_factory=list)
    source: Dataset | None = None
    inputs_per_example: int = 1
    max_windows: int = 1
    max_evaluation_tokens: int | None = None


class Loss(NamedTuple):
    """The loss of a batch.

    Attributes:
      mean: The mean over the targets of the batch, a scalar.
      num_targets: The number of targets, by which the losses of batches are weighted.
    """

    mean: Any
    num_targets: Any


class PredictionTask(abc.ABC):
    """What a task defines for prediction: how rows are encoded, and how outputs are decoded.

    The class methods run before the model exists. An instance belongs to the options, the
    tokenizer, and the configuration of one model.

    Attributes:
      name: The name that users give, for example `"masked-lm"`.
      title: The name of the task in model cards.
      pipeline_tag: The task's name on the Hugging Face Hub.
      model_class: The name of the model class in `flax_bigbird`.
      model_fields: The fields of the model's linen module that differ from their defaults.
      options_class: The class of the task's options.
      compiles_predict_step: Whether `predict_step` compiles its own programs. Otherwise, the caller
        compiles it with `jax.jit`.
      owns_model_class: Whether a checkpoint of `model_class` belongs to this task if nothing else
        says which task it was trained for.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    pipeline_tag: ClassVar[str]
    model_class: ClassVar[str]
    model_fields: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    options_class: ClassVar[type[TaskOptions]]
    compiles_predict_step: ClassVar[bool] = False
    owns_model_class: ClassVar[bool] = True

    def __init__(self, options: Any, tokenizer: Tokenizer, config: Any):
        """Prepares the task for one model.

        Args:
          options: An instance of `options_class`. Without a `max_length`, the length of the
            model's position embeddings is taken.
          tokenizer: The model's tokenizer.
          config: The model's `BigBirdConfig`.

        Raises:
          OptionError: if the tokenizer has tokens that the model lacks.
        """
        check_vocabulary_fits(
            tokenizer,
            config.vocab_size,
            "use the tokenizer that belongs to the model, or give the model more tokens with "
            "flax_bigbird.resize_token_embeddings or bigbird train --resize-vocabulary",
        )
        self.options = options.with_max_length(config.max_position_embeddings)
        self.tokenizer = tokenizer
        self.config = config

    @classmethod
    def for_model(
        cls, options: Any, tokenizer: Tokenizer, config: Any, model: str | None
    ) -> "PredictionTask":
        """Returns the task for a model, with what the files beside its weights say about the task.

        By default, they say nothing. The arguments are those of the constructor, and the directory,
        shipped name or Hub id of the model; None for a new one.

        Raises:
          OptionError: if the options or the files cannot be used.
        """
        del model
        return cls(options, tokenizer, config)

    @classmethod
    def columns(cls, options: Any) -> dict[str, ColumnKind] | None:
        """Returns the columns that training and evaluation read, and what each of them holds.

        Only these columns of files are read, so that others cannot cause errors. None, the
        default, reads all columns with the types that their values have.
        """
        del options
        return None

    @classmethod
    def resolve_columns(cls, options: Any, names: Collection[str]) -> Any:
        """Returns the options with the columns of a known data set, if the data have these.

        By default, the options do not change.

        Args:
          options: The options.
          names: The names of the columns of the data.
        """
        del names
        return options

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Checks that a model of this configuration can predict for the task.

        Raises:
          OptionError: if it cannot.
        """
        del config

    @abc.abstractmethod
    def encode(self, row: Row) -> list[Window]:
        """Encodes a row as one or more windows of at most `max_length` tokens.

        Raises:
          DataError: if the row lacks what the task reads. The message does not name the row.
        """

    def collate_window(self, window: Window, length: int) -> Arrays:
        """Returns the arrays of one window, padded to `length` tokens."""
        return self.pad(window.input_ids, length)

    @abc.abstractmethod
    def predict_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        """Returns the values that `decode` needs from a batch of windows, `[B, ...]` each.

        This function is traced, unless `compiles_predict_step` is set.
        """

    @abc.abstractmethod
    def decode(self, row: Row, windows: Sequence[Window], outputs: Sequence[Arrays]) -> Row:
        """Returns the prediction for a row as plain values.

        Args:
          row: The row.
          windows: The windows of the row, from `encode`.
          outputs: The outputs of `predict_step` for each window, without the batch axis.
        """

    # A helper for subclasses.

    def pad(self, input_ids: Sequence[int] | np.ndarray, length: int) -> Arrays:
        """Returns `input_ids` and `attention_mask`, both `[length]`."""
        padded = np.full(length, self.tokenizer.pad_token_id, np.int32)
        padded[: len(input_ids)] = input_ids
        mask = np.zeros(length, np.int32)
        mask[: len(input_ids)] = 1
        return {"input_ids": padded, "attention_mask": mask}


class Task(PredictionTask):
    """One task, for training, evaluation, and prediction.

    Attributes:
      is_pretraining: Whether training starts from a new model unless a model is given.
      token_columns: The columns of the encoded examples that hold token ids.
      lower_is_better: The metrics of which a lower value is better.
      splits_batches: Whether the loss of a batch is the mean over parts of it, so that gradients of
        parts may be added instead.
    """

    is_pretraining: ClassVar[bool] = False
    token_columns: ClassVar[tuple[str, ...]] = ("input_ids",)
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"loss"})
    splits_batches: ClassVar[bool] = True

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

    # Training and evaluation.

    @property
    @abc.abstractmethod
    def metric_for_best_model(self) -> str:
        """The metric by which the best model of a run is chosen."""

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
        """Returns the metrics of a split, among them `loss`.

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


def get_text(row: Row, column: str) -> str:
    """Returns the text in a column of a row.

    Raises:
      DataError: if there is none.
    """
    value = row.get(column)
    if not isinstance(value, str):
        raise DataError(
            f"column {column!r} must hold a text; got {value!r}; there are "
            f"{', '.join(map(str, row)) or 'no columns'}: name the right column"
        )
    if surrogate := find_surrogate(value):
        raise DataError(
            f"column {column!r} must hold Unicode text; got the lone surrogate {surrogate}: remove "
            "it, or write the whole pair"
        )
    return value
