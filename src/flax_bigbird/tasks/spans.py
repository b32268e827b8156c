"""Answers as spans of a context: the windows that hold it, the likeliest span of a window."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flax_bigbird.tasks.text import encode, pieces_with_places

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BEST_ENDS = 20  # starts, and ends, of a window that are tried with each other
QUESTION_SHARE = 4  # a question may take a quarter of the window


class ContextWindow(NamedTuple):
    """`[CLS] question [SEP] part of the context [SEP]`.

    `places` are the characters of the context, [first, one past the last), of the pieces from
    `context_at` on. `question_cut`: the question did not fit into its share.
    """

    ids: list[int]
    context_at: int
    places: list[tuple[int, int]]
    question_cut: bool


class Span(NamedTuple):
    """An answer of a window: characters of the context, and how sure the model is."""

    first: int
    last: int  # one past
    score: float


NOTHING = Span(0, 0, -np.inf)


def context_windows(
    tokenizer: "PreTrainedTokenizerBase", question: str, context: str, length: int, stride: int
) -> Iterator[ContextWindow]:
    """Windows of at most `length` tokens that share `stride` and together hold the context."""
    (asked,) = encode(tokenizer, [question])
    kept = asked[: length // QUESTION_SHARE]
    lead = [tokenizer.cls_token_id, *kept, tokenizer.sep_token_id]
    ids, places = pieces_with_places(tokenizer, context)
    room = length - len(lead) - 1
    step = max(1, room - stride)
    start = 0
    while True:
        made = [*lead, *ids[start : start + room], tokenizer.sep_token_id]
        yield ContextWindow(made, len(lead), places[start : start + room], len(kept) < len(asked))
        if start + room >= len(ids):
            return
        start += step


def best_span(
    context_at: int,
    places: Sequence[Sequence[int]],
    start: np.ndarray,
    end: np.ndarray,
    longest: int,
) -> Span:
    """The likeliest span of at most `longest` pieces of a window's context; else `NOTHING`.

    Args:
      start, end: [T], logits.
    """
    if not places:
        return NOTHING
    here = slice(context_at, context_at + len(places))
    starts, ends = start[here], end[here]
    top_starts = np.argsort(-starts, kind="stable")[:BEST_ENDS]
    top_ends = np.argsort(-ends, kind="stable")[:BEST_ENDS]
    gap = top_ends[None] - top_starts[:, None]
    scores = np.where(
        (gap >= 0) & (gap < longest), starts[top_starts][:, None] + ends[top_ends][None], -np.inf
    )
    best = np.unravel_index(scores.argmax(), scores.shape)
    if not np.isfinite(scores[best]):
        # No end behind a start among the likeliest: the likeliest piece by itself.
        alone = int((starts + ends).argmax())
        return Span(places[alone][0], places[alone][1], float(starts[alone] + ends[alone]))
    first, last = top_starts[best[0]], top_ends[best[1]]
    return Span(places[first][0], places[last][1], float(scores[best]))
