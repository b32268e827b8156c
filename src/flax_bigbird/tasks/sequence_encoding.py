"""Turns the documents of sequence classification into token windows."""

from collections.abc import Sequence
from typing import Any

from flax_bigbird.data.tokenization import (
    add_special_tokens,
    column_array,
    map_cached,
    tokenize,
    tokenizer_fingerprint,
)
from flax_bigbird.data.types import Batch, Dataset, Tokenizer
from flax_bigbird.data.windows import covering_windows


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


def encode_documents(rows: Dataset, tokenizer: Tokenizer, options: Any) -> tuple[Dataset, int]:
    """Encodes rows with labels, and reads the result from the cache if nothing has changed.

    Args:
      rows: The rows.
      tokenizer: The tokenizer.
      options: The options of the task, with a `max_length`.

    Returns:
      The windows, with their `length`, their label and, of whole documents, the index of their
      `document`; and the number of documents that were truncated.
    """
    columns, label_column = text_columns(options), options.label_column
    kept = "document" if options.whole_documents else "cut"

    def encode_batch(batch: Batch, indices: list[int]) -> Batch:
        encoded: Batch = {"input_ids": [], "length": [], label_column: [], kept: []}
        texts = zip(*(tokenize(tokenizer, batch[name]) for name in columns), strict=True)
        for parts, label, index in zip(texts, batch[label_column], indices, strict=True):
            windows, truncated = encode_windows(parts, tokenizer, options)
            for ids in windows:
                encoded["input_ids"].append(ids)
                encoded["length"].append(len(ids))
                encoded[label_column].append(label)
                encoded[kept].append(index if options.whole_documents else truncated)
        return encoded

    fingerprint = tokenizer_fingerprint(tokenizer)
    if options.whole_documents:
        key: tuple[Any, ...] = ("whole", columns[0], options.length, fingerprint, label_column)
        return map_cached(rows, encode_batch, *key, with_indices=True), 0
    key = ("texts", columns, options.length, fingerprint, [label_column])
    examples = map_cached(rows, encode_batch, *key, with_indices=True)
    return examples.remove_columns("cut"), int(column_array(examples, "cut").sum())
