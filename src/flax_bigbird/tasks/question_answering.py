"""Extractive question answering: the span of a document that answers a question, if any does."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from flax_bigbird._messages import pluralize
from flax_bigbird.data.columns import ColumnKind
from flax_bigbird.data.encoded_rows import column_array, map_cached, tokenizer_fingerprint
from flax_bigbird.data.loading import SPLIT_NAMES, iterate_column
from flax_bigbird.data.sentences import trim_span
from flax_bigbird.data.types import Arrays, Batch, Dataset, Row
from flax_bigbird.data.windows import ContextWindow, context_windows
from flax_bigbird.nn.losses import classification_losses
from flax_bigbird.tasks.answer_checks import check_answers
from flax_bigbird.tasks.answers import first_answer, parse_answers
from flax_bigbird.tasks.base import EncodedDataset, Loss, Metrics, Split, Task, Window, get_text
from flax_bigbird.tasks.row_masks import mean_over_rows
from flax_bigbird.tasks.spans import NO_SPAN, Span, best_span, best_spans
from flax_bigbird.tasks.squad_metrics import squad_metric_names, squad_metrics
from flax_bigbird.tasks.task_options import QuestionAnsweringOptions

HANDLE_IMPOSSIBLE_ANSWER_KEY = "handle_impossible_answer"
"""The key of a model's configuration that says whether its questions may have no answer."""

_MASKED = -1e6  # the logit of padding, which cannot be an answer
_UNKNOWN = -1, -1  # the positions of an answer that is not in its context where the row says


class QuestionAnswering(Task):
    """Finds the answer to a question in a context.

    Rows have SQuAD's columns: `question`, `context`, and `answers` with lists `text` and
    `answer_start`, which are empty if the context has no answer; options name other columns.
    Without `answer_start`, answers can be evaluated, but not trained on. A context longer than the
    model is split into windows that have `stride` tokens in common; the answer is the best span of
    all of them.

    A prediction is `{"answer", "start", "end", "score", "no_answer_score"}`: the text and its
    characters `context[start:end]`, the sum of its start and end logits, and the same sum for no
    answer. If the latter is higher, the answer is "", unless all questions in the training data
    have one or `handle_impossible_answer` is False: the windows of a long document that lack the
    answer teach a model to find none, which would then be its answer to all uncertain questions.
    """

    name = "question-answering"
    title = "Question answering"
    pipeline_tag = "question-answering"
    model_class = "FlaxBigBirdForQuestionAnswering"
    options_class = QuestionAnsweringOptions
    masks_rows = True

    @property
    def handle_impossible_answer(self) -> bool:
        """Whether a document may have no answer: the option, or else what the model learned."""
        given = self.options.handle_impossible_answer
        return getattr(self.config, HANDLE_IMPOSSIBLE_ANSWER_KEY, True) if given is None else given

    @classmethod
    def columns(cls, options: Any) -> dict[str, ColumnKind]:
        columns: dict[str, ColumnKind] = dict.fromkeys(_text_columns(options), "text")
        columns[options.answers_column] = "answers"
        return columns

    @classmethod
    def check_rows(cls, options: Any, rows: Dataset, split: Split) -> list[str]:
        return check_answers(options, rows, split).messages

    @classmethod
    def infer_config(cls, options: Any, rows: Dataset) -> dict[str, Any]:
        cls.check_rows(options, rows, "train")
        handled = options.handle_impossible_answer
        if handled is None:
            answers = iterate_column(rows, options.answers_column)
            handled = any(not parse_answers(value).texts for value in answers)
        return {HANDLE_IMPOSSIBLE_ANSWER_KEY: handled}

    @classmethod
    def iterate_texts(cls, options: Any, rows: Dataset) -> Iterator[str]:
        for batch in rows.iter(64):
            for column in _text_columns(options):
                yield from batch[column]  # type: ignore[index]

    @classmethod
    def evaluation_metrics(
        cls, options: Any, config: Any = None, rows: Dataset | None = None
    ) -> Metrics:
        column = () if rows is None else iterate_column(rows, options.answers_column)
        has_answer = {bool(parse_answers(value).texts) for value in column} or {True, False}
        return squad_metric_names(has_answer) | {"loss": False}

    def encode_dataset(self, rows: Dataset, split: Split) -> EncodedDataset:
        options = self.options
        messages, misplaced = check_answers(options, rows, split)
        if misplaced and split != "test":  # evaluation does not need to know where an answer is
            rows = rows.select(np.setdiff1d(np.arange(len(rows)), misplaced))

        def encode_batch(batch: Batch, indices: list[int]) -> Batch:
            names = ("input_ids", "length", "start", "end", "row", "context_at", "offsets", "short")
            encoded: Batch = {name: [] for name in names}
            columns = (batch[name] for name in self.columns(options))
            questions = zip(*columns, indices, strict=True)
            for question, context, answers, index in questions:
                parsed = parse_answers(answers)
                answer = first_answer(context, parsed)
                is_known = answer is not None or not parsed.texts
                # White space is no part of an answer, and may reach beyond all tokens of a window.
                span = None if answer is None else trim_span(context, answer.start, answer.end)
                for window in self._windows(question, context):
                    start, end = _answer_positions(window, span) if is_known else _UNKNOWN
                    values = {
                        "input_ids": window.input_ids,
                        "length": len(window.input_ids),
                        "start": start,
                        "end": end,
                        "row": index,
                        "context_at": window.context_start,
                        "offsets": [list(offset) for offset in window.offsets],
                        "short": window.question_truncated,
                    }
                    for name, value in values.items():
                        encoded[name].append(value)
            return encoded

        fingerprint = tokenizer_fingerprint(self.tokenizer)
        key = ("spans", *self.columns(options), options.length, options.window_overlap, fingerprint)
        examples = map_cached(rows, encode_batch, *key, with_indices=True)
        truncated = int(column_array(examples, "short").sum())
        if truncated:
            messages.append(
                f"Questions of the {SPLIT_NAMES[split]} are truncated to a quarter of the window "
                f"in {pluralize(truncated, 'window')}"
            )
        return EncodedDataset(examples.remove_columns("short"), messages, rows)

    def collate(self, example: Row, length: int, generator: np.random.Generator) -> Arrays:
        targets = {name: np.asarray(example[name], np.int32) for name in ("start", "end")}
        return self.pad(example["input_ids"], length) | targets

    def loss(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Loss:
        losses = self._losses(self._logits(model, params, batch, **call), batch)
        return mean_over_rows(losses, batch)

    def eval_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        logits = self._logits(model, params, batch)
        return {"losses": self._losses(logits, batch)} | logits

    def compute_metrics(self, outputs: Arrays, encoded: EncodedDataset) -> dict[str, float]:
        predicted, no_answer = self.best_answers(outputs, encoded)
        assert encoded.source is not None
        answers = [
            parse_answers(value).texts for value in encoded.source[self.options.answers_column]
        ]
        known = column_array(encoded.examples, "start") >= 0
        loss = {"loss": float(outputs["losses"][known].mean())} if known.any() else {}
        return loss | squad_metrics(predicted, no_answer, answers)

    def best_answers(
        self, outputs: Arrays, encoded: EncodedDataset
    ) -> tuple[list[str], np.ndarray]:
        """Returns the text of the best span of each question, and the log odds of no answer.

        Args:
          outputs: The outputs of `eval_step` for all windows.
          encoded: The windows.

        Returns:
          A list of one text per question, and `[num_questions]`, how much higher the score of no
          answer is than that of the best span; -inf if questions have an answer.
        """
        assert encoded.source is not None
        texts, log_odds = [], []
        windows: Iterable[Any] = zip(
            encoded.examples, outputs["start"], outputs["end"], strict=True
        )
        contexts = encoded.source[self.options.context_column]
        for row, group in itertools.groupby(windows, key=lambda window: window[0]["row"]):
            span, no_answer = self._best_span(
                (example["context_at"], example["offsets"], start, end)
                for example, start, end in group
            )
            texts.append(contexts[row][span.start : span.end].strip())
            handled = self.handle_impossible_answer
            log_odds.append(no_answer - span.score if handled else float("-inf"))
        return texts, np.array(log_odds)

    def encode(self, row: Row) -> list[Window]:
        question, context = (get_text(row, column) for column in _text_columns(self.options))
        return [Window(window.input_ids, window) for window in self._windows(question, context)]

    def predict_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        return self._logits(model, params, batch)

    def decode(self, row: Row, windows: Sequence[Window], outputs: Sequence[Arrays]) -> Row:
        span, no_answer = self._best_span(
            (window.info.context_start, window.info.offsets, output["start"], output["end"])
            for window, output in zip(windows, outputs, strict=True)
        )
        answer = _answer_in(row[self.options.context_column], span)
        if answer is None or (self.handle_impossible_answer and no_answer > span.score):
            answer = {"answer": "", "start": None, "end": None}
        return answer | {
            "score": span.score if span is not NO_SPAN else None,
            "no_answer_score": no_answer,
        }

    def top_answers(
        self, row: Row, windows: Sequence[Window], outputs: Sequence[Arrays], count: int
    ) -> list[Row]:
        """Returns the best answers, none of which overlap, the best first.

        The first is that of `decode`, unless that prefers no answer.

        Args:
          row: The row.
          windows: The windows of the row, from `encode`.
          outputs: The outputs of `predict_step` for each window.
          count: The maximum number of answers.
        """
        context = row[self.options.context_column]
        length = self.options.max_answer_length
        spans: list[Span] = []
        for window, output in zip(windows, outputs, strict=True):
            info: ContextWindow = window.info
            logits = output["start"], output["end"]
            spans += best_spans(info.context_start, info.offsets, *logits, length, count)
        answers: list[Row] = []
        for span in sorted(spans, key=lambda span: -span.score):
            if any(span.start < a["end"] and a["start"] < span.end for a in answers):
                continue  # neighboring windows have tokens in common
            answer = _answer_in(context, span)
            if answer is not None:
                answers.append(answer | {"score": span.score})
            if len(answers) == count:
                break
        return answers

    def _windows(self, question: str, context: str) -> Iterator[ContextWindow]:
        options = self.options
        overlap = options.window_overlap
        return context_windows(self.tokenizer, question, context, options.length, overlap)

    def _best_span(self, windows: Iterable[tuple[int, Any, Any, Any]]) -> tuple[Span, float]:
        """Returns the best span of all windows of a context, and the score of no answer.

        Args:
          windows: For each window, the arguments of `best_span` except `max_answer_length`.
        """
        best, no_answer = NO_SPAN, float("inf")
        for context_start, offsets, start, end in windows:
            no_answer = min(no_answer, float(start[0] + end[0]))
            length = self.options.max_answer_length
            span = best_span(context_start, offsets, start, end, length)
            best = span if span.score > best.score else best
        return best, no_answer

    def _logits(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Arrays:
        """Returns the `start` and `end` logits in float32, `[B, T]` each."""
        mask = batch["attention_mask"]
        outputs = model(batch["input_ids"], mask, params=params, **call)
        logits = {"start": outputs.start_logits, "end": outputs.end_logits}
        return {
            name: jnp.where(mask > 0, value.astype(jnp.float32), _MASKED)
            for name, value in logits.items()
        }

    def _losses(self, logits: Arrays, batch: Arrays) -> Any:
        """Returns the mean of the losses of the start and the end, `[B]`.

        Those of unknown positions, which are negative, have no meaning.
        """
        positions = {name: jnp.maximum(batch[name], 0) for name in logits}
        return sum(classification_losses(logits[name], positions[name]) / 2 for name in logits)


def _text_columns(options: Any) -> tuple[str, str]:
    return options.question_column, options.context_column


def _answer_in(context: str, span: Span) -> Row | None:
    """Returns the text of a span and its characters; None for white space, which is no answer."""
    start, end = trim_span(context, span.start, span.end)
    return {"answer": context[start:end], "start": start, "end": end} if start < end else None


def _answer_positions(window: ContextWindow, answer: tuple[int, int] | None) -> tuple[int, int]:
    """Returns the first and the last position of an answer in a window.

    Both are 0, the position of `[CLS]`, if there is no answer or the window does not hold it whole.
    """
    offsets = window.offsets
    if answer is None or not offsets:
        return 0, 0
    if offsets[0][0] > answer[0] or offsets[-1][1] < answer[1]:
        return 0, 0
    first = next(i for i, offset in enumerate(offsets) if offset[1] > answer[0])
    last = max(i for i, offset in enumerate(offsets) if offset[0] < answer[1])
    return window.context_start + first, window.context_start + last
