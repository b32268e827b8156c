"""Which words of a document answer a question."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from flax_bigbird.tasks.base import Arrays, Row, Task, Window
from flax_bigbird.tasks.options import check_stride
from flax_bigbird.tasks.spans import NOTHING, best_span, context_windows


class Answer(Task):
    """`{"answer", "start", "end", "score", "no_answer_score"}` of columns `question`, `context`.

    The best span of all windows of the context: its characters `context[start:end]` and the sum
    of its logits; and the same sum for no answer. Where that is higher the answer is "".
    """

    name = "question-answering"
    model_class = "FlaxBigBirdForQuestionAnswering"

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        check_stride(self.options)

    def windows(self, row: Row) -> list[Window]:
        question, context = self.text(row, "question"), self.text(row, "context")
        options = self.options
        made = context_windows(self.tokenizer, question, context, options.length, options.stride)
        return [Window(window.ids, window) for window in made]

    def outputs(self, params: Any, batch: Arrays) -> Arrays:
        out = self.model(batch["input_ids"], batch["attention_mask"], params=params)
        return {
            "start": out.start_logits.astype(jnp.float32),
            "end": out.end_logits.astype(jnp.float32),
        }

    def answer(self, row: Row, windows: Sequence[Window], outputs: Sequence[Arrays]) -> Row:
        best, nothing = NOTHING, float("inf")
        for window, found in zip(windows, outputs, strict=True):
            start, end = found["start"], found["end"]
            nothing = min(nothing, float(start[0] + end[0]))
            at, places = window.note.context_at, window.note.places
            best = max(
                best,
                best_span(at, places, start, end, self.options.longest_answer),
                key=lambda span: span.score,
            )
        silent = nothing > best.score
        text = "" if silent else row["context"][best.first : best.last]
        first = best.first + len(text) - len(text.lstrip())
        return {
            "answer": text.strip(),
            "start": None if silent else first,
            "end": None if silent else first + len(text.strip()),
            "score": best.score if best is not NOTHING else None,
            "no_answer_score": nothing,
        }
