"""A tag for every word."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flax_bigbird.tasks import labels
from flax_bigbird.tasks.base import Arrays, Row, Task, Window
from flax_bigbird.tasks.errors import DataError
from flax_bigbird.tasks.text import FRAME, encode, word_windows

NO_TAG = "O"  # of words that have no pieces, where the model knows it


class Tag(Task):
    """`{"tags", "scores"}`, one a word, by each word's first piece.

    Words are the lists of `words_column`, or the text split at white space (then `words` are in
    the answer). Documents longer than the window are read in windows that part between words.
    """

    name = "token-classification"
    model_class = "FlaxBigBirdForTokenClassification"

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.names = labels.names(self.model.config)

    def windows(self, row: Row) -> list[Window]:
        tokenizer = self.tokenizer
        words = self._words(row)
        pieces = encode(tokenizer, words) if words else []
        found = []
        for window in word_windows(pieces, self.options.length - FRAME):
            ids: list[Any] = [tokenizer.cls_token_id]
            firsts = []
            for number, word in window:
                if word:
                    firsts.append((number, len(ids)))
                ids += word
            ids.append(tokenizer.sep_token_id)
            found.append(Window(ids, firsts))
        return found

    def outputs(self, params: Any, batch: Arrays) -> Arrays:
        out = self.model(batch["input_ids"], batch["attention_mask"], params=params)
        scores = jax.nn.softmax(out.logits.astype(jnp.float32))
        return {"tag": scores.argmax(-1), "score": scores.max(-1)}

    def answer(self, row: Row, windows: Sequence[Window], outputs: Sequence[Arrays]) -> Row:
        words = self._words(row)
        default = NO_TAG if NO_TAG in self.names else self.names[0]
        tags, scores = [default] * len(words), [0.0] * len(words)
        for window, found in zip(windows, outputs, strict=True):
            for word, place in window.note:
                tags[word] = self.names[int(found["tag"][place])]
                scores[word] = float(found["score"][place])
        answer: Row = {"tags": tags, "scores": scores}
        return answer if self.options.words_column in row else {"words": words} | answer

    def _words(self, row: Row) -> list[str]:
        column = self.options.words_column
        if column not in row:
            return self.text(row, self.options.text_column).split()
        words = row[column]
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise DataError(
                f"column {column!r} must hold lists of words; got {str(words)[:60]!r}: mend it, or "
                "name another with words_column"
            )
        return words
