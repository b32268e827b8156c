"""What a task has to say for a model to answer it: rows to windows, outputs to an answer."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from flax_bigbird.tasks.errors import DataError
from flax_bigbird.tasks.options import AnswerOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Arrays = dict[str, Any]
Row = dict[str, Any]

ROWS_AHEAD = 512  # read before any of them is answered, to be sorted by length
BATCHES_AHEAD = 16  # ... or so many batches' worth of tokens


class Window(NamedTuple):
    """One input of the model, and what the task must remember to read its outputs."""

    ids: list[int]
    note: Any = None


class Task(ABC):
    """A model with its tokenizer: rows in, answers out, in order.

    Call it with a row or with a list of rows; a text stands for a row with only that column.
    """

    model_class: str  # its name in `flax_bigbird`
    name: str

    def __init__(self, model: Any, tokenizer: "PreTrainedTokenizerBase", options: AnswerOptions):
        self.model, self.tokenizer = model, tokenizer
        self.options = options.with_length(model.config.max_position_embeddings)
        self._outputs = jax.jit(self.outputs)

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Raises `OptionError` for a model that cannot do the task, before it is loaded."""
        del config

    @abstractmethod
    def windows(self, row: Row) -> list[Window]:
        """The row as inputs, each at most `options.length` long.

        Raises:
          DataError: the row lacks what the task reads; the message does not name the row.
        """

    @abstractmethod
    def outputs(self, params: Any, batch: Arrays) -> Arrays:
        """What answers need of a batch, [B, ...] each. Traced."""

    @abstractmethod
    def answer(self, row: Row, windows: Sequence[Window], outputs: Sequence[Arrays]) -> Row:
        """The row's answer, plain values, from the outputs of all its windows."""

    def arrays(self, window: Window, length: int) -> dict[str, np.ndarray]:
        """A window's arrays, padded to `length`."""
        ids = np.full(length, self.tokenizer.pad_token_id, np.int32)
        ids[: len(window.ids)] = window.ids
        mask = (np.arange(length) < len(window.ids)).astype(np.int32)
        return {"input_ids": ids, "attention_mask": mask}

    def text(self, row: Row, column: str) -> str:
        """A row's text.

        Raises:
          DataError: there is none.
        """
        value = row.get(column)
        if not isinstance(value, str):
            raise DataError(
                f"column {column!r} must hold a text; got {value!r}; there are "
                f"{', '.join(map(str, row)) or 'no columns'}: name the right column"
            )
        return value

    def __call__(self, rows: Row | str | Iterable[Row | str]) -> Any:
        one = isinstance(rows, dict | str)
        several: Any = [rows] if one else rows
        made = ({self.options.text_column: r} if isinstance(r, str) else r for r in several)
        found = [answer for part in self.answers(made) for answer in part]
        return found[0] if one else found

    def answers(self, rows: Iterable[Row], first: int = 1) -> Iterator[list[Row]]:
        """Answers in the order of the rows, as many at a time as are read ahead.

        Args:
          first: the number of the first row, for messages.

        Raises:
          DataError: a row lacks what the task reads.
        """
        ahead: list[tuple[Row, list[Window]]] = []
        tokens = 0
        for number, row in enumerate(rows, first):
            try:
                windows = self.windows(row)
            except DataError as error:
                raise DataError(f"row {number}: {error}") from error
            ahead.append((row, windows))
            tokens += sum(len(window.ids) for window in windows)
            if len(ahead) >= ROWS_AHEAD or tokens >= BATCHES_AHEAD * self.options.tokens_per_batch:
                yield self._answered(ahead)
                ahead, tokens = [], 0
        if ahead:
            yield self._answered(ahead)

    def _answered(self, ahead: list[tuple[Row, list[Window]]]) -> list[Row]:
        found = iter(self._run([window for _, windows in ahead for window in windows]))
        return [self.answer(row, ws, [next(found) for _ in ws]) for row, ws in ahead]

    def _run(self, windows: list[Window]) -> list[Arrays]:
        """The outputs of every window; windows of a shape go through the model together."""
        shapes: dict[Any, list[tuple[int, dict[str, np.ndarray]]]] = {}
        for number, window in enumerate(windows):
            length = next(b for b in self.options.buckets if b >= len(window.ids))
            arrays = self.arrays(window, length)
            key = tuple((name, value.shape) for name, value in sorted(arrays.items()))
            shapes.setdefault(key, []).append((number, arrays))
        found: list[Arrays] = [{}] * len(windows)
        for key in sorted(shapes):
            rows = shapes[key]
            size = max(1, self.options.tokens_per_batch // rows[0][1]["input_ids"].shape[-1])
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                # Always of one size, for one compilation.
                filled = [arrays for _, arrays in part]
                filled += [part[0][1]] * (size - len(part))
                batch = {name: np.stack([a[name] for a in filled]) for name in filled[0]}
                outputs = jax.device_get(self._outputs(self.model.params, batch))
                for place, (number, _) in enumerate(part):
                    found[number] = {name: value[place] for name, value in outputs.items()}
        return found
