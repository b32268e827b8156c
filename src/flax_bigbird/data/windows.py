"""Splits token sequences that are longer than the model into windows."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from flax_bigbird.data.tokenization import tokenize, tokenize_with_offsets
from flax_bigbird.data.types import Tokenizer

NUM_SPECIAL_TOKENS = 2  # [CLS] and [SEP]
MAX_QUESTION_FRACTION = 1 / 4  # of a window
MIN_OVERLAP_FRACTION = 1 / 16  # of a window whose tokens each count in one window


def split_windows(
    ids: Sequence[int], tokenizer: Tokenizer, length: int, *, min_tokens: int
) -> Iterator[tuple[list[int], int]]:
    """Splits a text into consecutive windows `[CLS] tokens [SEP]` of at most `length` tokens.

    Args:
      ids: The token ids of the text.
      tokenizer: The tokenizer.
      length: The maximum number of tokens of a window.
      min_tokens: The minimum number of tokens of the text in a window after the first. A shorter
        end of a long text has an empty window, as it lacks the context that a model could learn
        from. A short text is complete, so its window is empty only if the text is, unless
        `min_tokens` is 0.

    Yields:
      The token ids of each window, and how many tokens of the text were dropped from it.
    """
    size = length - NUM_SPECIAL_TOKENS
    for start in range(0, max(1, len(ids)), size):
        part = ids[start : start + size]
        if len(part) < (min_tokens if start else min(1, min_tokens)):
            yield [], len(part)
        else:
            yield with_special_tokens(part, tokenizer), 0


def covering_windows(ids: Sequence[int], tokenizer: Tokenizer, length: int) -> list[list[int]]:
    """Splits a text into windows `[CLS] tokens [SEP]` of `length` tokens that cover it evenly.

    Neighboring windows overlap a little, so that the last one is not nearly empty.
    """
    size = length - NUM_SPECIAL_TOKENS
    starts = covering_starts(len(ids), size)
    return [with_special_tokens(ids[start : start + size], tokenizer) for start in starts]


def covering_starts(num_tokens: int, size: int) -> list[int]:
    """Returns where windows of at most `size` tokens start that cover a text evenly.

    There are as few windows as possible, and one for an empty text.
    """
    count = max(1, -(-num_tokens // size))
    return np.linspace(0, max(0, num_tokens - size), count).round().astype(int).tolist()


class CountedWindow(NamedTuple):
    """The tokens `[start, stop)` of a text, of which `[first, last)` count in this window.

    Every token of the text counts in one window.
    """

    start: int
    stop: int
    first: int
    last: int


def counted_windows(num_tokens: int, length: int) -> list[CountedWindow]:
    """Splits a text into windows that cover it evenly, and assigns each token to one of them.

    Neighboring windows overlap by at least `MIN_OVERLAP_FRACTION` of a window. Of the tokens that
    they have in common, those of the first half count in the earlier window and the others in the
    later one, so that every token is counted where it has more context.

    Args:
      num_tokens: The number of tokens of the text.
      length: The maximum number of tokens of a window, with `[CLS]` and `[SEP]`.
    """
    size = length - NUM_SPECIAL_TOKENS
    overlap = int(size * MIN_OVERLAP_FRACTION)
    count = 1 if num_tokens <= size else -(-(num_tokens - overlap) // (size - overlap))
    starts = [round(start) for start in np.linspace(0, max(0, num_tokens - size), count)]
    stops = [min(start + size, num_tokens) for start in starts]
    middles = [(start + stop) // 2 for start, stop in zip(starts[1:], stops[:-1], strict=True)]
    return [
        CountedWindow(*window)
        for window in zip(starts, stops, [0, *middles], [*middles, num_tokens], strict=True)
    ]


def word_windows(words: Sequence[Sequence[int]], size: int) -> list[list[tuple[int, list[int]]]]:
    """Groups the tokens of words into windows that split the text between words.

    Args:
      words: The token ids of each word.
      size: The maximum number of tokens of a window. A word that is longer is truncated.

    Returns:
      The windows, each a list of pairs of a word's index and its token ids.
    """
    windows: list[list[tuple[int, list[int]]]] = [[]]
    filled = 0
    for index, word in enumerate(words):
        ids = list(word[:size])
        if filled + len(ids) > size:
            windows.append([])
            filled = 0
        windows[-1].append((index, ids))
        filled += len(ids)
    return windows


class ContextWindow(NamedTuple):
    """A window `[CLS] question [SEP] part of the context [SEP]`.

    Attributes:
      input_ids: The token ids.
      context_start: The position of the first token of the context.
      offsets: For each token of the context, its characters `[start, end)` in the context.
      question_truncated: Whether the question did not fit.
    """

    input_ids: list[int]
    context_start: int
    offsets: list[tuple[int, int]]
    question_truncated: bool


def context_windows(
    tokenizer: Tokenizer, question: str, context: str, length: int, stride: int
) -> Iterator[ContextWindow]:
    """Yields windows of at most `length` tokens that together hold the context.

    Args:
      tokenizer: The tokenizer, which must return offsets.
      question: The question, truncated to a quarter of the window.
      context: The context.
      length: The maximum number of tokens of a window.
      stride: The number of tokens that neighboring windows have in common (the overlap), as
        `stride` in the tokenizers of `transformers`.
    """
    (question_ids,) = tokenize(tokenizer, [question])
    kept = question_ids[: int(length * MAX_QUESTION_FRACTION)]
    prefix = [*with_special_tokens(kept, tokenizer)]
    ids, offsets = tokenize_with_offsets(tokenizer, context)
    size = length - len(prefix) - 1
    step = max(1, size - stride)
    start = 0
    while True:
        window = [*prefix, *ids[start : start + size], tokenizer.sep_token_id]
        yield ContextWindow(
            window,  # type: ignore[arg-type]
            len(prefix),
            offsets[start : start + size],
            len(kept) < len(question_ids),
        )
        if start + size >= len(ids):
            return
        start += step


def with_special_tokens(ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """Returns `[CLS] tokens [SEP]`."""
    return [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]  # type: ignore[list-item]
