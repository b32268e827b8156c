"""Reranking: how relevant a document is to a query, by a cross-encoder that reads both together."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from flax_bigbird.checkpoint.cross_encoders import (
    CrossEncoderSettings,
    load_cross_encoder_settings,
    save_cross_encoder_settings,
)
from flax_bigbird.checkpoint.embedding_layers import ACTIVATIONS
from flax_bigbird.data.batching import stack
from flax_bigbird.data.columns import ColumnKind
from flax_bigbird.data.encoded_rows import (
    column_array,
    map_cached,
    tokenizer_fingerprint,
    truncated_message,
)
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.data.loading import (
    SPLIT_NAMES,
    iterate_column,
    parse_rows,
    require_columns,
    require_texts,
)
from flax_bigbird.data.tokenization import add_special_tokens, text_hash, tokenize
from flax_bigbird.data.types import Arrays, Batch, Dataset, Row, Tokenizer
from flax_bigbird.tasks.base import EncodedDataset, Loss, Metrics, Split, Task, Window
from flax_bigbird.tasks.candidates import (
    Candidates,
    candidate_columns,
    get_candidates,
    resolve_candidate_columns,
)
from flax_bigbird.tasks.loading import load_files_beside
from flax_bigbird.tasks.ranking_metrics import (
    RELEVANT,
    candidate_metric_names,
    candidate_metrics,
)
from flax_bigbird.tasks.retrieval_options import RerankingOptions
from flax_bigbird.tasks.row_masks import mean_over_rows

_MASKED = -1e6  # the logit of a document that a query does not have


class Reranking(Task):
    """Scores how relevant documents are to a query.

    The model reads `[CLS] query [SEP] document [SEP]` and computes one logit. A row holds a query,
    a document and its label; or a query with a list of documents and a list of labels; or a query,
    a relevant document, and negatives. Pairs that are longer than `max_length` are truncated, the
    longer text first.

    A prediction is `{"score"}`, the sigmoid of the logit unless the model's folder says otherwise;
    for a list of documents, it is `{"scores"}`.
    """

    name = "reranking"
    title = "Reranker"
    pipeline_tag = "text-ranking"
    model_class = "FlaxBigBirdForSequenceClassification"
    options_class = RerankingOptions
    masks_rows = True
    owns_model_class: ClassVar[bool] = False

    def __init__(
        self,
        options: Any,
        tokenizer: Tokenizer,
        config: Any,
        settings: CrossEncoderSettings | None = None,
    ):
        super().__init__(options, tokenizer, config)
        self.settings = settings or CrossEncoderSettings()
        self.is_listwise: bool = options.loss == "listwise_softmax"

    @classmethod
    def for_model(
        cls, options: Any, tokenizer: Tokenizer, config: Any, model: str | None
    ) -> "Reranking":
        if model is None:
            return cls(options, tokenizer, config)
        settings = load_files_beside(load_cross_encoder_settings, model)
        return cls(options, tokenizer, config, settings)

    @classmethod
    def columns(cls, options: Any) -> dict[str, ColumnKind]:
        return candidate_columns(options)

    @classmethod
    def resolve_columns(cls, options: Any, names: Collection[str]) -> Any:
        return resolve_candidate_columns(options, names)

    @classmethod
    def check_config(cls, config: Any) -> None:
        if config.num_labels != 1:
            raise OptionError(
                f"a reranker must have one logit; the model has num_labels={config.num_labels}: "
                "train it with bigbird train reranking, or use the task sequence-classification"
            )

    @classmethod
    def check_rows(cls, options: Any, rows: Dataset, split: Split) -> list[str]:
        require_columns(rows, candidate_columns(options), split)
        messages = require_texts(rows, [options.query_column], split)

        def largest_label(row: Row) -> float:
            candidates = get_candidates(row, options, labeled=True)
            if options.loss == "listwise_softmax" and len(candidates.documents) < 2:
                raise DataError(
                    "a row must have two documents or more for loss=listwise_softmax; got one: "
                    "give lists or negatives, or use loss=binary_cross_entropy"
                )
            return max(candidates.labels)

        largest = max(parse_rows(rows, largest_label, split), default=0.0)
        if largest < RELEVANT and split != "test":
            raise DataError(
                f"the {SPLIT_NAMES[split]} must have a relevant document, whose label is "
                f"{RELEVANT} or more; all labels of column {options.label_column!r} are below it: "
                "check the column"
            )
        return messages

    @classmethod
    def infer_config(cls, options: Any, rows: Dataset) -> dict[str, Any]:
        cls.check_rows(options, rows, "train")
        labels = {"id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        # The head of `transformers`, which sentence-transformers opens.
        return labels | {"classifier_pooling": "cls", "problem_type": None}

    @classmethod
    def group_labels(cls, options: Any, rows: Dataset) -> list[Any]:
        return list(iterate_column(rows, options.query_column))

    @classmethod
    def iterate_texts(cls, options: Any, rows: Dataset) -> Iterator[str]:
        for row in rows:
            values: Any = row
            candidates = get_candidates(values, options, labeled=True)
            yield candidates.query
            yield from candidates.documents

    @classmethod
    def evaluation_metrics(
        cls, options: Any, config: Any = None, rows: Dataset | None = None
    ) -> Metrics:
        candidates: Any = None
        if rows is not None:
            found = (get_candidates(dict(row), options, labeled=True) for row in rows)  # type: ignore[arg-type]
            candidates = ((row.query, row.labels) for row in found)
        names = candidate_metric_names(candidates) | {"loss": False}
        if options.loss == "listwise_softmax" and "ndcg_at_10" in names:
            return {"ndcg_at_10": True} | names
        return names

    def encode_dataset(self, rows: Dataset, split: Split) -> EncodedDataset:
        messages = self.check_rows(self.options, rows, split)
        encode_row = self._encode_list if self.is_listwise else self._encode_pairs

        def encode_batch(batch: Batch) -> Batch:
            names = ("input_ids", "labels", "length", "query_id", "cut", "num_documents")
            encoded: Batch = {name: [] for name in names}
            for values in zip(*batch.values(), strict=True):
                row = dict(zip(batch, values, strict=True))
                for example in encode_row(get_candidates(row, self.options, labeled=True)):
                    for name, value in zip(names, example, strict=True):
                        encoded[name].append(value)
            return encoded

        options = self.options
        columns = (options.query_column, options.document_column)
        columns += (options.negative_column, options.label_column)
        key = ("reranking", self.is_listwise, columns, options.length, self._prompt())
        fingerprint = tokenizer_fingerprint(self.tokenizer)
        examples = map_cached(rows, encode_batch, *key, fingerprint)
        if truncated := int(column_array(examples, "cut").sum()):
            texts = SPLIT_NAMES[split]
            messages.append(
                truncated_message(truncated, len(examples), "example", texts, options.length)
            )
        # All examples of a batch have the same number of documents.
        num_documents = int(column_array(examples, "num_documents").max())
        examples = examples.remove_columns(["cut", "num_documents"])
        examples = examples.add_column("num_documents", [num_documents] * len(examples))  # type: ignore[arg-type]
        return EncodedDataset(examples, messages, inputs_per_example=num_documents)

    def collate(self, example: Row, length: int, generator: np.random.Generator) -> Arrays:
        """Returns the arrays of a pair, or, for a list of documents, those of all of its pairs.

        The first document pads missing ones, which do not `exist`.
        """
        if not self.is_listwise:
            arrays = self.pad(example["input_ids"], length)
            return arrays | {"labels": np.asarray(example["labels"], np.float32)}
        pairs, count = example["input_ids"], example["num_documents"]
        inputs = [self.pad(ids, length) for ids in pairs]
        inputs += [inputs[0]] * (count - len(pairs))
        labels = np.zeros(count, np.float32)
        labels[: len(pairs)] = example["labels"]
        return stack(inputs) | {"labels": labels, "exists": np.arange(count) < len(pairs)}

    def loss(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Loss:
        losses, weights = self._losses(self._logits(model, params, batch, **call), batch)
        return mean_over_rows(losses, batch, weights)

    def eval_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        logits = self._logits(model, params, batch)
        losses, weights = self._losses(logits, batch)
        outputs = {"logits": logits, "labels": batch["labels"]}
        exists = {"exists": batch["exists"]} if self.is_listwise else {}
        return outputs | exists | {"losses": losses, "weights": weights}

    def compute_metrics(self, outputs: Arrays, encoded: EncodedDataset) -> dict[str, float]:
        weights = outputs["weights"]
        loss = float((outputs["losses"] * weights).sum() / max(1.0, weights.sum()))
        query_ids = column_array(encoded.examples, "query_id")
        scores, labels = outputs["logits"], outputs["labels"]
        if self.is_listwise:
            query_ids = np.broadcast_to(query_ids[:, None], scores.shape)
            query_ids, scores, labels = (
                values[outputs["exists"]] for values in (query_ids, scores, labels)
            )
        return {"loss": loss} | candidate_metrics(scores, labels, query_ids)

    def save_files(self, folder: Path) -> None:
        """Writes the files that make the folder a cross-encoder of sentence-transformers."""
        save_cross_encoder_settings(folder, self.saved_settings())

    def saved_settings(self) -> CrossEncoderSettings:
        """Returns the settings to save, with the maximum length of the options."""
        values = vars(self.settings) | {"max_seq_length": self.options.length}
        return CrossEncoderSettings(**values)

    def encode(self, row: Row) -> list[Window]:
        options = self.resolve_columns(self.options, row)
        candidates = get_candidates(row, options, labeled=False)
        pairs = self.encode_pairs(candidates.query, candidates.documents)
        return [Window(ids, candidates.is_list) for ids, _ in pairs]

    def predict_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        return {"logit": self._logits(model, params, batch)}

    def decode(self, row: Row, windows: Sequence[Window], outputs: Sequence[Arrays]) -> Row:
        logits = np.array([output["logit"] for output in outputs], np.float32)
        scores = ACTIVATIONS[self.settings.activation](logits).tolist()
        return {"scores": scores} if windows[0].info else {"score": scores[0]}

    def encode_pairs(self, query: str, documents: Sequence[str]) -> list[tuple[list[int], bool]]:
        """Returns `[CLS] query [SEP] document [SEP]` for each document, and what was truncated."""
        first, *others = tokenize(self.tokenizer, [self._prompt() + query, *documents])
        length = self.options.length
        return [add_special_tokens([first, ids], self.tokenizer, length) for ids in others]

    def _prompt(self) -> str:
        """Returns the text before each query."""
        name = self.settings.default_prompt_name
        return "" if name is None else self.settings.prompts.get(name, "")

    def _encode_pairs(self, candidates: Candidates) -> Iterator[tuple[Any, ...]]:
        """Yields an example for each document of a row."""
        query_id = text_hash(candidates.query)
        pairs = self.encode_pairs(candidates.query, candidates.documents)
        for (ids, cut), label in zip(pairs, candidates.labels, strict=True):
            yield ids, label, len(ids), query_id, cut, 1

    def _encode_list(self, candidates: Candidates) -> Iterator[tuple[Any, ...]]:
        """Yields the example of a row with all its documents."""
        pairs = self.encode_pairs(candidates.query, candidates.documents)
        rows, cuts = [ids for ids, _ in pairs], any(cut for _, cut in pairs)
        length, query_id = max(map(len, rows)), text_hash(candidates.query)
        yield rows, candidates.labels, length, query_id, cuts, len(rows)

    def _logits(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Any:
        """Returns the logits in float32, `[B]`, or `[B, C]` for lists of documents."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        shape, length = ids.shape[:-1], ids.shape[-1]
        flat = (ids.reshape(-1, length), mask.reshape(-1, length))
        logits = model(*flat, params=params, **call).logits[..., 0].astype(jnp.float32)
        return logits.reshape(shape)

    def _losses(self, logits: Any, batch: Arrays) -> tuple[Any, Any]:
        """Returns the losses of the examples, and 1 for those that count, `[B]` each."""
        labels = batch["labels"].astype(jnp.float32)
        if not self.is_listwise:
            positive, negative = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
            return -(labels * positive + (1 - labels) * negative), jnp.ones_like(logits)
        total = labels.sum(-1)
        log_probabilities = jax.nn.log_softmax(jnp.where(batch["exists"], logits, _MASKED))
        losses = -(labels * log_probabilities).sum(-1) / jnp.maximum(total, 1e-9)
        return losses, (total > 0).astype(jnp.float32)
