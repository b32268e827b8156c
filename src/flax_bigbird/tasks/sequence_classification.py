"""Sequence classification: a class, a set of labels, or a value for each document."""

from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from flax_bigbird._messages import pluralize
from flax_bigbird.data.batching import Bucket, Examples, assign_buckets
from flax_bigbird.data.encoded_rows import column_array, truncated_message
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.loading import SPLIT_NAMES, require_columns, require_texts
from flax_bigbird.data.splitting import RowLabels
from flax_bigbird.data.types import Arrays, Dataset, Row
from flax_bigbird.tasks import metrics
from flax_bigbird.tasks.base import EncodedDataset, Loss, Metrics, Split, Task
from flax_bigbird.tasks.document_scores import document_means, probabilities
from flax_bigbird.tasks.labels import class_names, label_config, problem_type
from flax_bigbird.tasks.linear_probing import ProbeData, fit_head
from flax_bigbird.tasks.row_masks import mean_over_rows
from flax_bigbird.tasks.sequence_encoding import (
    SingleWindows,
    encode_documents,
    max_windows_of_training,
    text_columns,
)
from flax_bigbird.tasks.sequence_labels import (
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    check_known_labels,
    check_label_types,
    defines_auroc,
    distinct_labels,
    get_labels,
    infer_problem_type,
    replace_class_codes,
)
from flax_bigbird.tasks.sequence_losses import (
    balanced_weights,
    check_loss_options,
    example_losses,
    smooth_losses,
)
from flax_bigbird.tasks.sequence_prediction import SequencePrediction

MIN_EXAMPLES_TO_TUNE = 10
"""The number of validation examples with a label, and without it, that its threshold needs."""

_METRICS = {
    SINGLE_LABEL: metrics.SINGLE_LABEL_METRICS,
    MULTI_LABEL: metrics.MULTI_LABEL_METRICS,
    REGRESSION: metrics.REGRESSION_METRICS,
}


class SequenceClassification(SequencePrediction, Task):
    """Predicts a class, a set of labels, or a value for each document.

    `problem_type` says which of them; by default, it follows from the labels.
    """

    masks_rows = True

    @classmethod
    def check_rows(cls, options: Any, rows: Dataset, split: Split) -> list[str]:
        columns = text_columns(options)
        require_columns(rows, [*columns, options.label_column], split)
        messages = require_texts(rows, columns, split)
        get_labels(options.label_column, rows, split)
        return messages

    @classmethod
    def infer_config(cls, options: Any, rows: Dataset) -> dict[str, Any]:
        column = options.label_column
        cls.check_rows(options, rows, "train")
        labels = get_labels(column, rows, "train")
        kind = options.problem_type or infer_problem_type(labels[0])
        check_label_types(labels, kind, rows, "train")
        check_loss_options(options, kind)
        head = {"problem_type": kind, "classifier_pooling": options.classifier_pooling}
        if kind == REGRESSION:
            return label_config(["value"]) | head
        distinct = [str(label) for label in distinct_labels(labels, kind)]
        if len(distinct) < (2 if kind == SINGLE_LABEL else 1):
            rule = "classes must be two or more" if kind == SINGLE_LABEL else "labels must exist"
            raise DataError(
                f"{rule}; column {column!r} of the training data holds "
                f"{distinct}: check label_column"
            )
        names = class_names(rows, column) or distinct
        return label_config(names) | head

    @classmethod
    def stratification_labels(cls, options: Any, rows: Dataset) -> RowLabels | None:
        labels = get_labels(options.label_column, rows, "train")
        kind = options.problem_type or infer_problem_type(labels[0])
        if kind == REGRESSION:
            return None
        return labels if kind == MULTI_LABEL else [[label] for label in labels]

    @classmethod
    def iterate_texts(cls, options: Any, rows: Dataset) -> Iterator[str]:
        for batch in rows.iter(64):
            for column in text_columns(options):
                yield from filter(None, batch[column])  # type: ignore[index]

    @classmethod
    def evaluation_metrics(
        cls, options: Any, config: Any = None, rows: Dataset | None = None
    ) -> Metrics:
        kind = options.problem_type or (None if config is None else problem_type(config))
        kinds = _METRICS if kind is None else [kind]
        names = {name: _METRICS[k][name] for k in kinds for name in _METRICS[k]}
        if kind is not None and config is not None and rows is not None:
            labels = rows[options.label_column]
            if not defines_auroc(labels, kind, config.num_labels):
                names.pop("auroc", None)
        return names | {"loss": False}

    def encode_dataset(self, rows: Dataset, split: Split) -> EncodedDataset:
        options, label_column = self.options, self.options.label_column
        messages = self.check_rows(options, rows, split)
        if self.problem_type != REGRESSION:
            rows = replace_class_codes(rows, label_column, self.label_names, self.label_indices)
        labels = get_labels(label_column, rows, split)
        check_label_types(labels, self.problem_type, rows, split)
        check_known_labels(
            labels, self.problem_type, self.label_names, self.label_indices, rows, split
        )

        max_windows = self._max_windows(split)
        examples, truncated = encode_documents(rows, self.tokenizer, options, max_windows)
        if split == "train" and getattr(options, "class_weights", "none") == "balanced":
            indices = [self.label_indices[label] for label in examples[label_column]]
            weights = balanced_weights(indices)
            examples = examples.add_column("weight", weights)  # type: ignore[arg-type]
        num_windows = len(SingleWindows(examples, options.length))
        if num_windows > len(rows):
            origin = f"of the {SPLIT_NAMES[split]}"
            documents = pluralize(len(rows), f"document {origin} is", f"documents {origin} are")
            message = f"{documents} {num_windows:,} windows"
            grouped = f", at most {max_windows} in an example" if max_windows > 1 else ""
            messages.append(message + grouped)
        if truncated:
            texts = SPLIT_NAMES[split]
            messages.append(
                truncated_message(truncated, len(examples), "document", texts, options.length)
            )
        return EncodedDataset(examples, messages, max_windows=max_windows)

    def _max_windows(self, split: Split) -> int:
        """Returns the maximum number of windows in an example.

        In training, the loss is that of the mean over several windows of a document, as documents
        are classified by the mean over all. Single windows differ much more than documents do, so
        that a head that is right for documents is overconfident for them, and training on single
        windows would make the classification of documents worse.
        """
        is_mean = self.options.whole_documents and self.pooling == "mean"
        return max_windows_of_training(self.options) if split == "train" and is_mean else 1

    def collate(self, example: Row, length: int, generator: np.random.Generator) -> Arrays:
        value = example[self.options.label_column]
        if self.problem_type == REGRESSION:
            labels = np.asarray(value, np.float32)
        elif self.problem_type == SINGLE_LABEL:
            labels = np.asarray(self.label_indices[value], np.int32)
        else:
            labels = np.zeros(len(self.label_names), np.float32)
            labels[[self.label_indices[label] for label in value]] = 1
        arrays = self.pad(example["input_ids"], length) | {"labels": labels}
        if "weight" in example:
            arrays["weights"] = np.asarray(example["weight"], np.float32)
        return arrays

    def loss(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Loss:
        logits = self._example_logits(model, params, batch, **call)
        losses = example_losses(logits, batch["labels"], self.problem_type)
        if smoothing := getattr(self.options, "label_smoothing_factor", 0.0):
            losses = smooth_losses(losses, logits, smoothing)
        return mean_over_rows(losses, batch, batch.get("weights"))

    def fit_new_head(
        self,
        model: Any,
        encoded: EncodedDataset,
        buckets: list[Bucket],
        seed: int,
        log: Callable[[str], None],
    ) -> Any:
        """Fits a regularized linear classifier to the features, unless `linear_probing` is off."""
        if not getattr(self.options, "linear_probing", False):
            return None
        examples: Examples = encoded.examples
        whole = self.options.whole_documents
        document = column_array(encoded.examples, "document") if whole else np.arange(len(examples))
        if encoded.max_windows > 1:  # without the padding to whole groups
            examples = windows = SingleWindows(encoded.examples, self.options.length)
            document = document[windows.owners]
            lengths, tokens_per_batch = self.options.bucket_lengths, self.options.tokens_per_batch
            buckets = assign_buckets(windows.lengths, lengths, tokens_per_batch)
        data = ProbeData(examples, buckets, document, self.collate)
        balanced = getattr(self.options, "class_weights", "none") == "balanced"
        return fit_head(
            model,
            data.sample(seed),
            self.problem_type,
            seed=seed,
            weigh_by_tokens=self.pooling == "mean",
            class_weight="balanced" if balanced else None,
            log=log,
        )

    def eval_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        logits = self._logits(model, params, batch)
        return {
            "logits": logits,
            "labels": batch["labels"],
            "losses": example_losses(logits, batch["labels"], self.problem_type),
            "num_tokens": batch["attention_mask"].sum(-1),
        }

    def merge_windows(self, outputs: Arrays, encoded: EncodedDataset) -> Arrays:
        """Combines the logits of the windows of each document.

        With pooling "cls", the loss of a document is the mean over its windows.
        """
        if not self.options.whole_documents:
            return outputs
        document = column_array(encoded.examples, "document")
        logits = self._combine_windows(outputs["logits"], outputs["num_tokens"], document)
        labels = outputs["labels"][np.searchsorted(document, np.arange(len(logits)))]
        if self.pooling == "cls":
            losses = document_means(outputs["losses"], document)
        else:
            losses = example_losses(
                jnp.asarray(logits, jnp.float32), jnp.asarray(labels), self.problem_type
            )
            losses = np.asarray(losses)
        return {"logits": logits, "labels": labels, "losses": losses}

    def compute_metrics(self, outputs: Arrays, encoded: EncodedDataset) -> dict[str, float]:
        loss = {"loss": float(outputs["losses"].mean())}
        logits, labels = outputs["logits"], outputs["labels"]
        if self.problem_type == REGRESSION:
            return loss | metrics.regression_metrics(logits[:, 0], labels)
        if self.problem_type == MULTI_LABEL:
            predicted = self._predicted_labels(logits)
            return loss | metrics.multi_label_metrics(logits, labels, predicted)
        return loss | metrics.single_label_metrics(logits, labels)

    def report_details(self, outputs: Arrays, encoded: EncodedDataset) -> dict[str, Any]:
        """Returns precision, recall and F1 of each label, and the confusion matrix of classes."""
        labels, names = outputs["labels"], self.label_names
        if self.problem_type == REGRESSION:
            return {}
        if self.problem_type == MULTI_LABEL:
            predicted = self._predicted_labels(outputs["logits"])
            thresholds = dict(zip(names, self.thresholds.tolist(), strict=True))
            report = metrics.classification_report(labels.astype(int), predicted.astype(int), names)
            return {"classification_report": report, "label_thresholds": thresholds}
        predicted = outputs["logits"].argmax(-1)
        matrix = metrics.confusion_matrix(labels, predicted, len(names))
        return {
            "confusion_matrix": {"labels": names, "rows": matrix.tolist()},
            "classification_report": metrics.classification_report(labels, predicted, names),
        }

    def tuned_config(self, outputs: Arrays, encoded: EncodedDataset) -> dict[str, Any]:
        """Returns the thresholds with the highest F1 of each label of a set."""
        if self.problem_type != MULTI_LABEL:
            return {}
        values = probabilities(outputs["logits"].astype(np.float64), MULTI_LABEL)
        thresholds = metrics.best_thresholds(values, outputs["labels"], MIN_EXAMPLES_TO_TUNE)
        return {"label_thresholds": dict(zip(self.label_names, thresholds, strict=True))}

    def _example_logits(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Any:
        """Returns the logits of examples of one or several windows, `[B, num_labels]`.

        Those of several windows are the mean of theirs, weighted by their numbers of tokens.
        """
        mask, length = batch["attention_mask"], self.options.length
        if mask.shape[1] <= length:
            return self._logits(model, params, batch, **call)
        windows = {
            name: batch[name].reshape(-1, length) for name in ("input_ids", "attention_mask")
        }
        logits = self._logits(model, params, windows, **call)
        weights = mask.reshape(len(mask), -1, length).sum(-1).astype(jnp.float32)
        totals = (logits.reshape(*weights.shape, -1) * weights[:, :, None]).sum(1)
        return totals / weights.sum(1, keepdims=True)
