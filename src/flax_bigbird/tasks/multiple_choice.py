"""Which of several texts goes with a document."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_bigbird.tasks.choose import choice_inputs, choices_of
from flax_bigbird.tasks.errors import DataError
from flax_bigbird.train import tokens
from flax_bigbird.train.objectives.base import Arrays, Loss, Objective, Prepared
from flax_bigbird.train.reading import check_columns

if TYPE_CHECKING:
    from datasets import Dataset


class MultipleChoice(Objective):
    """`[CLS] text [SEP] second text choice [SEP]` of every choice; one logit each.

    `choices_column` holds lists of texts, `label_column` the number of the right one or its text.
    Rows may have different numbers of choices.
    """

    model_class = "FlaxBigBirdForMultipleChoice"
    best_metric = "accuracy"
    choices = 2  # the most of any row

    @property
    def inputs_per_row(self) -> int:  # type: ignore[override]
        return self.choices

    def read(self, rows: "Dataset") -> None:
        self._check(rows, "training data")

    def texts(self, rows: "Dataset") -> Iterator[str]:
        yield from super().texts(rows)
        for choices in rows[self.options.choices_column]:
            yield from choices

    def prepare(self, rows: "Dataset", what: str) -> Prepared:
        notes = self._check(rows, what)
        options, tokenizer = self.options, self.tokenizer
        column, pair = options.choices_column, options.text_pair_column

        def encoded(batch: tokens.Batch) -> tokens.Batch:
            found: tokens.Batch = {"choices": [], "length": [], "right": [], "cut": []}
            labels = batch[options.label_column]
            for number, choices in enumerate(batch[column]):
                text = batch[options.text_column][number]
                asked = batch[pair][number] if pair else ""
                made = choice_inputs(tokenizer, text, asked, choices, options.length)
                found["choices"].append([ids for ids, _ in made])
                found["length"].append(max(len(ids) for ids, _ in made))
                found["right"].append(_right(choices, labels[number]))
                found["cut"].append(any(cut for _, cut in made))
            return found

        key = ("choices", options.text_column, pair, column, options.label_column, options.length)
        made = tokens.mapped(rows, encoded, *key, tokens.digest(tokenizer))
        self.choices = max(self.choices, max(len(row) for row in rows[column]))
        cut = int(tokens.numbers(made, "cut").sum())
        if cut:
            notes.append(
                f"{cut:,} of {len(made):,} rows of the {what} are longer than {options.length:,} "
                "tokens and are cut"
            )
        return Prepared(made.remove_columns("cut"), notes)

    def collate(
        self, row: dict[str, Any], length: int, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        made = [self.padded(ids, length) for ids in row["choices"]]
        real = np.arange(self.choices) < len(made)
        made += [made[0]] * (self.choices - len(made))
        arrays = {name: np.stack([choice[name] for choice in made]) for name in made[0]}
        return arrays | {"real": real, "labels": np.array(row["right"], np.int32)}

    def loss(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Loss:
        logits = self._logits(model, params, batch, **call)
        return Loss(self._losses(logits, batch["labels"]).mean(), batch["labels"].shape[0])

    def outputs(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        logits = self._logits(model, params, batch)
        losses = self._losses(logits, batch["labels"])
        return {"right": logits.argmax(-1) == batch["labels"], "losses": losses}

    def score(self, outputs: Arrays, prepared: Prepared) -> dict[str, float]:
        return {
            "loss": float(outputs["losses"].mean()),
            "accuracy": float(outputs["right"].mean()),
        }

    def _logits(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Any:
        """[B, C]; what stands in for missing choices cannot be chosen."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        logits = model(ids, mask, params=params, **call).logits.astype(jnp.float32)
        return jnp.where(batch["real"], logits, -1e6)

    def _losses(self, logits: Any, labels: Any) -> Any:
        """[B]"""
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]

    def _check(self, rows: "Dataset", what: str) -> list[str]:
        """Raises where a row is wrong; returns what is to be said of the texts."""
        options = self.options
        pair = (options.text_pair_column,) if options.text_pair_column else ()
        texts = (options.text_column, *pair)
        check_columns(rows, [*texts, options.choices_column, options.label_column], what)
        notes = tokens.check_texts(rows, texts, what)
        for number, row in enumerate(rows, 1):
            values: Any = row
            try:
                _right(choices_of(values, options.choices_column), values[options.label_column])
            except DataError as error:
                raise DataError(f"row {number} of the {what}: {error}") from error
        return notes


def _right(choices: list[str], label: Any) -> int:
    """The number of the right choice.

    Raises:
      DataError: the label is none of them.
    """
    if isinstance(label, str) and label in choices:
        return choices.index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(choices):
        return label
    raise DataError(
        f"the label must be the number of a choice, 0 to {len(choices) - 1}, or its text; got "
        f"{label!r}: mend it, or name another column with label_column"
    )
