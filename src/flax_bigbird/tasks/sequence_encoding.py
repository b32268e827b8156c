"""Turns the documents of sequence classification into token windows."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from flax_bigbird.data.encoded_rows import column_array, map_cached, tokenizer_fingerprint
from flax_bigbird.data.sentences import trim_span
from flax_bigbird.data.tokenization import add_special_tokens, tokenize, tokenize_with_offsets
from flax_bigbird.data.types import Batch, Dataset, Row, Tokenizer
from flax_bigbird.data.windows import NUM_SPECIAL_TOKENS, covering_starts, covering_windows

MAX_WINDOWS = 8
"""The maximum number of windows of a document in one training example."""
MIN_EXAMPLES_PER_BATCH = 2


def text_columns(options: Any) -> tuple[str, ...]:
    """Returns the names of the columns of the text, and of the second text if there is one."""
    pair = options.text_pair_column
    return (options.text_column, pair) if pair else (options.text_column,)


def encode_windows(
    parts: Sequence[list[int]], tokenizer: Tokenizer, options: Any
) -> tuple[list[list[int]], bool]:
    """Returns the windows of a document, and whether it was truncated.

    Args:
      parts: The token ids of the text, and of the second text if there is one.
      tokenizer: The tokenizer.
      options: The options of the task, with a `max_length`.
    """
    if options.whole_documents:
        return covering_windows(parts[0], tokenizer, options.length), False
    ids, truncated = add_special_tokens(parts, tokenizer, options.length)
    return [ids], truncated


def windows_with_spans(
    text: str, tokenizer: Tokenizer, options: Any
) -> list[tuple[list[int], slice]]:
    """Returns the windows of a whole document, and the characters of the text that each covers.

    The windows are those of `encode_windows`. White space at the ends of the characters is left
    out; a window of a single space has no characters.

    Args:
      text: The text.
      tokenizer: A fast tokenizer, which returns the characters of its tokens.
      options: The options of the task, with `whole_documents` and a `max_length`.
    """
    ids, offsets = tokenize_with_offsets(tokenizer, text)
    windows = covering_windows(ids, tokenizer, options.length)
    if not ids:
        return [(windows[0], slice(0, 0))]
    size = options.length - NUM_SPECIAL_TOKENS
    covered = [offsets[start : start + size] for start in covering_starts(len(ids), size)]
    spans = [slice(*trim_span(text, part[0][0], part[-1][1])) for part in covered]
    return list(zip(windows, spans, strict=True))


def max_windows_of_training(options: Any) -> int:
    """Returns the maximum number of windows of a document in one training example.

    A batch has at least `MIN_EXAMPLES_PER_BATCH` examples, so that it is not all of one class.

    Args:
      options: The options of a training run, with a `max_length`.
    """
    windows_per_batch = options.tokens_per_batch // options.length
    return max(1, min(MAX_WINDOWS, windows_per_batch // MIN_EXAMPLES_PER_BATCH))


def group_windows(windows: Sequence[list[int]], max_windows: int) -> list[list[int]]:
    """Returns the token ids of groups of a document's windows, one window after another.

    The groups are as few as possible, of equal size up to one window, and each is spread over the
    document, so that the mean over a group is close to that over the document:

        windows 0 1 2 3 4 5 6, at most 3 in a group -> 0 3 6, 1 4, 2 5

    Args:
      windows: The token ids of the windows. If there are several, all have the same length.
      max_windows: The maximum number of windows in a group.
    """
    count = -(-len(windows) // max_windows)
    return [list(itertools.chain(*windows[index::count])) for index in range(count)]


def encode_documents(
    rows: Dataset, tokenizer: Tokenizer, options: Any, max_windows: int = 1
) -> tuple[Dataset, int]:
    """Encodes rows with labels, and reads the result from the cache if nothing has changed.

    Args:
      rows: The rows.
      tokenizer: The tokenizer.
      options: The options of the task, with a `max_length`.
      max_windows: The maximum number of windows of a document in one example.

    Returns:
      The windows, or groups of them, with their `length`, their label and, of whole documents, the
      index of their `document`; and the number of documents that were truncated.
    """
    columns, label_column = text_columns(options), options.label_column
    kept = "document" if options.whole_documents else "cut"

    def encode_batch(batch: Batch, indices: list[int]) -> Batch:
        encoded: Batch = {"input_ids": [], "length": [], label_column: [], kept: []}
        texts = zip(*(tokenize(tokenizer, batch[name]) for name in columns), strict=True)
        for parts, label, index in zip(texts, batch[label_column], indices, strict=True):
            windows, truncated = encode_windows(parts, tokenizer, options)
            for ids in group_windows(windows, max_windows):
                encoded["input_ids"].append(ids)
                encoded["length"].append(len(ids))
                encoded[label_column].append(label)
                encoded[kept].append(index if options.whole_documents else truncated)
        return encoded

    fingerprint = tokenizer_fingerprint(tokenizer)
    if options.whole_documents:
        key: tuple[Any, ...] = ("whole", columns[0], options.length, max_windows)
        key = (*key, fingerprint, label_column)
        return map_cached(rows, encode_batch, *key, with_indices=True), 0
    key = ("texts", columns, options.length, fingerprint, [label_column])
    examples = map_cached(rows, encode_batch, *key, with_indices=True)
    return examples.remove_columns("cut"), int(column_array(examples, "cut").sum())


class SingleWindows:
    """The windows of examples that `group_windows` made, as examples of one window each.

    Attributes:
      lengths: `[windows]`, the number of tokens of each window.
      owners: `[windows]`, the index of the example that each window belongs to.
    """

    def __init__(self, examples: Dataset, max_length: int):
        """Makes a view of the examples.

        Args:
          examples: The examples, with `input_ids` and their `length`.
          max_length: The number of tokens of a window.
        """
        totals = column_array(examples, "length")
        counts = -(-totals // max_length)
        self.owners = np.repeat(np.arange(len(totals)), counts)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        self._starts = (np.arange(len(self.owners)) - first) * max_length
        self.lengths = np.minimum(max_length, totals[self.owners] - self._starts)
        self._examples = examples

    def __len__(self) -> int:
        return len(self.owners)

    def __getitem__(self, index: int, /) -> Row:
        row: Row = dict(self._examples[int(self.owners[index])])
        start = self._starts[index]
        return row | {"input_ids": row["input_ids"][start : start + self.lengths[index]]}
