"""Masked-language-model pretraining."""

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from flax_bigbird.tasks.errors import DataError
from flax_bigbird.train import tokens
from flax_bigbird.train.losses import IGNORED, cross_entropy, negative_log_likelihood
from flax_bigbird.train.masking import Masking, places
from flax_bigbird.train.metrics import language_model_metrics
from flax_bigbird.train.objectives.base import Arrays, Loss, Objective, Prepared
from flax_bigbird.train.reading import check_columns

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


class MaskedLM(Objective):
    """Documents cut into windows of at most `max_length`; the loss is of masked pieces alone."""

    model_class = "FlaxBigBirdForMaskedLM"
    best_metric = "loss"

    def tokenizer_is(self, tokenizer: "PreTrainedTokenizerBase", vocabulary: int) -> None:
        super().tokenizer_is(tokenizer, vocabulary)
        options = self.options
        self.masking = Masking.of(tokenizer, options.mask_rate, options.whole_words, vocabulary)

    def read(self, rows: "Dataset") -> None:
        check_columns(rows, [self.options.text_column], "training data")

    def prepare(self, rows: "Dataset", what: str) -> Prepared:
        column = self.options.text_column
        check_columns(rows, [column], what)
        tokens.check_texts(rows, column, what)
        found, dropped = tokens.windows(rows, column, self.tokenizer, self.options.length)
        if not len(found):
            raise DataError(
                f"the {what} must hold a text of {tokens.SHORTEST} pieces or more; all are shorter"
            )
        notes = []
        if dropped:
            notes.append(
                f"{dropped:,} pieces of the {what} are left out: ends of documents shorter than "
                f"{tokens.SHORTEST} pieces"
            )
        return Prepared(found, notes)

    def collate(
        self, row: dict[str, Any], length: int, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        ids = np.asarray(row["input_ids"], np.int32)
        limit = places(length, self.options.mask_rate)
        seen, positions, labels = self.masking(ids, limit, generator)
        arrays = self.padded(seen, length) | {"positions": positions, "labels": labels}
        if self.options.random_positions:
            first = generator.integers(0, self.positions - length + 1)
            arrays["position_ids"] = (first + np.arange(length)).astype(np.int32)
        return arrays

    def _logits(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Any:
        inputs = {
            name: batch[name]
            for name in ("input_ids", "attention_mask", "position_ids")
            if name in batch
        }
        return model(**inputs, params=params, logits_positions=batch["positions"], **call).logits

    def loss(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Loss:
        logits = self._logits(model, params, batch, **call)
        targets = (batch["labels"] != IGNORED).sum()
        return Loss(cross_entropy(logits, batch["labels"]), targets)

    def outputs(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        used = batch["labels"] != IGNORED
        logits = self._logits(model, params, batch)
        losses = negative_log_likelihood(logits, jnp.where(used, batch["labels"], 0))
        right = used & (logits.argmax(-1) == batch["labels"])
        return {
            "losses": jnp.where(used, losses, 0).sum(-1),
            "targets": used.sum(-1),
            "right": right.sum(-1),
        }

    def score(self, outputs: Arrays, prepared: Prepared) -> dict[str, float]:
        targets = outputs["targets"]
        found = language_model_metrics(outputs["losses"], targets)
        return found | {"accuracy": float(outputs["right"].sum() / max(1, targets.sum()))}
