"""Prediction of sequence classification: a class, a set of labels, or a value per document."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from flax_bigbird.config import classifier_pooling
from flax_bigbird.data.columns import ColumnKind
from flax_bigbird.data.tokenization import tokenize
from flax_bigbird.data.types import Arrays, Row, Tokenizer
from flax_bigbird.tasks.base import PredictionTask, Window, get_text
from flax_bigbird.tasks.document_scores import combine_windows, probabilities
from flax_bigbird.tasks.labels import label_indices, label_names, label_thresholds, problem_type
from flax_bigbird.tasks.sequence_encoding import encode_windows, text_columns, windows_with_spans
from flax_bigbird.tasks.sequence_labels import MULTI_LABEL, REGRESSION
from flax_bigbird.tasks.task_options import SequenceClassificationOptions


class SequencePrediction(PredictionTask):
    """Predicts a class, a set of labels, or a value for each document.

    Documents longer than `max_length` are truncated, or split into windows if `whole_documents` is
    set. The scores of a document then follow from those of its windows, see `combine_windows`.

    A prediction is `{"label", "score", "scores"}`; `{"labels", "scores"}` for sets of labels, which
    are those whose probability reaches the `label_thresholds` of the model's configuration, by
    default 0.5; or `{"value"}`. With `window_scores`, it has the same for each of the `windows`,
    with the characters `[start, end)` of the text that the window covers.
    """

    name = "sequence-classification"
    title = "Document classifier"
    pipeline_tag = "text-classification"
    model_class = "FlaxBigBirdForSequenceClassification"
    options_class = SequenceClassificationOptions

    def __init__(self, options: Any, tokenizer: Tokenizer, config: Any):
        super().__init__(options, tokenizer, config)
        self.problem_type: str = options.problem_type or problem_type(config)
        self.pooling = classifier_pooling(config)
        self.label_names = label_names(config)
        self.thresholds = label_thresholds(config, self.label_names)
        self.label_indices = label_indices(config)

    @classmethod
    def columns(cls, options: Any) -> dict[str, ColumnKind]:
        columns: dict[str, ColumnKind] = dict.fromkeys(text_columns(options), "text")
        columns[options.label_column] = "label"
        return columns

    def encode(self, row: Row) -> list[Window]:
        if self.options.window_scores:
            text = get_text(row, self.options.text_column)
            return [
                Window(*pair) for pair in windows_with_spans(text, self.tokenizer, self.options)
            ]
        texts = [get_text(row, column) for column in text_columns(self.options)]
        parts = tokenize(self.tokenizer, texts)
        windows, _ = encode_windows(parts, self.tokenizer, self.options)
        return [Window(ids) for ids in windows]

    def predict_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        logits = self._logits(model, params, batch)
        return {"logits": logits, "num_tokens": batch["attention_mask"].sum(-1)}

    def decode(self, row: Row, windows: Sequence[Window], outputs: Sequence[Arrays]) -> Row:
        answer = self._answer(outputs)
        if self.options.window_scores:
            answer["windows"] = [
                {"start": window.info.start, "end": window.info.stop} | self._answer([output])
                for window, output in zip(windows, outputs, strict=True)
            ]
        return answer

    def _answer(self, outputs: Sequence[Arrays]) -> Row:
        """Returns the prediction for a document, or a part of it, from its windows' outputs."""
        logits = self.document_logits(outputs)
        if self.problem_type == REGRESSION:
            return {"value": float(logits[0])}
        values = probabilities(logits, self.problem_type)
        scores = dict(zip(self.label_names, map(float, values), strict=True))
        if self.problem_type == MULTI_LABEL:
            is_predicted = self._predicted_labels(logits)
            labels = [name for name, yes in zip(scores, is_predicted, strict=True) if yes]
            return {"labels": labels, "scores": scores}
        best = max(scores, key=scores.__getitem__)
        return {"label": best, "score": scores[best], "scores": scores}

    def document_logits(self, outputs: Sequence[Arrays]) -> np.ndarray:
        """Returns the logits of a document from the outputs of its windows, `[num_labels]`."""
        window_logits, num_tokens = (
            np.stack([output[name] for output in outputs]) for name in ("logits", "num_tokens")
        )
        return self._combine_windows(window_logits, num_tokens, np.zeros(len(outputs), int))[0]

    def _combine_windows(
        self, logits: np.ndarray, num_tokens: np.ndarray, document: np.ndarray
    ) -> np.ndarray:
        return combine_windows(
            logits, num_tokens, document, problem_type=self.problem_type, pooling=self.pooling
        )

    def _predicted_labels(self, logits: np.ndarray) -> np.ndarray:
        """Returns whether each label of a set reaches its threshold, `[..., num_labels]`."""
        return probabilities(logits.astype(np.float64), MULTI_LABEL) >= self.thresholds

    def _logits(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Any:
        """Returns the logits in float32, `[B, num_labels]`."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        return model(ids, mask, params=params, **call).logits.astype(jnp.float32)
