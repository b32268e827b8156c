"""The predictor: a model with its task, called with rows and returning one answer for each."""

import copy
import functools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flax_bigbird.data.errors import DataError, OptionError, UnknownTokensWarning
from flax_bigbird.data.tokenization import count_tokens, load_tokenizer, unknown_tokens_message
from flax_bigbird.data.types import Arrays, Row
from flax_bigbird.inference.batches import WindowBatches
from flax_bigbird.inference.devices import InferenceDevices
from flax_bigbird.inference.encoding import encode_in_order, num_encoding_threads
from flax_bigbird.inference.finite_answers import check_finite
from flax_bigbird.inference.options import predict_options
from flax_bigbird.inference.resolve import resolve_name, resolve_options, resolve_task
from flax_bigbird.inference.rows import is_single_row, iterate_rows
from flax_bigbird.pretrained import DEFAULT_MODEL
from flax_bigbird.tasks.base import PredictionTask, Task, Window
from flax_bigbird.tasks.loading import load_config, load_model
from flax_bigbird.tasks.options import TaskOptions

# How many rows are encoded before any of them is predicted: windows of similar lengths then share a
# batch. A chunk of rows ends when it has this many rows, or tokens for this many batches, for each
# of the devices that share the rows.
MAX_ROWS_PER_CHUNK = 512
MAX_BATCHES_PER_CHUNK = 16


def load_predictor(
    model: str | Path = DEFAULT_MODEL,
    *,
    task: str | None = None,
    devices: Sequence[Any] | None = None,
    **options: Any,
) -> "Predictor":
    """Loads a model with its tokenizer, ready to answer rows.

        classify = load_predictor("classifier", max_length=1024)
        classify("The jury finds ...")["label"]

    Args:
      model: A directory, the name of a shipped model, or a Hub id.
      task: The name of the task. By default it is the task that the checkpoint was trained for.
      devices: Devices of JAX, which share the work as the option `mesh` says. By default, they
        are all devices of this process.
      options: The options of `bigbird predict` that shape rows and answers, such as `max_length`,
        `text_column` or `dtype`. Options that are left out have the values of the training run that
        the directory holds, if it holds one.

    Returns:
      The predictor.

    Raises:
      OptionError: if the checkpoint or its tokenizer cannot be loaded, if the checkpoint has no
        head for the task, if an option is unknown, invalid or belongs to another task, or if the
        mesh does not fit the devices or the model.
    """
    name, task_class, resolved, config = resolve_prediction(model, task, options)
    shared = InferenceDevices.resolve(
        resolved.mesh, devices, config, splits_tokens=not task_class.compiles_predict_step
    )
    loaded = load_model(
        name, task_class.model_class, dtype=resolved.dtype, **task_class.model_fields
    )
    prepared = task_class.for_model(resolved, load_tokenizer(name), loaded.config, name)
    return Predictor(prepared, loaded, name, shared)


def resolve_prediction(
    model: str | Path, task: str | None, options: Mapping[str, Any]
) -> tuple[str, type[Task], TaskOptions, Any]:
    """Returns everything that `load_predictor` follows from, without loading the parameters.

    The arguments are those of `load_predictor`.

    Returns:
      The name of the model, the class of the task, the task's options, and the configuration.

    Raises:
      OptionError: as `load_predictor` does, unless the tokenizer or the parameters are the reason.
    """
    name = resolve_name(model)
    config = load_config(name)
    task_class = resolve_task(task, config, name)
    task_class.check_config(config)
    resolved = predict_options(
        task_class.name, **resolve_options(task_class.name, "predict", name, options)
    )
    check_max_length(resolved.max_length, config)
    return name, task_class, resolved, config


def check_max_length(max_length: int | None, config: Any) -> None:
    """Raises `OptionError` if `max_length` exceeds the position embeddings of a model."""
    positions = config.max_position_embeddings
    if max_length and max_length > positions:
        raise OptionError(
            f"must be at most the model's max_position_embeddings, "
            f"{positions}; got {max_length}: lower it",
            option="max_length",
        )


class Predictor:
    """A model and its task, which returns one answer per row, in order.

    Attributes:
      task: The task, which encodes rows and decodes answers.
      model: The model.
      name: The directory, shipped name or Hub id that the model was loaded from.
      token_counts: How many tokens of the rows so far are unknown to the tokenizer, and how many
        there are.
      max_batch_size: The maximum number of windows per batch, besides `tokens_per_batch`. If it is
        set, a batch of fewer windows is filled up to a power of two instead of a full batch: more
        programs are compiled, but a single row is answered at once.

    Devices that share the rows of a batch compute that many batches at once.
    """

    def __init__(
        self,
        task: PredictionTask,
        model: Any,
        name: str = "",
        devices: InferenceDevices | None = None,
    ):
        """Prepares a model for prediction.

        Args:
          task: The task.
          model: The model, whose parameters are moved to the devices.
          name: The directory, shipped name or Hub id that it was loaded from.
          devices: The devices; by default, the one that JAX chooses.
        """
        devices = devices or InferenceDevices()
        devices.place_model(model)
        self.task, self.model, self.name = task, model, name
        self.token_counts = (0, 0)
        self.max_batch_size: int | None = None
        step = functools.partial(task.predict_step, model)
        if task.compiles_predict_step:
            # The devices share each batch instead, because what is sampled depends on the batch.
            self._step, self._num_row_shards = devices.run(step), 1
        else:
            self._step, self._num_row_shards = devices.compile(step), devices.num_row_shards

    def with_task(self, task: PredictionTask, max_batch_size: int | None = None) -> "Predictor":
        """Returns a predictor with other options of the task, which shares compiled programs.

        Args:
          task: The task, whose `predict_step` must compute the same as that of this predictor.
          max_batch_size: See the attributes.
        """
        predictor = copy.copy(self)
        predictor.task, predictor.max_batch_size = task, max_batch_size
        predictor.token_counts = (0, 0)
        return predictor

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the model."""
        return self.task.tokenizer

    @property
    def options(self) -> Any:
        """The options of the task."""
        return self.task.options

    def __call__(self, rows: Any) -> Any:
        """Returns the answer for a row, or the list of answers for several rows.

        Args:
          rows: A row (a mapping from column to value, or a record with named fields), a text, an
            iterable of rows and texts, or a table of pandas or pyarrow. A text stands for a row
            that has only the column `text_column`.

        Raises:
          DataError: if a row is something else, lacks what the task needs, or has scores that are
            not finite.

        Warns:
          UnknownTokensWarning: if the tokenizer does not know much of the rows.
        """
        before = self.token_counts
        options = self.options.model_dump()
        columns = {name for key, name in options.items() if key.endswith("_column") and name}
        text_column = options.get("text_column", "text")
        is_single = is_single_row(rows, columns | {"question"})
        as_rows = iterate_rows([rows] if is_single else rows, text_column)
        answers = [answer for chunk in self.iterate_answers(as_rows) for answer in chunk]
        message = self.unknown_tokens_message(before)
        if message:
            warnings.warn(message, UnknownTokensWarning, stacklevel=2)
        return answers[0] if is_single else answers

    def unknown_tokens_message(self, before: tuple[int, int] = (0, 0)) -> str | None:
        """Returns a warning if too many tokens of the rows so far are unknown to the tokenizer.

        Args:
          before: The `token_counts` of rows that do not count, because they were read before.
        """
        num_unknown, num_tokens = self.token_counts
        return unknown_tokens_message(num_unknown - before[0], num_tokens - before[1], "input")

    def iterate_answers(self, rows: Iterable[Row], first_row: int = 1) -> Iterator[list[Row]]:
        """Yields the answers in the order of the rows, one chunk of rows at a time.

        Args:
          rows: The rows; a chunk of them is read before its answers are yielded, and with an
            accelerator some of the next.
          first_row: The number of the first row in error messages.

        Raises:
          DataError: if a row lacks what the task needs.
        """
        max_rows = MAX_ROWS_PER_CHUNK * self._num_row_shards
        max_tokens = MAX_BATCHES_PER_CHUNK * self.options.tokens_per_batch * self._num_row_shards
        chunk: list[tuple[Row, list[Window]]] = []
        batches, num_tokens = self._new_batches(), 0
        numbered = enumerate(rows, first_row)
        encoded = encode_in_order(self._encode, numbered, num_encoding_threads())
        for (_, row), windows in encoded:
            self._count_tokens(windows)
            chunk.append((row, windows))
            for window in windows:
                length = self.options.bucket_length(len(window.input_ids))
                batches.append(self.task.collate_window(window, length))
                num_tokens += len(window.input_ids)
            if len(chunk) >= max_rows or num_tokens >= max_tokens:
                yield self._answers(chunk, batches.finish())
                chunk, batches, num_tokens = [], self._new_batches(), 0
        if chunk:
            yield self._answers(chunk, batches.finish())

    def _encode(self, numbered: tuple[int, Row]) -> list[Window]:
        """Returns the windows of a row, which has its number beside it for error messages."""
        number, row = numbered
        try:
            return self.task.encode(row)
        except DataError as error:
            origin = getattr(row, "origin", f"row {number}")  # rows of files know theirs
            raise DataError(f"{origin}: {error}") from error

    def _count_tokens(self, windows: list[Window]) -> None:
        ids = np.array([id for window in windows for id in window.input_ids])
        num_unknown, num_tokens = count_tokens(ids, self.tokenizer)
        self.token_counts = (self.token_counts[0] + num_unknown, self.token_counts[1] + num_tokens)

    def _answers(self, chunk: list[tuple[Row, list[Window]]], outputs: list[Arrays]) -> list[Row]:
        """Returns the answers to the rows of a chunk, from the outputs of all their windows."""
        remaining = iter(outputs)
        answers = []
        for row, windows in chunk:
            row_outputs = [next(remaining) for _ in windows]
            answer = self.task.decode(row, windows, row_outputs)
            check_finite(answer, row_outputs, row)
            answers.append(answer)
        return answers

    def _new_batches(self) -> WindowBatches:
        def step(batch: Arrays) -> Any:
            return self._step(self.model.params, batch)

        return WindowBatches(step, self._batch_size, self._filled_size)

    def _batch_size(self, length: int) -> int:
        """Returns the number of windows of `length` tokens in a full batch of all devices."""
        # More rows than those of a chunk would only be copies of others.
        batch_size = min(max(1, self.options.tokens_per_batch // length), MAX_ROWS_PER_CHUNK)
        return min(batch_size, self.max_batch_size or batch_size) * self._num_row_shards

    def _filled_size(self, num_windows: int, batch_size: int) -> int:
        """Returns the size that a batch of `num_windows` windows is filled up to."""
        if self.max_batch_size is None:
            return batch_size
        per_device = -(-num_windows // self._num_row_shards)
        return min(batch_size, (1 << (per_device - 1).bit_length()) * self._num_row_shards)
