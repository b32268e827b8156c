"""What stands in the place of [MASK]."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_bigbird.tasks.base import Arrays, Row, Task, Window
from flax_bigbird.tasks.errors import DataError
from flax_bigbird.tasks.text import encode, framed

TOP = 5
SPACE = "▁"  # SentencePiece's; transformers 5 makes a piece of it before a special token


class FillMask(Task):
    """`{"masks": [[{"token", "score"}, ...], ...]}`: the likeliest pieces of every [MASK]."""

    name = "masked-lm"
    model_class = "FlaxBigBirdForMaskedLM"

    def windows(self, row: Row) -> list[Window]:
        text = self.text(row, self.options.text_column)
        pieces = [self._without_spaces(ids) for ids in encode(self.tokenizer, [text])]
        ids, _ = framed(pieces, self.tokenizer, self.options.length)
        places = [n for n, id in enumerate(ids) if id == self.tokenizer.mask_token_id]
        if not places:
            raise DataError(
                f"a text must hold {self.tokenizer.mask_token} within its first "
                f"{self.options.length} tokens; got {text[:60]!r}: put it where a piece is to be "
                "found"
            )
        return [Window(ids, places)]

    def _without_spaces(self, ids: list[int]) -> list[int]:
        """Without the pieces that are only the space before a [MASK], which stands for it too."""
        tokenizer = self.tokenizer
        space = tokenizer.convert_tokens_to_ids(SPACE)
        masked = [*(id == tokenizer.mask_token_id for id in ids[1:]), False]
        return [id for id, last in zip(ids, masked, strict=True) if not (last and id == space)]

    def arrays(self, window: Window, length: int) -> dict[str, np.ndarray]:
        # Doubles of 8: few shapes, few compilations.
        room = 8
        while room < len(window.note):
            room *= 2
        positions = np.zeros(room, np.int32)
        positions[: len(window.note)] = window.note
        return super().arrays(window, length) | {"positions": positions}

    def outputs(self, params: Any, batch: Arrays) -> Arrays:
        logits = self.model(
            batch["input_ids"],
            batch["attention_mask"],
            params=params,
            logits_positions=batch["positions"],
        ).logits
        # Rows of the table beyond the vocabulary are no pieces.
        logits = logits[..., : len(self.tokenizer)].astype(jnp.float32)
        scores, ids = jax.lax.top_k(jax.nn.softmax(logits), min(TOP, logits.shape[-1]))
        return {"scores": scores, "ids": ids}

    def answer(self, row: Row, windows: Sequence[Window], outputs: Sequence[Arrays]) -> Row:
        (window,), (found,) = windows, outputs
        masks = []
        for scores, ids in zip(found["scores"], found["ids"], strict=True):
            tokens = self.tokenizer.convert_ids_to_tokens(ids.tolist())
            pairs = zip(tokens, scores.tolist(), strict=True)
            masks.append([{"token": t.replace(SPACE, " "), "score": s} for t, s in pairs])
        return {"masks": masks[: len(window.note)]}
