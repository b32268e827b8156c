"""Sequence classification: a class, a set of labels, or a value for each document."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from flax_bigbird.data.columns import ColumnKind
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.loading import (
    SPLIT_NAMES,
    require_columns,
    require_texts,
    row_location,
)
from flax_bigbird.data.splitting import RowLabels
from flax_bigbird.data.tokenization import (
    add_special_tokens,
    column_array,
    map_cached,
    tokenize,
    tokenizer_fingerprint,
)
from flax_bigbird.data.types import Arrays, Batch, Dataset, Row, Tokenizer
from flax_bigbird.data.windows import covering_windows
from flax_bigbird.nn.losses import classification_losses
from flax_bigbird.tasks import metrics
from flax_bigbird.tasks.base import EncodedDataset, Loss, Split, Task, Window, get_text
from flax_bigbird.tasks.labels import (
    class_names,
    is_integer,
    label_config,
    label_indices,
    label_names,
    problem_type,
)
from flax_bigbird.tasks.task_options import SequenceClassificationOptions

SINGLE_LABEL, MULTI_LABEL = "single_label_classification", "multi_label_classification"
REGRESSION = "regression"

_EXPECTED_LABELS = {
    REGRESSION: "numbers",
    MULTI_LABEL: "lists of names or integers",
    SINGLE_LABEL: "names or integers",
}
_METRIC_FOR_BEST_MODEL = {
    SINGLE_LABEL: "accuracy",
    MULTI_LABEL: "micro_f1",
    REGRESSION: "pearson",
}


class SequenceClassification(Task):
    """Predicts a class, a set of labels, or a value for each document.

    `problem_type` says which of them; by default, it follows from the labels. Documents longer
    than `max_length` are truncated, or split into windows if `whole_documents` is set. The scores
    of a document are then the mean over its windows.

    A prediction is `{"label", "score", "scores"}`; `{"labels", "scores"}` for sets of labels, which
    are those with a probability of 0.5 or more; or `{"value"}`.
    """

    name = "sequence-classification"
    title = "Document classifier"
    pipeline_tag = "text-classification"
    model_class = "FlaxBigBirdForSequenceClassification"
    options_class = SequenceClassificationOptions
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"loss", "mse", "mae"})

    def __init__(self, options: Any, tokenizer: Tokenizer, config: Any):
        super().__init__(options, tokenizer, config)
        self.problem_type: str = options.problem_type or problem_type(config)
        self.label_names = label_names(config)
        self.label_indices = label_indices(config)

    @classmethod
    def columns(cls, options: Any) -> dict[str, ColumnKind]:
        columns: dict[str, ColumnKind] = dict.fromkeys(_text_columns(options), "text")
        columns[options.label_column] = "label"
        return columns

    @classmethod
    def check_rows(cls, options: Any, rows: Dataset, split: Split) -> list[str]:
        columns = _text_columns(options)
        require_columns(rows, [*columns, options.label_column], split)
        messages = require_texts(rows, columns, split)
        _get_labels(options, rows, split)
        return messages

    @classmethod
    def infer_config(cls, options: Any, rows: Dataset) -> dict[str, Any]:
        column = options.label_column
        require_columns(rows, [options.text_column, column], "train")
        labels = _get_labels(options, rows, "train")
        kind = options.problem_type or _infer_problem_type(labels[0])
        _check_label_types(labels, kind, rows, "train")
        if kind == REGRESSION:
            return label_config(["value"]) | {"problem_type": kind}
        distinct = [str(label) for label in _distinct_labels(labels, kind)]
        if len(distinct) < 2 and kind == SINGLE_LABEL:
            raise DataError(
                f"classes must be two or more; column {column!r} of the training data holds "
                f"{distinct}: check label_column"
            )
        names = class_names(rows, column) or distinct
        return label_config(names) | {"problem_type": kind}

    @classmethod
    def stratification_labels(cls, options: Any, rows: Dataset) -> RowLabels | None:
        labels = _get_labels(options, rows, "train")
        kind = options.problem_type or _infer_problem_type(labels[0])
        if kind == REGRESSION:
            return None
        return labels if kind == MULTI_LABEL else [[label] for label in labels]

    @classmethod
    def iterate_texts(cls, options: Any, rows: Dataset) -> Iterator[str]:
        for batch in rows.iter(64):
            for column in _text_columns(options):
                yield from filter(None, batch[column])  # type: ignore[index]

    @property
    def metric_for_best_model(self) -> str:
        return _METRIC_FOR_BEST_MODEL[self.problem_type]

    def encode_dataset(self, rows: Dataset, split: Split) -> EncodedDataset:
        options, tokenizer = self.options, self.tokenizer
        messages = self.check_rows(options, rows, split)
        label_column, columns = options.label_column, _text_columns(options)
        if self.problem_type != REGRESSION:
            rows = self._with_class_names(rows)
        labels = _get_labels(options, rows, split)
        _check_label_types(labels, self.problem_type, rows, split)
        self._check_known_labels(labels, rows, split)

        def encode_batch(batch: Batch, indices: list[int]) -> Batch:
            encoded: Batch = {"input_ids": [], "length": [], label_column: []}
            info: list[Any] = []
            texts = zip(*(tokenize(tokenizer, batch[name]) for name in columns), strict=True)
            rows = zip(texts, batch[label_column], indices, strict=True)
            for parts, label, index in rows:
                windows, truncated = self._encode_parts(parts)
                for ids in windows:
                    encoded["input_ids"].append(ids)
                    encoded["length"].append(len(ids))
                    encoded[label_column].append(label)
                    info.append(index if options.whole_documents else truncated)
            encoded["document" if options.whole_documents else "cut"] = info
            return encoded

        fingerprint = tokenizer_fingerprint(tokenizer)
        if options.whole_documents:
            key: tuple[Any, ...] = ("whole", columns[0], options.length, fingerprint, label_column)
        else:
            key = ("texts", columns, options.length, fingerprint, [label_column])
        examples = map_cached(rows, encode_batch, *key, with_indices=True)
        if options.whole_documents:
            if len(examples) > len(rows):
                messages.append(
                    f"{len(rows):,} documents of the {SPLIT_NAMES[split]} are {len(examples):,} "
                    "windows"
                )
            return EncodedDataset(examples, messages)
        truncated = int(column_array(examples, "cut").sum())
        if truncated:
            messages.append(
                f"{truncated:,} of {len(examples):,} documents of the {SPLIT_NAMES[split]} are "
                f"longer than {options.length:,} tokens and are truncated"
            )
        return EncodedDataset(examples.remove_columns("cut"), messages)

    def collate(self, example: Row, length: int, generator: np.random.Generator) -> Arrays:
        value = example[self.options.label_column]
        if self.problem_type == REGRESSION:
            labels = np.asarray(value, np.float32)
        elif self.problem_type == SINGLE_LABEL:
            labels = np.asarray(self.label_indices[value], np.int32)
        else:
            labels = np.zeros(len(self.label_names), np.float32)
            labels[[self.label_indices[label] for label in value]] = 1
        return self.pad(example["input_ids"], length) | {"labels": labels}

    def loss(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Loss:
        logits = self._logits(model, params, batch, **call)
        return Loss(self._losses(logits, batch["labels"]).mean(), batch["labels"].shape[0])

    def eval_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        logits = self._logits(model, params, batch)
        losses = self._losses(logits, batch["labels"])
        return {"logits": logits, "labels": batch["labels"], "losses": losses}

    def merge_windows(self, outputs: Arrays, encoded: EncodedDataset) -> Arrays:
        """Averages over the windows of a document: probabilities, or the values of a regression."""
        if not self.options.whole_documents:
            return outputs
        document = column_array(encoded.examples, "document")
        num_windows = np.bincount(document)

        def mean(values: np.ndarray) -> np.ndarray:
            total = np.zeros((len(num_windows), *values.shape[1:]))
            np.add.at(total, document, values)
            return total / num_windows.reshape(-1, *[1] * (values.ndim - 1))

        logits = outputs["logits"].astype(np.float64)
        if self.problem_type == REGRESSION:
            logits = mean(logits)
        elif self.problem_type == MULTI_LABEL:
            logits = special.logit(mean(special.expit(logits)))
        else:
            logits = np.log(mean(special.softmax(logits, axis=-1)))
        first_window = np.searchsorted(document, np.arange(len(num_windows)))
        labels, losses = outputs["labels"][first_window], mean(outputs["losses"])
        return {"logits": logits, "labels": labels, "losses": losses}

    def compute_metrics(self, outputs: Arrays, encoded: EncodedDataset) -> dict[str, float]:
        loss = {"loss": float(outputs["losses"].mean())}
        logits, labels = outputs["logits"], outputs["labels"]
        if self.problem_type == REGRESSION:
            return loss | metrics.regression_metrics(logits[:, 0], labels)
        if self.problem_type == MULTI_LABEL:
            return loss | metrics.multi_label_metrics(logits, labels)
        return loss | metrics.single_label_metrics(logits, labels)

    def report_details(self, outputs: Arrays, encoded: EncodedDataset) -> dict[str, Any]:
        """Returns the confusion matrix of classes: true classes by predicted classes."""
        if self.problem_type != SINGLE_LABEL:
            return {}
        predicted, names = outputs["logits"].argmax(-1), self.label_names
        matrix = metrics.confusion_matrix(outputs["labels"], predicted, len(names))
        return {"confusion_matrix": {"labels": names, "rows": matrix.tolist()}}

    def encode(self, row: Row) -> list[Window]:
        texts = [get_text(row, column) for column in _text_columns(self.options)]
        windows, _ = self._encode_parts(tokenize(self.tokenizer, texts))
        return [Window(ids) for ids in windows]

    def predict_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        logits = self._logits(model, params, batch)
        if self.problem_type == REGRESSION:
            return {"value": logits[:, 0]}
        multi_label = self.problem_type == MULTI_LABEL
        return {"scores": jax.nn.sigmoid(logits) if multi_label else jax.nn.softmax(logits)}

    def decode(self, row: Row, windows: Sequence[Window], outputs: Sequence[Arrays]) -> Row:
        means = {name: np.mean([o[name] for o in outputs], axis=0) for name in outputs[0]}
        if self.problem_type == REGRESSION:
            return {"value": float(means["value"])}
        scores = dict(zip(self.label_names, map(float, means["scores"]), strict=True))
        if self.problem_type == MULTI_LABEL:
            labels = [name for name, score in scores.items() if score >= 0.5]
            return {"labels": labels, "scores": scores}
        best = max(scores, key=scores.__getitem__)
        return {"label": best, "score": scores[best], "scores": scores}

    def _encode_parts(self, parts: Sequence[list[int]]) -> tuple[list[list[int]], bool]:
        """Returns the windows of a document, and whether it was truncated.

        Args:
          parts: The token ids of the text, and of the second text if there is one.
        """
        if self.options.whole_documents:
            return covering_windows(parts[0], self.tokenizer, self.options.length), False
        ids, truncated = add_special_tokens(parts, self.tokenizer, self.options.length)
        return [ids], truncated

    def _logits(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Any:
        """Returns the logits in float32, `[B, num_labels]`."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        return model(ids, mask, params=params, **call).logits.astype(jnp.float32)

    def _losses(self, logits: Any, labels: Any) -> Any:
        """Returns the loss of each example, `[B]`."""
        if self.problem_type == REGRESSION:
            return (logits[:, 0] - labels) ** 2
        if self.problem_type == MULTI_LABEL:
            signed = jnp.where(labels > 0, logits, -logits)
            return -jax.nn.log_sigmoid(signed).mean(-1)
        return classification_losses(logits, labels)

    def _with_class_names(self, rows: Dataset) -> Dataset:
        """Replaces the codes of a `datasets.ClassLabel` by names where a code means another label.

        A code is an index into the names of the dataset, whose order may not be that of the model,
        and a name that is an integer could be taken for a code.
        """
        column = self.options.label_column
        names = class_names(rows, column)
        if not names or (names == self.label_names and not any(map(is_integer, names))):
            return rows
        if not all(name in self.label_indices for name in names):
            return rows

        def replace(code: Any) -> Any:
            if isinstance(code, list):
                return [replace(item) for item in code]
            return None if code is None else names[code]

        values = [replace(code) for code in rows[column]]
        return rows.remove_columns(column).add_column(column, values)  # type: ignore[arg-type]

    def _check_known_labels(self, labels: list[Any], rows: Dataset, split: Split) -> None:
        if self.problem_type == REGRESSION:
            return
        for index, value in enumerate(labels):
            for label in value if self.problem_type == MULTI_LABEL else [value]:
                if label not in self.label_indices:
                    names = self.label_names
                    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
                    raise DataError(
                        f"labels must be among those of the training data ({shown}); "
                        f"{row_location(rows, index, split)} has {label!r}: add examples of it, or "
                        "remove the row"
                    )


def _text_columns(options: Any) -> tuple[str, ...]:
    pair = options.text_pair_column
    return (options.text_column, pair) if pair else (options.text_column,)


def _get_labels(options: Any, rows: Dataset, split: Split) -> list[Any]:
    """Returns the labels of all rows.

    Raises:
      DataError: if there are no rows, or a row has no label.
    """
    labels = list(rows[options.label_column])
    missing = [index for index, label in enumerate(labels) if label is None]
    if missing:
        raise DataError(
            f"column {options.label_column!r} of the {SPLIT_NAMES[split]} must hold a label in "
            f"every row; {row_location(rows, missing[0], split)} has none ({len(missing)} in all): "
            "fill or remove them"
        )
    if not labels:
        raise DataError(f"the {SPLIT_NAMES[split]} must have rows; it has none: check the files")
    return labels


def _infer_problem_type(label: Any) -> str:
    if isinstance(label, list):
        return MULTI_LABEL
    return REGRESSION if isinstance(label, float) else SINGLE_LABEL


def _check_label_types(labels: list[Any], kind: str, rows: Dataset, split: Split) -> None:
    """Raises `DataError` if a label does not have the type that the problem type needs."""
    is_valid = {
        REGRESSION: lambda x: isinstance(x, int | float) and not isinstance(x, bool),
        MULTI_LABEL: lambda x: isinstance(x, list) and all(_is_label(item) for item in x),
        SINGLE_LABEL: _is_label,
    }[kind]
    for index, label in enumerate(labels):
        if not is_valid(label):
            raise DataError(
                f"labels must be {_EXPECTED_LABELS[kind]} for the problem_type {kind}; "
                f"{row_location(rows, index, split)} has {label!r}: correct it, or give another "
                "problem_type"
            )


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int)


def _distinct_labels(labels: list[Any], kind: str) -> list[Any]:
    """Returns the distinct labels: integers in ascending order, then names alphabetically."""
    flat = labels if kind == SINGLE_LABEL else [label for value in labels for label in value]
    return sorted(set(flat), key=lambda label: (isinstance(label, str), label))
