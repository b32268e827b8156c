"""The base class of the language-model tasks: windows of documents, packing, and metrics."""

import abc
import functools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from flax_bigbird._messages import pluralize
from flax_bigbird.data.columns import ColumnKind
from flax_bigbird.data.encoded_rows import column_array, map_cached, tokenizer_fingerprint
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.loading import SPLIT_NAMES, iterate_column, require_columns, require_texts
from flax_bigbird.data.tokenization import tokenize
from flax_bigbird.data.types import Arrays, Batch, Dataset, Row, Tokenizer
from flax_bigbird.data.windows import split_windows
from flax_bigbird.data.word_boundaries import token_lengths
from flax_bigbird.nn.losses import IGNORED_LABEL, negative_log_likelihood
from flax_bigbird.tasks.base import EncodedDataset, Metrics, Split, Task
from flax_bigbird.tasks.metrics import LANGUAGE_MODEL_METRICS, language_model_metrics

MIN_TOKENS = 8  # of the end of a long document that is worth an example

_MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "segment_ids")
_TARGETS = ("labels", "positions")


class LanguageModeling(Task):
    """A task on documents that are split into windows of at most `max_length` tokens.

    Short texts are examples too, which `packing` puts into common rows. Only the end of a document
    longer than `max_length` is left out if it has fewer than `MIN_TOKENS` tokens.

    The metrics include bits per character, which compare models with different vocabularies, unlike
    bits per token.
    """

    is_pretraining = True

    @classmethod
    def columns(cls, options: Any) -> dict[str, ColumnKind]:
        return {options.text_column: "text"}

    @classmethod
    def check_rows(cls, options: Any, rows: Dataset, split: Split) -> list[str]:
        return require_texts(rows, [options.text_column], split)

    @classmethod
    def infer_config(cls, options: Any, rows: Dataset) -> dict[str, Any]:
        require_columns(rows, [options.text_column], "train")
        return {}

    @classmethod
    def iterate_texts(cls, options: Any, rows: Dataset) -> Iterator[str]:
        return filter(None, iterate_column(rows, options.text_column))

    @classmethod
    def evaluation_metrics(
        cls, options: Any, config: Any = None, rows: Dataset | None = None
    ) -> Metrics:
        return LANGUAGE_MODEL_METRICS

    @property
    def packing(self) -> bool:
        return self.options.packing

    @functools.cached_property
    def token_lengths(self) -> np.ndarray:
        """`[V]`, the number of characters that each token stands for."""
        return token_lengths(self.tokenizer, self.config.vocab_size)

    def encode_dataset(self, rows: Dataset, split: Split) -> EncodedDataset:
        from datasets import Features, List, Value

        messages = self.check_rows(self.options, rows, split)
        column, length, tokenizer = self.options.text_column, self.options.length, self.tokenizer
        integer = Value("int64")
        features = Features(
            {"input_ids": List(Value("int32")), "length": integer, "dropped": integer}
        )

        def encode_batch(batch: Batch) -> Batch:
            encoded: Batch = {"input_ids": [], "length": [], "dropped": []}
            for text in tokenize(tokenizer, batch[column]):
                for ids, dropped in split_windows(text, tokenizer, length, min_tokens=MIN_TOKENS):
                    encoded["input_ids"].append(ids)
                    encoded["length"].append(len(ids))
                    encoded["dropped"].append(dropped)
            return encoded

        key = ("windows with short texts", column, length, tokenizer_fingerprint(tokenizer))
        windows = map_cached(rows, encode_batch, *key, features=features)
        lengths = column_array(windows, "length")
        if not lengths.any():
            raise DataError(
                f"the {SPLIT_NAMES[split]} must hold a text that is not empty; all are empty: "
                "check text_column"
            )
        dropped = int(column_array(windows, "dropped").sum())
        if dropped:
            origin = f"of the {SPLIT_NAMES[split]}"
            tokens = pluralize(dropped, f"token {origin} is", f"tokens {origin} are")
            messages.append(
                f"{tokens} left out: ends shorter than {MIN_TOKENS} tokens of documents longer "
                f"than {length:,}"
            )
        examples = windows.remove_columns("dropped")
        if not lengths.all():
            examples = examples.select(np.flatnonzero(lengths))
        return EncodedDataset(examples, messages)

    def window_encoder(self) -> "WindowEncoder":
        """Returns the function from texts to the windows that `encode_dataset` makes of them."""
        return WindowEncoder(self.tokenizer, self.options.length)

    def collate(self, example: Row, length: int, generator: np.random.Generator) -> Arrays:
        if "documents" in example:
            return self._collate_packed(example["documents"], length, generator)
        return self.collate_document(example, length, generator)

    @abc.abstractmethod
    def collate_document(
        self, document: Row, length: int, generator: np.random.Generator
    ) -> Arrays:
        """Returns the arrays of one document, padded to `length` tokens."""

    def max_packed_targets(self, length: int) -> int:
        """Returns the number of targets of a packed row of `length` tokens."""
        return length

    def add_random_offset(
        self, arrays: Arrays, length: int, generator: np.random.Generator
    ) -> Arrays:
        """Adds `position_ids` with a random start if `random_position_offset` is set."""
        if self.options.random_position_offset:
            offset = generator.integers(0, self.config.max_position_embeddings - length + 1)
            arrays["position_ids"] = (offset + np.arange(length)).astype(np.int32)
        return arrays

    def loss_sums(self, logits: Any, labels: Any) -> Arrays:
        """Returns the sums that the metrics need for each example. This function is traced.

        Args:
          logits: `[B, P, V]`.
          labels: `[B, P]`, token ids or `IGNORED_LABEL`.

        Returns:
          `losses`, the summed losses in nats; `targets`, the number of targets; and `characters`,
          the number of characters that the targets stand for; `[B]` each.
        """
        used = labels != IGNORED_LABEL
        targets = jnp.where(used, labels, 0)
        losses = negative_log_likelihood(logits, targets)
        lengths = jnp.asarray(self.token_lengths)[targets]
        return {
            "losses": jnp.where(used, losses, 0).sum(-1),
            "targets": used.sum(-1),
            "characters": jnp.where(used, lengths, 0).sum(-1),
        }

    def compute_metrics(self, outputs: Arrays, encoded: EncodedDataset) -> dict[str, float]:
        return language_model_metrics(outputs["losses"], outputs["targets"], outputs["characters"])

    def _collate_packed(
        self, documents: list[Row], length: int, generator: np.random.Generator
    ) -> Arrays:
        """Returns the arrays of a row in which every document starts at a block.

        With `segment_ids` 1, 2, ... for the documents and 0 for padding, none attends to another.
        """
        block_size = self.config.block_size
        parts, start = [], 0
        for segment, document in enumerate(documents, 1):
            size = -(-document["length"] // block_size) * block_size
            part = self.collate_document(document, size, generator)
            part.setdefault("position_ids", np.arange(size, dtype=np.int32))
            part["segment_ids"] = segment * part["attention_mask"]
            if "positions" in part:
                part["positions"] = part["positions"] + np.int32(start)
            parts.append(part)
            start += size
        padding = {"labels": IGNORED_LABEL, "input_ids": self.tokenizer.pad_token_id}
        packed = {}
        for name in parts[0]:
            size = self.max_packed_targets(length) if name in _TARGETS else length
            packed[name] = np.full(size, padding.get(name, 0), np.int32)
            joined = np.concatenate([part[name] for part in parts])
            packed[name][: len(joined)] = joined
        return packed


class WindowEncoder:
    """Returns the windows of texts; it is pickled, as other processes tokenize, too."""

    def __init__(self, tokenizer: Tokenizer, length: int):
        self._tokenizer, self._length = tokenizer, length

    def __call__(self, texts: list[str]) -> list[np.ndarray]:
        return [
            np.asarray(ids, np.int32)
            for text in tokenize(self._tokenizer, texts)
            for ids, _ in split_windows(text, self._tokenizer, self._length, min_tokens=MIN_TOKENS)
            if ids
        ]


def model_inputs(batch: Arrays) -> Arrays:
    """Returns the arrays of a batch that the model reads."""
    return {name: batch[name] for name in _MODEL_INPUTS if name in batch}
