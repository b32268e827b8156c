"""Encodes the rows of datasets, with a cache, and reads what was encoded."""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flax_bigbird._messages import pluralize
from flax_bigbird.data.tokenization import count_tokens
from flax_bigbird.data.types import Batch, Dataset, Features, Tokenizer

FORMAT_VERSION = 2  # of the encoded rows; a new version ignores the cached ones of older versions


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """Returns a hash that changes with anything that changes the token ids of a text."""
    with tempfile.TemporaryDirectory() as directory:
        tokenizer.save_pretrained(directory)
        files = sorted(path for path in Path(directory).iterdir() if path.is_file())
        content = b"".join(path.name.encode() + path.read_bytes() for path in files)
    return hashlib.sha256(content).hexdigest()


def map_cached(
    rows: Dataset,
    function: Callable[..., Batch],
    *key: Any,
    keep: Iterable[str] = (),
    with_indices: bool = False,
    features: Features | None = None,
) -> Dataset:
    """Applies `rows.map` to batches, and reads the result from the cache if nothing has changed.

    Args:
      rows: The rows.
      function: A function from batches to batches.
      *key: Everything that the result depends on besides the rows, as text or numbers.
      keep: The columns of `rows` that stay beside those of the function.
      with_indices: Whether the function takes the indices of the rows too.
      features: The types of the result's columns, if its first rows may not show them.
    """
    text = repr((FORMAT_VERSION, rows._fingerprint, key))
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:32]
    removed = [column for column in rows.column_names if column not in set(keep)]
    import datasets

    datasets.disable_progress_bars()  # those of the commands are the only ones
    return rows.map(
        function,
        batched=True,
        batch_size=64,
        remove_columns=removed,
        with_indices=with_indices,
        new_fingerprint=fingerprint,
        features=features,
    )


def column_array(rows: Dataset, name: str) -> np.ndarray:
    """Returns a column of numbers as an array `[num_rows]`."""
    return rows.select_columns([name]).with_format("numpy")[:][name]  # type: ignore[index]


def count_tokens_of_rows(
    rows: Dataset, columns: Sequence[str], tokenizer: Tokenizer
) -> tuple[int, int]:
    """Returns the sums of `count_tokens` over columns of token ids."""
    counts = np.zeros(2, int)
    for batch in rows.select_columns(list(columns)).with_format("arrow").iter(1024):
        for column in columns:
            values: Any = batch[column].combine_chunks()  # type: ignore[index]
            while hasattr(values, "flatten") and values.type.num_fields:
                values = values.flatten()
            counts += count_tokens(values.to_numpy(zero_copy_only=False), tokenizer)
    return int(counts[0]), int(counts[1])


def truncated_message(
    num_truncated: int, num_examples: int, noun: str, texts: str, length: int
) -> str:
    """Returns a sentence for the log about examples that do not fit in the model.

    Args:
      num_truncated: The number of examples that are truncated.
      num_examples: The number of all examples.
      noun: What an example is called, in the singular.
      texts: What all of them are called, for example "training data".
      length: The number of tokens that they are truncated to.
    """
    which = f"of {pluralize(num_examples, noun)} of the {texts}"
    limit = f"longer than {length:,} tokens and"
    return pluralize(
        num_truncated, f"{which} is {limit} is truncated", f"{which} are {limit} are truncated"
    )
