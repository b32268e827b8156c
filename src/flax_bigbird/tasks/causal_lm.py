"""Pretraining of decoders: every token from those before it."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from flax_bigbird.train.losses import IGNORED, cross_entropy, negative_log_likelihood
from flax_bigbird.train.metrics import language_model_metrics
from flax_bigbird.train.objectives.base import Arrays, Loss, Prepared
from flax_bigbird.train.objectives.language import LanguageModel, inputs


class CausalLM(LanguageModel):
    """`[CLS]` begins a window; every later token of it is a target, `[SEP]` at its end too."""

    model_class = "FlaxBigBirdForCausalLM"
    logits_share = 1.0

    def config_keys(self) -> dict[str, Any]:
        return {"is_decoder": True}

    def collate_document(
        self, row: dict[str, Any], length: int, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        ids = np.asarray(row["input_ids"], np.int32)
        labels = np.full(length, IGNORED, np.int32)
        labels[: len(ids) - 1] = ids[1:]
        arrays = self.padded(ids, length) | {"labels": labels}
        return self.with_positions(arrays, length, generator)

    def loss(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Loss:
        logits = model(**inputs(batch), params=params, **call).logits
        targets = (batch["labels"] != IGNORED).sum()
        return Loss(cross_entropy(logits, batch["labels"]), targets)

    def outputs(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        logits = model(**inputs(batch), params=params).logits
        used = batch["labels"] != IGNORED
        chosen = jnp.where(used, batch["labels"], 0)
        losses = negative_log_likelihood(logits, chosen)
        return {
            "losses": jnp.where(used, losses, 0).sum(-1),
            "targets": used.sum(-1),
            "characters": jnp.where(used, jnp.asarray(self.characters)[chosen], 0).sum(-1),
        }

    def score(self, outputs: Arrays, prepared: Prepared) -> dict[str, float]:
        return language_model_metrics(outputs["losses"], outputs["targets"], outputs["characters"])
