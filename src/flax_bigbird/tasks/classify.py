"""Which class, which labels or what number a document has."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_bigbird.tasks import labels
from flax_bigbird.tasks.base import Arrays, Row, Task, Window
from flax_bigbird.tasks.text import covering_windows, encode, framed


class Classify(Task):
    """`{"label", "score", "scores"}`; `{"labels", "scores"}` of several; or `{"value"}`.

    Scores are probabilities; a label of several counts from one half on.
    """

    name = "sequence-classification"
    model_class = "FlaxBigBirdForSequenceClassification"

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.mode = labels.mode(self.model.config)
        self.names = labels.names(self.model.config)

    def windows(self, row: Row) -> list[Window]:
        pair = self.options.text_pair_column
        texts = [self.text(row, name) for name in (self.options.text_column, pair) if name]
        pieces = encode(self.tokenizer, texts)
        if self.options.whole_documents:
            found = covering_windows(pieces[0], self.tokenizer, self.options.length)
            return [Window(ids) for ids in found]
        ids, _ = framed(pieces, self.tokenizer, self.options.length)
        return [Window(ids)]

    def outputs(self, params: Any, batch: Arrays) -> Arrays:
        out = self.model(batch["input_ids"], batch["attention_mask"], params=params)
        logits = out.logits.astype(jnp.float32)
        if self.mode == "regression":
            return {"value": logits[:, 0]}
        several = self.mode == "multi-label"
        return {"scores": jax.nn.sigmoid(logits) if several else jax.nn.softmax(logits)}

    def answer(self, row: Row, windows: Sequence[Window], outputs: Sequence[Arrays]) -> Row:
        found = {name: np.mean([o[name] for o in outputs], axis=0) for name in outputs[0]}
        if self.mode == "regression":
            return {"value": float(found["value"])}
        scores = dict(zip(self.names, map(float, found["scores"]), strict=True))
        if self.mode == "multi-label":
            return {"labels": [n for n, s in scores.items() if s >= 0.5], "scores": scores}
        best = max(scores, key=scores.__getitem__)
        return {"label": best, "score": scores[best], "scores": scores}
