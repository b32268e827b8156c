"""What a task defines for prediction: how rows are encoded, and how outputs are decoded."""

import abc
import copy
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np

from flax_bigbird.data.columns import ColumnKind, find_surrogate
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.tokenization import check_vocabulary_fits
from flax_bigbird.data.types import Arrays, Row, Tokenizer
from flax_bigbird.tasks.options import TaskOptions


class Window(NamedTuple):
    """One input sequence of the model, made from a row.

    Attributes:
      input_ids: The token ids, with `[CLS]` and `[SEP]`, at most `max_length` of them.
      info: What `decode` needs to know about the window, for example the position of each word.
    """

    input_ids: list[int]
    info: Any = None


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

    def with_options(self, **changes: Any) -> Any:
        """Returns the task with other options, for the same model.

        Raises:
          OptionError: if they cannot be used.
        """
        task = copy.copy(self)
        task.options = self.options.replace(**changes)
        return task

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


def get_text(row: Row, column: str) -> str:
    """Returns the text in a column of a row.

    Raises:
      DataError: if there is none.
    """
    value = row.get(column)
    if not isinstance(value, str) and column in row:
        raise DataError(
            f"column {column!r} must hold a text; got {value!r}, of type {type(value).__name__}: "
            "write a text, which may be empty, or remove the row"
        )
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
