"""One served model: encodes rows in threads, computes their windows, and decodes the answers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.data.types import Arrays, Row
from flax_bigbird.inference.finite_answers import check_finite
from flax_bigbird.inference.predictor import Predictor
from flax_bigbird.server.attention_maps import AttentionPrograms
from flax_bigbird.server.engine import Engine, Unit
from flax_bigbird.server.errors import RequestError, too_large
from flax_bigbird.server.generation import Generator
from flax_bigbird.server.programs import ModelPrograms
from flax_bigbird.tasks.base import PredictionTask, Window

EXAMPLES: dict[str, Row] = {
    "embedding": {"text": "a"},
    "sequence-classification": {"text": "a"},
    "reranking": {"query": "a", "document": "a"},
    "token-classification": {"text": "a"},
    "question-answering": {"question": "a", "context": "a"},
    "masked-lm": {"text": "{mask}"},
}
"""For each task that is served in batches, a row whose windows have the shapes of all windows."""


FIELDS = {"truncate_dim": "dimensions", "max_answer_length": "max_answer_len"}
"""The fields of requests that set options of other names."""


class Answers(NamedTuple):
    """The answers to the rows of a request.

    Attributes:
      answers: The answer to each row, as the task decodes it.
      windows: The windows of each row.
      outputs: The outputs of the model for each window of each row.
      num_tokens: The number of tokens that were read.
    """

    answers: list[Any]
    windows: list[list[Window]]
    outputs: list[list[Arrays]]
    num_tokens: int

    @property
    def num_windows(self) -> int:
        """The number of windows that were read."""
        return sum(map(len, self.windows))


class ServedModel:
    """A model, under the name that requests call it.

    Attributes:
      name: The name.
      predictor: The model with its task.
      task: The task with the options of the server.
      programs: The compiled programs; None for a model that generates.
      generator: The programs of a model that generates.
      attention: The programs that show the attention of an encoder.
    """

    def __init__(
        self,
        name: str,
        predictor: Predictor,
        task: PredictionTask,
        programs: ModelPrograms | None,
        max_input_tokens: int,
        generator: Generator | None = None,
        attention: AttentionPrograms | None = None,
    ):
        self.generator, self.attention = generator, attention
        self.name, self.predictor, self.task, self.programs = name, predictor, task, programs
        self._max_input_tokens = max_input_tokens

    @property
    def task_name(self) -> str:
        """The name of the task."""
        return self.task.name

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self.task.tokenizer

    @property
    def dtype(self) -> str:
        """The dtype of the computation."""
        return self.task.options.dtype

    def with_options(self, **changes: Any) -> Any:
        """Returns the task with other options, which must not change the computation.

        Raises:
          RequestError: if an option has a value that is not allowed.
        """
        changes = {name: value for name, value in changes.items() if value is not None}
        try:
            return self.task.with_options(**changes)
        except OptionError as error:
            if error.option is None:
                raise RequestError("validation", str(error)) from error
            field = FIELDS.get(error.option, error.option)
            raise RequestError("validation", f"{field} {error.rule}", parameter=field) from error

    async def answer(
        self, engine: Engine, task: Any, rows: Sequence[Any], *, must_fit: bool = False
    ) -> Answers:
        """Returns the answers to rows.

        Args:
          engine: The engine.
          task: The task, of `with_options`.
          rows: The rows; lists of token ids stand for texts if the task has `encode_ids`.
          must_fit: Whether a row that is longer than the model is an error; otherwise, the task
            truncates it or divides it into windows.

        Raises:
          RequestError: if a row cannot be used, or the engine cannot compute it.
        """
        encoder = self._without_truncation(task) if must_fit else task
        windows, units = await engine.in_pool(self._encode, encoder, rows)
        outputs = iter(await engine.compute(units))
        per_row = [[next(outputs) for _ in own] for own in windows]
        answers = await engine.in_pool(self._decode, task, rows, windows, per_row)
        num_tokens = sum(len(window.input_ids) for own in windows for window in own)
        return Answers(answers, windows, per_row, num_tokens)

    def _without_truncation(self, task: Any) -> Any:
        """Returns a task that truncates no text which the server accepts."""
        length = max(self._max_input_tokens, self.task.options.length) + 1
        return task.with_options(max_length=length, tokens_per_batch=length)

    def _encode(self, task: Any, rows: Sequence[Any]) -> tuple[list[list[Window]], list[Unit]]:
        """Returns the windows of each row, and the units of work of all of them."""
        assert self.programs is not None
        windows, units = [], []
        for row in rows:
            own = self.encode_row(task, row)
            windows.append(own)
            for window in own:
                arrays = self.programs.collate(window)
                units.append(Unit(self.programs.group(arrays), arrays))
        return windows, units

    def encode_row(self, task: Any, row: Any) -> list[Window]:
        """Returns the windows of a row.

        Raises:
          RequestError: if the row cannot be used, or has too many tokens.
        """
        try:
            windows = task.encode_ids(row) if isinstance(row, list) else task.encode(row)
        except DataError as error:
            raise RequestError("validation", str(error)) from error
        num_tokens = sum(len(window.input_ids) for window in windows)
        if num_tokens > self._max_input_tokens:
            raise too_large(
                f"a text must have at most {self._max_input_tokens:,} tokens; got {num_tokens:,}: "
                "divide it"
            )
        limit = self.task.options.length
        if max(len(window.input_ids) for window in windows) > limit:  # of `_without_truncation`
            raise too_large(
                f"a pair of texts must have at most {limit:,} tokens; got {num_tokens:,}: shorten "
                "it, or set truncate"
            )
        return windows

    @staticmethod
    def _decode(
        task: Any, rows: Sequence[Any], windows: list[list[Window]], outputs: list[list[Arrays]]
    ) -> list[Any]:
        answers = []
        for row, own, row_outputs in zip(rows, windows, outputs, strict=True):
            as_row = {} if isinstance(row, list) else row
            answer = task.decode(as_row, own, row_outputs)
            try:
                check_finite(answer, row_outputs, as_row)
            except DataError as error:
                raise RequestError(
                    "backend", "the scores of the model are not finite numbers"
                ) from error
            answers.append(answer)
        return answers
