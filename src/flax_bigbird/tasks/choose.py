"""Which of several texts goes with a document."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from flax_bigbird.tasks.base import Arrays, Row, Task, Window
from flax_bigbird.tasks.errors import DataError
from flax_bigbird.tasks.text import encode, framed


class Choose(Task):
    """`{"choice", "label", "scores"}`: the likeliest text of `choices_column` and its number."""

    name = "multiple-choice"
    model_class = "FlaxBigBirdForMultipleChoice"

    def windows(self, row: Row) -> list[Window]:
        options = self.options
        text = self.text(row, options.text_column)
        pair = self.text(row, options.text_pair_column) if options.text_pair_column else ""
        choices = choices_of(row, options.choices_column)
        made = choice_inputs(self.tokenizer, text, pair, choices, options.length)
        return [Window(ids) for ids, _ in made]

    def outputs(self, params: Any, batch: Arrays) -> Arrays:
        ids, mask = batch["input_ids"][:, None], batch["attention_mask"][:, None]
        return {"score": self.model(ids, mask, params=params).logits[:, 0].astype(jnp.float32)}

    def answer(self, row: Row, windows: Sequence[Window], outputs: Sequence[Arrays]) -> Row:
        logits = np.array([found["score"] for found in outputs])
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        best = int(scores.argmax())
        choice = row[self.options.choices_column][best]
        return {"choice": choice, "label": best, "scores": scores.tolist()}


def choices_of(row: Row, column: str) -> list[str]:
    """A row's choices.

    Raises:
      DataError: they are not a list of two texts or more.
    """
    choices = row.get(column)
    whole = isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)
    if not whole or len(choices) < 2:  # type: ignore[arg-type]
        raise DataError(
            f"column {column!r} must hold lists of two texts or more; got {str(choices)[:60]!r}; "
            f"there are {', '.join(map(str, row))}: mend it, or name another with choices_column"
        )
    return choices  # type: ignore[return-value]


def choice_inputs(
    tokenizer: Any, text: str, pair: str, choices: Sequence[str], length: int
) -> list[tuple[list[int], bool]]:
    """`[CLS] text [SEP] pair choice [SEP]` of every choice, and whether something was cut.

    Only the text is cut where it is the longer part.
    """
    (document,) = encode(tokenizer, [text])
    asked = encode(tokenizer, [f"{pair} {choice}" for choice in choices])
    return [framed([document, part], tokenizer, length) for part in asked]
