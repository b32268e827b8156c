"""Masked-language-model pretraining."""

import math
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from flax_bigbird.train.losses import IGNORED, cross_entropy, negative_log_likelihood
from flax_bigbird.train.masking import Masking, places
from flax_bigbird.train.metrics import language_model_metrics
from flax_bigbird.train.objectives.base import Arrays, Loss, Prepared
from flax_bigbird.train.objectives.language import LanguageModel, inputs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class MaskedLM(LanguageModel):
    """The loss is of masked pieces alone."""

    model_class = "FlaxBigBirdForMaskedLM"

    @property
    def logits_share(self) -> float:  # type: ignore[override]
        return self.options.mask_rate

    def tokenizer_is(self, tokenizer: "PreTrainedTokenizerBase", vocabulary: int) -> None:
        super().tokenizer_is(tokenizer, vocabulary)
        options = self.options
        self.masking = Masking.of(tokenizer, options.mask_rate, options.whole_words, vocabulary)

    def collate_document(
        self, row: dict[str, Any], length: int, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        ids = np.asarray(row["input_ids"], np.int32)
        return self.with_positions(self.masked(ids, length, generator), length, generator)

    def places_for_targets(self, length: int) -> int:
        # By blocks: rounded up for every document that there may be.
        blocks = length // self.block_size
        return blocks * max(1, math.ceil(self.options.mask_rate * self.block_size))

    def masked(
        self, ids: np.ndarray, length: int, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Padded arrays of ids with targets, and the targets' places and labels."""
        limit = places(length, self.options.mask_rate)
        seen, positions, labels = self.masking(ids, limit, generator)
        return self.padded(seen, length) | {"positions": positions, "labels": labels}

    def loss(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Loss:
        out = self.call(model, params, batch, **call)
        targets = (batch["labels"] != IGNORED).sum()
        return Loss(cross_entropy(out.logits, batch["labels"]), targets)

    def outputs(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        return self.counted(self.call(model, params, batch).logits, batch["labels"])

    def call(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Any:
        """The model's output, logits at the targets alone."""
        return model(**inputs(batch), params=params, logits_positions=batch["positions"], **call)

    def counted(self, logits: Any, labels: Any) -> Arrays:
        """[B] each: the sum of losses, targets, their characters, those that are guessed."""
        used = labels != IGNORED
        chosen = jnp.where(used, labels, 0)
        losses = negative_log_likelihood(logits, chosen)
        right = used & (logits.argmax(-1) == labels)
        return {
            "losses": jnp.where(used, losses, 0).sum(-1),
            "targets": used.sum(-1),
            "characters": jnp.where(used, jnp.asarray(self.characters)[chosen], 0).sum(-1),
            "right": right.sum(-1),
        }

    def score(self, outputs: Arrays, prepared: Prepared) -> dict[str, float]:
        targets = outputs["targets"]
        found = language_model_metrics(outputs["losses"], targets, outputs["characters"])
        return found | {"accuracy": float(outputs["right"].sum() / max(1, targets.sum()))}
