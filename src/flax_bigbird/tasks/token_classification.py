"""Token classification: a tag for each word, such as named entities or parts of speech."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_bigbird._messages import pluralize
from flax_bigbird.data.columns import ColumnKind
from flax_bigbird.data.encoded_rows import column_array, map_cached, tokenizer_fingerprint
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.loading import SPLIT_NAMES, require_columns, row_location
from flax_bigbird.data.splitting import RowLabels
from flax_bigbird.data.tokenization import tokenize
from flax_bigbird.data.types import Arrays, Batch, Dataset, Row, Tokenizer
from flax_bigbird.data.windows import NUM_SPECIAL_TOKENS, word_windows
from flax_bigbird.data.words import split_words
from flax_bigbird.nn.losses import IGNORED_LABEL, classification_losses
from flax_bigbird.tasks import metrics
from flax_bigbird.tasks.base import EncodedDataset, Loss, Metrics, Split, Task, Window, get_text
from flax_bigbird.tasks.labels import (
    are_generic,
    class_name,
    class_names,
    label_config,
    label_indices,
    label_names,
)
from flax_bigbird.tasks.row_masks import labels_of_rows
from flax_bigbird.tasks.tag_schemes import (
    NO_SCHEME,
    OUTSIDE,
    check_tag_scheme,
    detect_tag_scheme,
    group_words,
    tag_scheme_of_names,
)
from flax_bigbird.tasks.task_options import TokenClassificationOptions

TAG_SCHEME_KEY = "tag_scheme"
"""The key of a model's configuration that holds the scheme of its tags."""


class TokenClassification(Task):
    """Predicts a tag for each word, at the first token of the word.

    A row has a list of words and a list of tags. Documents longer than `max_length` are split
    between words into windows, so each word is in one of them. If the tags mark entities in a
    scheme such as IOB2, entities are evaluated, per window; otherwise tags are.

    A prediction is `{"tags", "scores"}` with one of each per word. If a row has no `words_column`,
    its text is split into words and punctuation marks, and the prediction has the `words` and their
    `offsets` too, the characters `[start, end)` of each. With `aggregation="simple"`, it is
    `{"entities"}` instead, as in the pipeline of `transformers`: a list of dictionaries with the
    keys `entity_group`, `score`, `word`, `start` and `end`.
    """

    name = "token-classification"
    title = "Word tagger"
    pipeline_tag = "token-classification"
    model_class = "FlaxBigBirdForTokenClassification"
    options_class = TokenClassificationOptions
    masks_rows = True

    def __init__(self, options: Any, tokenizer: Tokenizer, config: Any):
        super().__init__(options, tokenizer, config)
        self.label_names = label_names(config)
        self.label_indices = label_indices(config)
        saved = getattr(config, TAG_SCHEME_KEY, None)
        scheme = options.tag_scheme or saved or tag_scheme_of_names(self.label_names)
        check_tag_scheme(scheme, self.label_names)
        self.tag_scheme: str = scheme

    @classmethod
    def columns(cls, options: Any) -> dict[str, ColumnKind]:
        return {options.words_column: "texts", options.tags_column: "labels"}

    @classmethod
    def check_rows(cls, options: Any, rows: Dataset, split: Split) -> list[str]:
        words_column, tags_column = options.words_column, options.tags_column
        require_columns(rows, [words_column, tags_column], split)
        pairs = zip(rows[words_column], rows[tags_column], strict=True)
        for index, (words, tags) in enumerate(pairs):
            if not isinstance(words, list) or not isinstance(tags, list):
                raise DataError(
                    f"{words_column} and {tags_column} must be lists, of words and of their tags; "
                    f"{row_location(rows, index, split)} has {str(words)[:40]!r} and "
                    f"{str(tags)[:40]!r}: correct it, or name other columns"
                )
            if len(words) != len(tags):
                raise DataError(
                    f"every word must have one tag; {row_location(rows, index, split)} has "
                    f"{pluralize(len(words), 'word')} and {pluralize(len(tags), 'tag')}: correct it"
                )
        return []

    @classmethod
    def infer_config(cls, options: Any, rows: Dataset) -> dict[str, Any]:
        cls.check_rows(options, rows, "train")
        codes = class_names(rows, options.tags_column)
        names = codes or sorted({tag for tags in rows[options.tags_column] for tag in tags})
        if not names:
            raise DataError(
                "the training data must hold tagged words; it holds none: check words_column and "
                "tags_column"
            )
        names = [str(name) for name in names]
        sequences = (
            [str(class_name(codes, tag) if codes else tag) for tag in tags]
            for tags in rows[options.tags_column]
        )
        scheme = options.tag_scheme or detect_tag_scheme(sequences)
        check_tag_scheme(scheme, names)
        return label_config(names) | {TAG_SCHEME_KEY: scheme}

    @classmethod
    def stratification_labels(cls, options: Any, rows: Dataset) -> RowLabels:
        return [set(tags) for tags in rows[options.tags_column]]

    @classmethod
    def iterate_texts(cls, options: Any, rows: Dataset) -> Iterator[str]:
        return (" ".join(words) for words in rows[options.words_column])

    @classmethod
    def evaluation_metrics(
        cls, options: Any, config: Any = None, rows: Dataset | None = None
    ) -> Metrics:
        scheme = options.tag_scheme or getattr(config, TAG_SCHEME_KEY, None)
        tags, entities = metrics.TAG_METRICS, metrics.ENTITY_METRICS
        scores = entities | tags if scheme is None else tags if scheme == NO_SCHEME else entities
        return scores | {"loss": False}

    def encode_dataset(self, rows: Dataset, split: Split) -> EncodedDataset:
        options, tokenizer = self.options, self.tokenizer
        messages = self.check_rows(options, rows, split)
        if split == "train":
            messages.append(self._scheme_message())
        words_column, tags_column = options.words_column, options.tags_column
        indices = self._tag_indices(rows)
        self._check_known_tags(rows, indices, split)

        def encode_batch(batch: Batch) -> Batch:
            encoded: Batch = {"input_ids": [], "labels": [], "length": [], "split": []}
            for words, tags in zip(batch[words_column], batch[tags_column], strict=True):
                windows = self._encode_words(words)
                for ids, first_tokens in windows:
                    labels = [IGNORED_LABEL] * len(ids)
                    for word, position in first_tokens:
                        labels[position] = indices[tags[word]]
                    encoded["input_ids"].append(ids)
                    encoded["labels"].append(labels)
                    encoded["length"].append(len(ids))
                    encoded["split"].append(len(windows) > 1)
            return encoded

        fingerprint = tokenizer_fingerprint(tokenizer)
        key = ("tags", words_column, tags_column, options.length, fingerprint, self.label_names)
        examples = map_cached(rows, encode_batch, *key)
        num_windows = int(column_array(examples, "split").sum())
        if num_windows:
            messages.append(
                f"Documents of the {SPLIT_NAMES[split]} longer than {options.length:,} tokens are "
                f"split into windows, {num_windows:,} in all"
            )
        return EncodedDataset(examples.remove_columns("split"), messages)

    def collate(self, example: Row, length: int, generator: np.random.Generator) -> Arrays:
        labels = np.full(length, IGNORED_LABEL, np.int32)
        labels[: len(example["labels"])] = example["labels"]
        return self.pad(example["input_ids"], length) | {"labels": labels}

    def loss(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Loss:
        logits = self._logits(model, params, batch, **call)
        losses, used = self._losses(logits, labels_of_rows(batch))
        num_targets = used.sum()
        count = jnp.maximum(num_targets, 1).astype(losses.dtype)
        return Loss(losses.sum() / count, num_targets)

    def eval_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        logits, labels = self._logits(model, params, batch), batch["labels"]
        losses, _ = self._losses(logits, labels)
        predicted = logits.argmax(-1).astype(jnp.int32)
        return {"losses": losses.sum(-1), "predicted": predicted, "labels": labels}

    def compute_metrics(self, outputs: Arrays, encoded: EncodedDataset) -> dict[str, float]:
        used = outputs["labels"] != IGNORED_LABEL
        loss = {"loss": float(outputs["losses"].sum() / max(1, used.sum()))}
        if self.tag_scheme == NO_SCHEME:
            predicted, labels = outputs["predicted"][used], outputs["labels"][used]
            return loss | metrics.tag_metrics(predicted, labels)

        def tags(indices: np.ndarray) -> list[list[str]]:
            rows = zip(indices, used, strict=True)
            return [[self.label_names[index] for index in row[mask]] for row, mask in rows]

        predicted, labels = tags(outputs["predicted"]), tags(outputs["labels"])
        return loss | metrics.entity_metrics(predicted, labels, self.tag_scheme)

    def encode(self, row: Row) -> list[Window]:
        return self._encode_words(self._get_words(row))

    def predict_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        scores = jax.nn.softmax(self._logits(model, params, batch))
        return {"tag": scores.argmax(-1), "score": scores.max(-1)}

    def decode(self, row: Row, windows: Sequence[Window], outputs: Sequence[Arrays]) -> Row:
        words, names = self._get_words(row), self.label_names
        tags = [OUTSIDE if OUTSIDE in names else names[0]] * len(words)
        scores = [0.0] * len(words)
        for window, output in zip(windows, outputs, strict=True):
            for word, position in window.info:
                tags[word] = names[int(output["tag"][position])]
                scores[word] = float(output["score"][position])
        if self.options.aggregation == "simple":
            return {"entities": self._group_entities(row, tags, scores)}
        prediction: Row = {"tags": tags, "scores": scores}
        if self.options.words_column in row:
            return prediction
        offsets = [list(span) for span in split_words(row[self.options.text_column])]
        return {"words": words, "offsets": offsets} | prediction

    def _group_entities(
        self, row: Row, tags: Sequence[str], scores: Sequence[float]
    ) -> list[dict[str, Any]]:
        """Returns the entities that tags mark, with their characters in the text.

        The text of a row of words is the words with single spaces between them.
        """
        if self.options.words_column in row:
            words = row[self.options.words_column]
            text = " ".join(words)
            ends = np.cumsum([len(word) + 1 for word in words]) - 1
            spans = [
                (int(end) - len(word), int(end)) for word, end in zip(words, ends, strict=True)
            ]
        else:
            text = row[self.options.text_column]
            spans = split_words(text)
        entities = []
        for entity_type, first, last in group_words(tags, self.tag_scheme):
            start, end = spans[first][0], spans[last - 1][1]
            entity = {"entity_group": entity_type, "score": float(np.mean(scores[first:last]))}
            entities.append(entity | {"word": text[start:end], "start": start, "end": end})
        return entities

    def _scheme_message(self) -> str:
        if self.tag_scheme == NO_SCHEME:
            return "The tags mark no entities in a known scheme, so tags are scored"
        return f"The tags mark entities in the scheme {self.tag_scheme}, so entities are scored"

    def _encode_words(self, words: list[str]) -> list[Window]:
        """Encodes a document. The info of a window is pairs of a word and its first position."""
        size = self.options.length - NUM_SPECIAL_TOKENS
        windows = []
        for group in word_windows(tokenize(self.tokenizer, words), size):
            ids: list[Any] = [self.tokenizer.cls_token_id]
            first_tokens = []
            for word, word_ids in group:
                if word_ids:
                    first_tokens.append((word, len(ids)))
                ids += word_ids
            ids.append(self.tokenizer.sep_token_id)
            windows.append(Window(ids, first_tokens))
        return windows

    def _get_words(self, row: Row) -> list[str]:
        column = self.options.words_column
        if column not in row:
            text = get_text(row, self.options.text_column)
            return [text[start:end] for start, end in split_words(text)]
        words = row[column]
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise DataError(
                f"column {column!r} must hold lists of words; got {str(words)[:60]!r}: correct it, "
                "or name another with words_column"
            )
        return words

    def _logits(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Any:
        """Returns the logits in float32, `[B, T, num_labels]`."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        return model(ids, mask, params=params, **call).logits.astype(jnp.float32)

    def _losses(self, logits: Any, labels: Any) -> tuple[Any, Any]:
        """Returns the losses, 0 where there is no tag, and where there is one, both `[B, T]`."""
        used = labels != IGNORED_LABEL
        losses = classification_losses(logits, jnp.where(used, labels, 0))
        return jnp.where(used, losses, 0), used

    def _tag_indices(self, rows: Dataset) -> dict[Any, int]:
        """Returns the index of each tag as the rows give it: by name, by integer, or by code."""
        names, indices = class_names(rows, self.options.tags_column), self.label_indices
        if not names or (are_generic(self.label_names) and not set(names) <= indices.keys()):
            return indices
        return {code: indices[name] for code, name in enumerate(names) if name in indices}

    def _check_known_tags(self, rows: Dataset, indices: dict[Any, int], split: Split) -> None:
        codes = class_names(rows, self.options.tags_column)
        for index, tags in enumerate(rows[self.options.tags_column]):
            for tag in tags:
                if tag not in indices:
                    tag = class_name(codes, tag) if codes else tag
                    raise DataError(
                        "tags must be among those of the training data "
                        f"({', '.join(self.label_names)}); {row_location(rows, index, split)} "
                        f"has {tag!r}: add examples of it, or remove the row"
                    )
