"""Multiple choice: which of several texts belongs to a document."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from flax_bigbird.data.batching import stack
from flax_bigbird.data.columns import ColumnKind
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.loading import (
    SPLIT_NAMES,
    require_columns,
    require_texts,
    row_location,
)
from flax_bigbird.data.tokenization import (
    add_special_tokens,
    column_array,
    map_cached,
    tokenize,
    tokenizer_fingerprint,
)
from flax_bigbird.data.types import Arrays, Batch, Dataset, Row
from flax_bigbird.nn.losses import classification_losses
from flax_bigbird.tasks.base import EncodedDataset, Loss, Split, Task, Window, get_text
from flax_bigbird.tasks.task_options import MultipleChoiceOptions

MIN_CHOICES = 2
_MASKED = -1e6  # the logit of a missing choice


class MultipleChoice(Task):
    """Chooses one of several texts.

    The model reads `[CLS] text [SEP] second text choice [SEP]` for every choice and computes one
    logit for each. `choices_column` holds lists of texts, and `label_column` the index of the right
    one or its text. Rows may have different numbers of choices.

    A prediction is `{"choice", "label", "scores"}`: the most likely text, its index, and the
    probabilities of all choices.
    """

    name = "multiple-choice"
    title = "Multiple choice"
    pipeline_tag = "multiple-choice"
    model_class = "FlaxBigBirdForMultipleChoice"
    options_class = MultipleChoiceOptions
    token_columns = ("choices",)

    @classmethod
    def columns(cls, options: Any) -> dict[str, ColumnKind]:
        columns: dict[str, ColumnKind] = dict.fromkeys(_text_columns(options), "text")
        columns[options.choices_column] = "texts"
        columns[options.label_column] = "label"
        return columns

    @classmethod
    def check_rows(cls, options: Any, rows: Dataset, split: Split) -> list[str]:
        columns = _text_columns(options)
        require_columns(rows, [*columns, options.choices_column, options.label_column], split)
        messages = require_texts(rows, columns, split)
        for index, row in enumerate(rows):
            values: Any = row
            try:
                choices = _get_choices(values, options.choices_column)
                _right_choice(choices, values[options.label_column])
            except DataError as error:
                raise DataError(f"{row_location(rows, index, split)}: {error}") from error
        return messages

    @classmethod
    def infer_config(cls, options: Any, rows: Dataset) -> dict[str, Any]:
        cls.check_rows(options, rows, "train")
        return {}

    @classmethod
    def iterate_texts(cls, options: Any, rows: Dataset) -> Iterator[str]:
        for batch in rows.iter(64):
            for column in _text_columns(options):
                yield from filter(None, batch[column])  # type: ignore[index]
        for choices in rows[options.choices_column]:
            yield from choices

    @property
    def metric_for_best_model(self) -> str:
        return "accuracy"

    def encode_dataset(self, rows: Dataset, split: Split) -> EncodedDataset:
        options = self.options
        messages = self.check_rows(options, rows, split)
        column, pair = options.choices_column, options.text_pair_column

        def encode_batch(batch: Batch) -> Batch:
            encoded: Batch = {"choices": [], "length": [], "right": [], "cut": []}
            labels = batch[options.label_column]
            for index, choices in enumerate(batch[column]):
                second = batch[pair][index] if pair else ""
                inputs = self._encode_choices(batch[options.text_column][index], second, choices)
                encoded["choices"].append([ids for ids, _ in inputs])
                encoded["length"].append(max(len(ids) for ids, _ in inputs))
                encoded["right"].append(_right_choice(choices, labels[index]))
                encoded["cut"].append(any(truncated for _, truncated in inputs))
            return encoded

        key = ("choices", options.text_column, pair, column, options.label_column, options.length)
        fingerprint = tokenizer_fingerprint(self.tokenizer)
        examples = map_cached(rows, encode_batch, *key, fingerprint)
        truncated = int(column_array(examples, "cut").sum())
        if truncated:
            messages.append(
                f"{truncated:,} of {len(examples):,} rows of the {SPLIT_NAMES[split]} are longer "
                f"than {options.length:,} tokens and are truncated"
            )
        # All examples of a batch have the same number of choices.
        num_choices = max(MIN_CHOICES, max(len(choices) for choices in rows[column]))
        examples = examples.remove_columns("cut")
        examples = examples.add_column("num_choices", [num_choices] * len(examples))  # type: ignore[arg-type]
        return EncodedDataset(examples, messages, inputs_per_example=num_choices)

    def collate(self, example: Row, length: int, generator: np.random.Generator) -> Arrays:
        """Returns `input_ids` and `attention_mask`, `[C, length]`, and which choices exist, `[C]`.

        The first choice pads missing choices.
        """
        choices, num_choices = example["choices"], example["num_choices"]
        inputs = [self.pad(ids, length) for ids in choices]
        inputs += [inputs[0]] * (num_choices - len(choices))
        exists = np.arange(num_choices) < len(choices)
        return stack(inputs) | {"exists": exists, "labels": np.array(example["right"], np.int32)}

    def loss(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Loss:
        logits = self._logits(model, params, batch, **call)
        losses = classification_losses(logits, batch["labels"])
        return Loss(losses.mean(), batch["labels"].shape[0])

    def eval_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        logits, labels = self._logits(model, params, batch), batch["labels"]
        correct = logits.argmax(-1) == labels
        return {"correct": correct, "losses": classification_losses(logits, labels)}

    def compute_metrics(self, outputs: Arrays, encoded: EncodedDataset) -> dict[str, float]:
        return {
            "loss": float(outputs["losses"].mean()),
            "accuracy": float(outputs["correct"].mean()),
        }

    def encode(self, row: Row) -> list[Window]:
        """Encodes each choice as a window."""
        options = self.options
        texts = [get_text(row, column) for column in _text_columns(options)]
        second = texts[1] if len(texts) > 1 else ""
        choices = _get_choices(row, options.choices_column)
        return [Window(ids) for ids, _ in self._encode_choices(texts[0], second, choices)]

    def predict_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        ids, mask = batch["input_ids"][:, None], batch["attention_mask"][:, None]
        return {"score": model(ids, mask, params=params).logits[:, 0].astype(jnp.float32)}

    def decode(self, row: Row, windows: Sequence[Window], outputs: Sequence[Arrays]) -> Row:
        logits = np.array([output["score"] for output in outputs])
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        best = int(scores.argmax())
        choice = row[self.options.choices_column][best]
        return {"choice": choice, "label": best, "scores": scores.tolist()}

    def _encode_choices(
        self, text: str, second: str, choices: Sequence[str]
    ) -> list[tuple[list[int], bool]]:
        """Returns the token ids of every choice, and whether they were truncated."""
        (document,) = tokenize(self.tokenizer, [text])
        endings = tokenize(self.tokenizer, [f"{second} {choice}" for choice in choices])
        length = self.options.length
        return [add_special_tokens([document, ids], self.tokenizer, length) for ids in endings]

    def _logits(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Any:
        """Returns the logits in float32, `[B, C]`, which are very low for missing choices."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        logits = model(ids, mask, params=params, **call).logits.astype(jnp.float32)
        return jnp.where(batch["exists"], logits, _MASKED)


def _text_columns(options: Any) -> tuple[str, ...]:
    pair = options.text_pair_column
    return (options.text_column, pair) if pair else (options.text_column,)


def _get_choices(row: Row, column: str) -> list[str]:
    """Returns the choices of a row.

    Raises:
      DataError: if they are not a list of two texts or more.
    """
    choices = row.get(column)
    is_valid = isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)
    if not is_valid or len(choices) < MIN_CHOICES:  # type: ignore[arg-type]
        raise DataError(
            f"column {column!r} must hold lists of two texts or more; got {str(choices)[:60]!r}; "
            f"there are {', '.join(map(str, row))}: correct it, or name another with choices_column"
        )
    return choices  # type: ignore[return-value]


def _right_choice(choices: list[str], label: Any) -> int:
    """Returns the index of the right choice.

    Raises:
      DataError: if the label is not one of the choices.
    """
    if isinstance(label, str) and label in choices:
        return choices.index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(choices):
        return label
    raise DataError(
        f"the label must be the index of a choice, 0 to {len(choices) - 1}, or its text; got "
        f"{label!r}: correct it, or name another column with label_column"
    )
