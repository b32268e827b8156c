"""Finds the most likely span of a context in the start and end logits of a window."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NUM_CANDIDATES = 20  # start positions, and end positions, that are combined


class Span(NamedTuple):
    """An answer.

    Attributes:
      start: The first character of the span in the context.
      end: The index after its last character.
      score: The sum of the start logit and the end logit.
    """

    start: int
    end: int
    score: float


NO_SPAN = Span(0, 0, -np.inf)


def best_span(
    context_start: int,
    offsets: Sequence[Sequence[int]],
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    max_answer_length: int,
) -> Span:
    """Returns the most likely span of a window's context; `NO_SPAN` if it has no context.

    Args:
      context_start: The position of the first token of the context in the window.
      offsets: For each token of the context, its characters `[start, end)`.
      start_logits: `[T]`.
      end_logits: `[T]`.
      max_answer_length: The maximum number of tokens of the span.
    """
    spans = best_spans(context_start, offsets, start_logits, end_logits, max_answer_length, 1)
    return spans[0] if spans else NO_SPAN


def best_spans(
    context_start: int,
    offsets: Sequence[Sequence[int]],
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    max_answer_length: int,
    count: int,
) -> list[Span]:
    """Returns the most likely spans of a window's context, none of which overlap, the best first.

    Args:
      context_start: See `best_span`, as for all arguments but the last.
      offsets: See `best_span`.
      start_logits: See `best_span`.
      end_logits: See `best_span`.
      max_answer_length: See `best_span`.
      count: The maximum number of spans.
    """
    if not offsets:
        return []
    context = slice(context_start, context_start + len(offsets))
    starts, ends = start_logits[context], end_logits[context]
    top_starts = np.argsort(-starts, kind="stable")[:NUM_CANDIDATES]
    top_ends = np.argsort(-ends, kind="stable")[:NUM_CANDIDATES]
    distance = top_ends[None] - top_starts[:, None]
    scores = np.where(
        (distance >= 0) & (distance < max_answer_length),
        starts[top_starts][:, None] + ends[top_ends][None],
        -np.inf,
    )
    spans: list[Span] = []
    is_free = np.ones(len(offsets), bool)
    for index in np.argsort(-scores, axis=None, kind="stable").tolist():
        row, column = divmod(index, scores.shape[1])
        if not np.isfinite(scores[row, column]) or len(spans) == count:
            break
        first, last = int(top_starts[row]), int(top_ends[column])
        if is_free[first : last + 1].all():
            is_free[first : last + 1] = False
            score = float(scores[row, column])
            spans.append(Span(offsets[first][0], offsets[last][1], score))
    if not spans:
        # No candidate pair forms a span, so the answer is the most likely span of one token.
        token = int((starts + ends).argmax())
        score = float(starts[token] + ends[token])
        return [Span(offsets[token][0], offsets[token][1], score)]
    return spans
