"""Extractive question answering: which words of a document are the answer, or that none are."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_bigbird.tasks.errors import DataError
from flax_bigbird.tasks.spans import NOTHING, best_span, context_windows
from flax_bigbird.train import tokens
from flax_bigbird.train.objectives.base import Arrays, Loss, Objective, Prepared
from flax_bigbird.train.reading import check_columns
from flax_bigbird.train.squad import squad_metrics

if TYPE_CHECKING:
    from datasets import Dataset


class QuestionAnswering(Objective):
    """SQuAD's columns: `question`, `context`, `answers` with lists `text` and `answer_start`.

    A context longer than the window is read in windows that share `stride` tokens; the answer of
    a question is the best span of all of them. Questions without answers are allowed.
    """

    model_class = "FlaxBigBirdForQuestionAnswering"
    best_metric = "f1"

    def read(self, rows: "Dataset") -> None:
        self._check(rows, "training data")

    def texts(self, rows: "Dataset") -> Iterator[str]:
        for batch in rows.iter(64):
            for name in ("question", "context"):
                yield from batch[name]  # type: ignore[index]

    def prepare(self, rows: "Dataset", what: str) -> Prepared:
        notes = self._check(rows, what)
        options, tokenizer = self.options, self.tokenizer
        length, stride = options.length, options.stride

        def cut(batch: tokens.Batch, numbers: list[int]) -> tokens.Batch:
            names = ("input_ids", "length", "start", "end", "row", "context_at", "offsets", "short")
            found: tokens.Batch = {name: [] for name in names}
            columns = (batch["question"], batch["context"], batch["answers"], numbers)
            for question, context, answers, number in zip(*columns, strict=True):
                answer = _first_answer(context, answers, number, what)
                for window in context_windows(tokenizer, question, context, length, stride):
                    first, last = _inside(window.places, answer)
                    values = {
                        "input_ids": window.ids,
                        "length": len(window.ids),
                        "start": first + window.context_at if first >= 0 else 0,
                        "end": last + window.context_at if first >= 0 else 0,
                        "row": number,
                        "context_at": window.context_at,
                        "offsets": [list(place) for place in window.places],
                        "short": window.question_cut,
                    }
                    for name, value in values.items():
                        found[name].append(value)
            return found

        key = ("spans", length, stride, tokens.digest(tokenizer))
        made = tokens.mapped(rows, cut, *key, with_indices=True)
        short = int(tokens.numbers(made, "short").sum())
        if short:
            notes.append(
                f"Questions of the {what} are cut to a quarter of the window in {short:,} windows"
            )
        return Prepared(made.remove_columns("short"), notes, rows)

    def collate(
        self, row: dict[str, Any], length: int, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        ends = {name: np.asarray(row[name], np.int32) for name in ("start", "end")}
        return self.padded(row["input_ids"], length) | ends

    def loss(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Loss:
        losses, _, _ = self._losses(model, params, batch, **call)
        return Loss(losses.mean(), losses.shape[0])

    def outputs(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        losses, start, end = self._losses(model, params, batch)
        return {"losses": losses, "start": start, "end": end}

    def score(self, outputs: Arrays, prepared: Prepared) -> dict[str, float]:
        predicted, no_answer = self.answers(outputs, prepared)
        assert prepared.source is not None
        wanted = [answers["text"] for answers in prepared.source["answers"]]
        loss = {"loss": float(outputs["losses"].mean())}
        return loss | squad_metrics(predicted, no_answer, wanted)

    def answers(self, outputs: Arrays, prepared: Prepared) -> tuple[list[str], np.ndarray]:
        """(the best span's text of each question, how much likelier no answer is)."""
        assert prepared.source is not None
        contexts = prepared.source["context"]
        best = [NOTHING] * len(contexts)
        null = np.full(len(contexts), np.inf)
        rows: Any = prepared.rows
        for row, start, end in zip(rows, outputs["start"], outputs["end"], strict=True):
            number = row["row"]
            null[number] = min(null[number], float(start[0] + end[0]))
            span = best_span(
                row["context_at"], row["offsets"], start, end, self.options.longest_answer
            )
            if span.score > best[number].score:
                best[number] = span
        found = [
            context[s.first : s.last].strip() for context, s in zip(contexts, best, strict=True)
        ]
        return found, null - np.array([span.score for span in best])

    def _losses(self, model: Any, params: Any, batch: Arrays, **call: Any) -> tuple[Any, Any, Any]:
        """([B], start logits [B, T], end logits [B, T]); padding cannot be chosen."""
        mask = batch["attention_mask"]
        out = model(batch["input_ids"], mask, params=params, **call)
        losses, logits = 0.0, []
        for name in ("start", "end"):
            value = getattr(out, f"{name}_logits").astype(jnp.float32)
            value = jnp.where(mask > 0, value, -1e6)
            chosen = batch[name][:, None]
            losses -= jnp.take_along_axis(jax.nn.log_softmax(value), chosen, 1)[:, 0] / 2
            logits.append(value)
        return losses, *logits

    def _check(self, rows: "Dataset", what: str) -> list[str]:
        """Raises where a row is wrong; returns what is to be said of the texts."""
        check_columns(rows, ["question", "context", "answers"], what)
        notes = tokens.check_texts(rows, ("question", "context"), what)
        for number, answers in enumerate(rows["answers"], 1):
            if not isinstance(answers, dict) or not {"text", "answer_start"} <= set(answers):
                raise DataError(
                    "answers must hold the lists text and answer_start, as SQuAD's; row "
                    f"{number} of the {what} has {str(answers)[:60]}"
                )
        return notes


def _first_answer(
    context: str, answers: dict[str, list[Any]], number: int, what: str
) -> tuple[int, int] | None:
    """(first character, one past the last) of the first answer; None for no answer."""
    if not answers["text"]:
        return None
    text, first = answers["text"][0], answers["answer_start"][0]
    if context[first : first + len(text)] != text or not text:
        raise DataError(
            f"an answer must stand in its context where answer_start says; row {number + 1} of "
            f"the {what} has {text[:40]!r} at {first}, where the context has "
            f"{context[first : first + len(text)][:40]!r}: mend it"
        )
    return first, first + len(text)


def _inside(places: Sequence[tuple[int, int]], answer: tuple[int, int] | None) -> tuple[int, int]:
    """(first piece, last piece) of an answer that lies in these pieces as a whole; else -1, -1."""
    if answer is None or not places:
        return -1, -1
    if places[0][0] > answer[0] or places[-1][1] < answer[1]:
        return -1, -1
    first = next(n for n, place in enumerate(places) if place[1] > answer[0])
    last = max(n for n, place in enumerate(places) if place[0] < answer[1])
    return first, last
