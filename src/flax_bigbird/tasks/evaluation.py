"""Computes the outputs of a model for all examples of a split."""

import collections
import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from flax_bigbird.data.batching import Bucket, assign_buckets
from flax_bigbird.data.encoded_rows import column_array, count_tokens_of_rows
from flax_bigbird.data.loading import SPLIT_NAMES
from flax_bigbird.data.tokenization import unknown_tokens_message
from flax_bigbird.data.types import Arrays
from flax_bigbird.nn.losses import IGNORED_LABEL
from flax_bigbird.tasks.base import EncodedDataset, Split, Task
from flax_bigbird.tasks.options import TaskOptions

EVALUATION_SEED = 20_07_14062
"""The seed of the masked tokens in evaluations, so that all of them mask the same tokens."""


def assign_example_buckets(
    options: TaskOptions, encoded: EncodedDataset, num_row_shards: int = 1
) -> tuple[np.ndarray, list[Bucket]]:
    """Returns the number of tokens of each example, and the buckets of the examples.

    Args:
      options: The options, with a `max_length`.
      encoded: The examples of a split.
      num_row_shards: The number of devices that share the examples of a batch, if each of them
        takes as many as the options say.
    """
    lengths = column_array(encoded.examples, "length")
    tokens = min(
        options.tokens_per_batch, encoded.max_evaluation_tokens or options.tokens_per_batch
    )
    tokens_per_batch = tokens // encoded.inputs_per_example
    bucket_lengths = [*options.bucket_lengths, *_lengths_of_windows(options, encoded.max_windows)]
    buckets = assign_buckets(lengths, bucket_lengths, tokens_per_batch)
    buckets = [replace(bucket, batch_size=bucket.batch_size * num_row_shards) for bucket in buckets]
    if not encoded.repeats_in_batch:
        sizes = [min(bucket.batch_size, len(bucket.indices)) for bucket in buckets]
        buckets = [replace(b, batch_size=size) for b, size in zip(buckets, sizes, strict=True)]
    return lengths, buckets


def _lengths_of_windows(options: TaskOptions, max_windows: int) -> list[int]:
    """Returns the lengths of 2, 4, 8 and so on up to `max_windows` windows."""
    if max_windows == 1:
        return []
    doubled = itertools.takewhile(lambda n: n < max_windows, (2**i for i in itertools.count(1)))
    return [count * options.length for count in (*doubled, max_windows)]


def run_eval_step(
    eval_step: Callable[[Any, Any], Arrays],
    params: object,
    batches: Iterable[tuple[np.ndarray, Any]],
) -> Arrays:
    """Runs a compiled `Task.eval_step` on all batches of a split.

    The next batch is read while the devices compute one.

    Args:
      eval_step: A function of the parameters and a batch.
      params: The parameters of the model.
      batches: The indices of the examples and the arrays of each batch, from
        `flax_bigbird.data.batching.evaluation_batches`.

    Returns:
      The outputs of all examples in the order of the examples, `[num_examples, ...]` each.
    """
    indices, parts = [], []
    running: collections.deque[tuple[int, Arrays]] = collections.deque()

    def fetch() -> None:
        count, outputs = running.popleft()  # the rest of the batch is copies of an example
        parts.append({name: np.asarray(value)[:count] for name, value in outputs.items()})

    for batch_indices, batch in batches:
        running.append((len(batch_indices), eval_step(params, batch)))
        indices.append(batch_indices)
        if len(running) > 1:
            fetch()
    while running:
        fetch()
    order = np.argsort(np.concatenate(indices))
    return {name: _concatenate([part[name] for part in parts])[order] for name in parts[0]}


def count_nan_examples(outputs: Arrays) -> int:
    """Returns for how many examples an output of a model is not a number.

    Args:
      outputs: The outputs of `run_eval_step`, `[num_examples, ...]` each.
    """
    is_nan: Any = False
    for value in outputs.values():
        if value.dtype.kind == "f":
            is_nan = is_nan | np.isnan(value).reshape(len(value), -1).any(1)
    return int(np.sum(is_nan))


def unknown_tokens_messages(task: Task, encoded: EncodedDataset, split: Split) -> list[str]:
    """Returns a warning, or none, about the unknown tokens of a split."""
    columns, tokenizer = task.token_columns, task.tokenizer
    counts = count_tokens_of_rows(encoded.examples, columns, tokenizer)
    message = unknown_tokens_message(*counts, SPLIT_NAMES[split])
    return [message] if message else []


def _concatenate(parts: list[np.ndarray]) -> np.ndarray:
    """Concatenates batches, whose token axis is padded to the longest bucket.

    Integers are padded with `IGNORED_LABEL`, and floats with 0.
    """
    if parts[0].ndim < 2:
        return np.concatenate(parts)
    length = max(part.shape[1] for part in parts)
    padding = IGNORED_LABEL if parts[0].dtype.kind == "i" else 0
    rest = ((0, 0),) * (parts[0].ndim - 2)
    padded = [
        np.pad(part, ((0, 0), (0, length - part.shape[1]), *rest), constant_values=padding)
        for part in parts
    ]
    return np.concatenate(padded)
