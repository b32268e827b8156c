"""Multiple choice: which of several texts belongs to a document."""

import itertools
import string
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from flax_bigbird.data.batching import stack
from flax_bigbird.data.columns import ColumnKind
from flax_bigbird.data.encoded_rows import (
    column_array,
    map_cached,
    tokenizer_fingerprint,
    truncated_message,
)
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.loading import (
    SPLIT_NAMES,
    parse_rows,
    require_columns,
    require_texts,
)
from flax_bigbird.data.tokenization import add_special_tokens, tokenize
from flax_bigbird.data.types import Arrays, Batch, Dataset, Row
from flax_bigbird.nn.losses import classification_losses
from flax_bigbird.tasks.base import EncodedDataset, Loss, Metrics, Split, Task, Window, get_text
from flax_bigbird.tasks.options import option_fields
from flax_bigbird.tasks.row_masks import mean_over_rows
from flax_bigbird.tasks.task_options import MultipleChoiceOptions

MIN_CHOICES = 2
_LETTERS = string.ascii_uppercase
_MASKED = -1e6  # the logit of a missing choice


class MultipleChoice(Task):
    """Chooses one of several texts.

    The model reads `[CLS] text [SEP] second text choice [SEP]` for every choice and computes one
    logit for each. `choices_column` holds lists of texts, or names one column per choice with
    commas between the names. `label_column` holds the index of the right choice, its text, or its
    letter (`A` is the first). Rows may have different numbers of choices. The columns of RACE and
    SWAG are recognized, see `resolve_columns`.

    A prediction is `{"choice", "label", "scores"}`: the most likely text, its index, and the
    probabilities of all choices.
    """

    name = "multiple-choice"
    title = "Multiple choice"
    pipeline_tag = "multiple-choice"
    model_class = "FlaxBigBirdForMultipleChoice"
    options_class = MultipleChoiceOptions
    masks_rows = True
    token_columns = ("choices",)

    @classmethod
    def columns(cls, options: Any) -> dict[str, ColumnKind]:
        columns: dict[str, ColumnKind] = dict.fromkeys(_text_columns(options), "text")
        choices = _choices_columns(options)
        columns |= dict.fromkeys(choices, "text" if len(choices) > 1 else "texts")
        columns[options.label_column] = "label"
        return columns

    @classmethod
    def resolve_columns(cls, options: Any, names: Collection[str]) -> Any:
        """Returns the options with the columns of RACE or SWAG, if the data have these.

        They apply if all columns have their defaults, and the data lack one of the defaults. RACE
        has `article`, `question`, `options` and `answer`. SWAG has `sent1` and `sent2`, or
        `startphrase`, and `ending0`, `ending1` and so on, and `label`.
        """
        defaults = MultipleChoiceOptions.model_fields
        columns = ("text_column", "text_pair_column", "choices_column", "label_column")
        changed = any(getattr(options, name, None) != defaults[name].default for name in columns)
        if changed or {"text", "choices"} <= set(names):
            return options
        changes = _race_columns(names) or _swag_columns(names) or {}
        known = option_fields(type(options))  # prediction has no label_column
        changes = {name: column for name, column in changes.items() if name in known}
        return options.replace(**changes) if changes else options

    @classmethod
    def check_rows(cls, options: Any, rows: Dataset, split: Split) -> list[str]:
        columns = _text_columns(options)
        require_columns(rows, cls.columns(options), split)
        messages = require_texts(rows, columns, split)

        def check_row(row: Row) -> None:
            _right_choice(_get_choices(row, options), row[options.label_column])

        for _ in parse_rows(rows, check_row, split):
            pass
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
            for column in _choices_columns(options):
                for choices in batch[column]:  # type: ignore[index]
                    yield from [choices] if isinstance(choices, str) else choices or ()

    @classmethod
    def evaluation_metrics(
        cls, options: Any, config: Any = None, rows: Dataset | None = None
    ) -> Metrics:
        return {"accuracy": True, "loss": False}

    def encode_dataset(self, rows: Dataset, split: Split) -> EncodedDataset:
        options = self.options
        messages = self.check_rows(options, rows, split)
        pair = options.text_pair_column

        def encode_batch(batch: Batch) -> Batch:
            names = ("choices", "length", "right", "cut", "num_choices")
            encoded: Batch = {name: [] for name in names}
            for values in zip(*batch.values(), strict=True):
                row = dict(zip(batch, values, strict=True))
                choices = _get_choices(row, options)
                second = row[pair] if pair else ""
                inputs = self._encode_choices(row[options.text_column], second, choices)
                encoded["choices"].append([ids for ids, _ in inputs])
                encoded["length"].append(max(len(ids) for ids, _ in inputs))
                encoded["right"].append(_right_choice(choices, row[options.label_column]))
                encoded["num_choices"].append(len(choices))
                encoded["cut"].append(any(truncated for _, truncated in inputs))
            return encoded

        key = ("choices", pair, *self.columns(options), options.length)
        fingerprint = tokenizer_fingerprint(self.tokenizer)
        examples = map_cached(rows, encode_batch, *key, fingerprint)
        truncated = int(column_array(examples, "cut").sum())
        if truncated:
            texts = SPLIT_NAMES[split]
            messages.append(
                truncated_message(truncated, len(examples), "row", texts, options.length)
            )
        # All examples of a batch have the same number of choices.
        num_choices = max(MIN_CHOICES, int(column_array(examples, "num_choices").max()))
        examples = examples.remove_columns(["cut", "num_choices"])
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
        return mean_over_rows(classification_losses(logits, batch["labels"]), batch)

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
        options = self.resolve_columns(self.options, row)
        texts = [get_text(row, column) for column in _text_columns(options)]
        second = texts[1] if len(texts) > 1 else ""
        choices = _get_choices(row, options)
        return [Window(ids) for ids, _ in self._encode_choices(texts[0], second, choices)]

    def predict_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        ids, mask = batch["input_ids"][:, None], batch["attention_mask"][:, None]
        return {"score": model(ids, mask, params=params).logits[:, 0].astype(jnp.float32)}

    def decode(self, row: Row, windows: Sequence[Window], outputs: Sequence[Arrays]) -> Row:
        logits = np.array([output["score"] for output in outputs])
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        best = int(scores.argmax())
        choices = _get_choices(row, self.resolve_columns(self.options, row))
        return {"choice": choices[best], "label": best, "scores": scores.tolist()}

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


def _choices_columns(options: Any) -> list[str]:
    """Returns the column of the lists of choices, or the columns of the single choices."""
    return [name.strip() for name in options.choices_column.split(",")]


def _race_columns(names: Collection[str]) -> dict[str, str] | None:
    """Returns the options for the columns of RACE (Lai et al., 2017) if the data have them."""
    if not {"article", "question", "options"} <= set(names):
        return None
    return {
        "text_column": "article",
        "text_pair_column": "question",
        "choices_column": "options",
    } | ({"label_column": "answer"} if "answer" in names else {})


def _swag_columns(names: Collection[str]) -> dict[str, str] | None:
    """Returns the options for the columns of SWAG (Zellers et al., 2018) if the data have them."""
    numbered = (f"ending{index}" for index in itertools.count())
    endings = list(itertools.takewhile(lambda name: name in names, numbered))
    if len(endings) < MIN_CHOICES:
        return None
    choices = {"choices_column": ",".join(endings)}
    if {"sent1", "sent2"} <= set(names):
        return choices | {"text_column": "sent1", "text_pair_column": "sent2"}
    return choices | {"text_column": "startphrase"} if "startphrase" in names else None


def _get_choices(row: Row, options: Any) -> list[str]:
    """Returns the choices of a row.

    Of choices in columns of their own, the last ones may be missing or empty.

    Raises:
      DataError: if they are not two texts or more.
    """
    columns = _choices_columns(options)
    choices: Any = row.get(columns[0])
    if len(columns) > 1:
        choices = [row.get(name) for name in columns]
        while choices and choices[-1] in (None, ""):
            choices.pop()
    is_valid = isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)
    if not is_valid or len(choices) < MIN_CHOICES:
        what = "hold lists of" if len(columns) == 1 else "hold"
        raise DataError(
            f"column {options.choices_column!r} must {what} two texts or more; got "
            f"{str(choices)[:60]!r}; there are {', '.join(map(str, row))}: correct it, or name "
            "another with choices_column"
        )
    return choices


def _right_choice(choices: list[str], label: Any) -> int:
    """Returns the index of the right choice.

    Raises:
      DataError: if the label is not one of the choices.
    """
    if isinstance(label, str):
        if label in choices:
            return choices.index(label)
        if len(label) == 1 and label in _LETTERS[: len(choices)]:
            return _LETTERS.index(label)
    elif isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(choices):
        return label
    last = len(choices) - 1
    letters = f", its letter, A to {_LETTERS[last]}" if last < len(_LETTERS) else ""
    raise DataError(
        f"the label must be the index of a choice, 0 to {last}, its text{letters}; got {label!r}: "
        "correct it, or name another column with label_column"
    )
