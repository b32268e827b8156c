"""Classes, sets of labels or numbers for whole documents."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from flax_bigbird.tasks import labels
from flax_bigbird.tasks.errors import DataError
from flax_bigbird.train import metrics, tokens
from flax_bigbird.train.objectives.base import Arrays, Loss, Objective, Prepared
from flax_bigbird.train.options import LabelledOptions
from flax_bigbird.train.reading import check_columns

if TYPE_CHECKING:
    from datasets import Dataset

PROBLEM_TYPES = {
    "single-label": "single_label_classification",
    "multi-label": "multi_label_classification",
    "regression": "regression",
}


class SequenceClassification(Objective):
    """Documents are cut to `max_length`; `mode` says what a label is, or the labels do."""

    model_class = "FlaxBigBirdForSequenceClassification"

    def __init__(self, options: LabelledOptions):
        super().__init__(options)
        self.names: list[Any] = []
        self.mode = options.mode or ""

    @property
    def best_metric(self) -> str:  # type: ignore[override]
        return {"single-label": "accuracy", "multi-label": "micro_f1", "regression": "pearson"}[
            self.mode
        ]

    lower_is_better = Objective.lower_is_better | {"mse", "mae"}

    def read(self, rows: "Dataset") -> None:
        column = self.options.label_column
        check_columns(rows, [self.options.text_column, column], "training data")
        values = self._values(rows, "training data")
        self.mode = self.options.mode or _mode_of(values[0])
        self._check(values, "training data")
        if self.mode == "regression":
            return
        class_names = getattr(rows.features[column], "names", None)
        flat = values if self.mode == "single-label" else [x for value in values for x in value]
        found = set(flat)
        if len(found) < 2 and self.mode == "single-label":
            raise DataError(
                f"classes must be two or more; column {column!r} of the training data holds "
                f"{sorted(map(str, found))}: check label_column"
            )
        self.keys = list(range(len(class_names))) if class_names else sorted(found, key=_order)
        self.names = [str(name) for name in class_names or self.keys]
        self.number = {key: number for number, key in enumerate(self.keys)}

    def know(self, config: Any) -> None:
        self.mode = self.options.mode or labels.mode(config)
        if self.mode != "regression":
            self.names, self.number = labels.names(config), labels.numbers(config)

    def config_keys(self) -> dict[str, Any]:
        names = self.names or ["value"]
        return {
            "id2label": dict(enumerate(names)),
            "label2id": {name: number for number, name in enumerate(names)},
            "problem_type": PROBLEM_TYPES[self.mode],
        }

    def prepare(self, rows: "Dataset", what: str) -> Prepared:
        options = self.options
        pair = (options.text_pair_column,) if options.text_pair_column else ()
        columns = (options.text_column, *pair)
        check_columns(rows, [*columns, options.label_column], what)
        notes = tokens.check_texts(rows, columns, what)
        values = self._values(rows, what)
        self._check(values, what)
        self._check_known(values, what)
        if options.whole_documents:
            return self._whole(rows, what, notes)
        found, cut = tokens.texts(
            rows, columns, self.tokenizer, options.length, keep=[options.label_column]
        )
        if cut:
            notes.append(
                f"{cut:,} of {len(found):,} documents of the {what} are longer than "
                f"{options.length:,} tokens and are cut"
            )
        return Prepared(found, notes)

    def _whole(self, rows: "Dataset", what: str, notes: list[str]) -> Prepared:
        options = self.options
        found = tokens.whole_texts(
            rows, options.text_column, self.tokenizer, options.length, options.label_column
        )
        if len(found) > len(rows):
            notes.append(f"{len(rows):,} documents of the {what} are {len(found):,} windows")
        return Prepared(found, notes)

    def collate(
        self, row: dict[str, Any], length: int, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        value = row[self.options.label_column]
        if self.mode == "regression":
            label = np.float32(value)
        elif self.mode == "single-label":
            label = np.int32(self.number[value])
        else:
            label = np.zeros(len(self.names), np.float32)
            label[[self.number[key] for key in value]] = 1
        return self.padded(row["input_ids"], length) | {"labels": np.asarray(label)}

    def loss(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Loss:
        logits = self._logits(model, params, batch, **call)
        return Loss(self._losses(logits, batch["labels"]).mean(), batch["labels"].shape[0])

    def outputs(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        logits = self._logits(model, params, batch)
        losses = self._losses(logits, batch["labels"])
        return {"logits": logits, "labels": batch["labels"], "losses": losses}

    def by_document(self, outputs: Arrays, prepared: Prepared) -> Arrays:
        """The mean over a document's windows: of probabilities, or of the numbers themselves."""
        if not self.options.whole_documents:
            return outputs
        document = tokens.numbers(prepared.rows, "document")
        count = np.bincount(document)

        def mean(values: np.ndarray) -> np.ndarray:
            total = np.zeros((len(count), *values.shape[1:]))
            np.add.at(total, document, values)
            return total / count.reshape(-1, *[1] * (values.ndim - 1))

        first = np.searchsorted(document, np.arange(len(count)))
        logits = outputs["logits"].astype(np.float64)
        if self.mode == "regression":
            logits = mean(logits)
        elif self.mode == "multi-label":
            likely = mean(scipy.special.expit(logits))
            logits = scipy.special.logit(likely)
        else:
            logits = np.log(mean(scipy.special.softmax(logits, axis=-1)))
        labels, losses = outputs["labels"][first], mean(outputs["losses"])
        return {"logits": logits, "labels": labels, "losses": losses}

    def score(self, outputs: Arrays, prepared: Prepared) -> dict[str, float]:
        loss = {"loss": float(outputs["losses"].mean())}
        logits, labels = outputs["logits"], outputs["labels"]
        if self.mode == "regression":
            return loss | metrics.regression_metrics(logits[:, 0], labels)
        if self.mode == "multi-label":
            return loss | metrics.multi_label_metrics(logits, labels)
        return loss | metrics.single_label_metrics(logits, labels)

    def _logits(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Any:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        return model(ids, mask, params=params, **call).logits.astype(jnp.float32)

    def _losses(self, logits: Any, labels: Any) -> Any:
        """[B]"""
        if self.mode == "regression":
            return (logits[:, 0] - labels) ** 2
        if self.mode == "multi-label":
            signed = jnp.where(labels > 0, logits, -logits)
            return -jax.nn.log_sigmoid(signed).mean(-1)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]

    def _values(self, rows: "Dataset", what: str) -> list[Any]:
        column = self.options.label_column
        values = list(rows[column])
        missing = [number for number, value in enumerate(values) if value is None]
        if missing:
            raise DataError(
                f"column {column!r} of the {what} must hold a label in every row; row "
                f"{missing[0] + 1} has none ({len(missing)} in all): fill or remove them"
            )
        if not values:
            raise DataError(f"the {what} must have rows; it has none: check the files")
        return values

    def _check(self, values: list[Any], what: str) -> None:
        """Raises for labels that are not of the mode, naming the row."""
        fits = {
            "regression": lambda x: isinstance(x, int | float) and not isinstance(x, bool),
            "multi-label": lambda x: isinstance(x, list) and all(_is_key(item) for item in x),
            "single-label": _is_key,
        }[self.mode]
        for number, value in enumerate(values):
            if not fits(value):
                raise DataError(
                    f"labels must be {_EXPECTED[self.mode]} in mode {self.mode}; row {number + 1} "
                    f"of the {what} has {value!r}: mend it, or give another mode"
                )

    def _check_known(self, values: Iterable[Any], what: str) -> None:
        if self.mode == "regression":
            return
        for row, value in enumerate(values):
            for key in value if self.mode == "multi-label" else [value]:
                if key not in self.number:
                    shown = ", ".join(self.names[:10]) + (", ..." if len(self.names) > 10 else "")
                    raise DataError(
                        f"labels must be among those of the training data ({shown}); row {row + 1} "
                        f"of the {what} has {key!r}: add examples of it, or remove the row"
                    )


_EXPECTED = {
    "regression": "numbers",
    "multi-label": "lists of names or whole numbers",
    "single-label": "names or whole numbers",
}


def _is_key(value: Any) -> bool:
    return isinstance(value, str | int)


def _mode_of(value: Any) -> str:
    if isinstance(value, list):
        return "multi-label"
    return "regression" if isinstance(value, float) else "single-label"


def _order(key: Any) -> tuple[bool, Any]:
    """Numbers by size, names by the alphabet."""
    return isinstance(key, str), key
