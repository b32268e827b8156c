"""Embedding: vectors of documents, trained so that a query finds the documents that answer it."""

import dataclasses
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from flax_bigbird.checkpoint.embedding_layers import Normalize
from flax_bigbird.checkpoint.sentence_transformers import (
    EmbeddingModules,
    load_embedding_modules,
    save_embedding_modules,
)
from flax_bigbird.data.batching import stack
from flax_bigbird.data.columns import ColumnKind
from flax_bigbird.data.encoded_rows import column_array, map_cached, tokenizer_fingerprint
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.data.loading import (
    iterate_column,
    parse_rows,
    require_columns,
    require_texts,
)
from flax_bigbird.data.types import ROW_MASK, Arrays, Batch, Dataset, Row, Tokenizer
from flax_bigbird.nn.contrastive_losses import map_mini_batches
from flax_bigbird.tasks.base import EncodedDataset, Loss, Metrics, Split, Task
from flax_bigbird.tasks.embedding_data import (
    count_documents,
    crop,
    encode_example,
    encode_text,
    example_columns,
    get_example,
    length_messages,
    resolve_example_columns,
)
from flax_bigbird.tasks.embedding_losses import INPUTS, batch_loss, embed_rows
from flax_bigbird.tasks.embedding_metrics import (
    embedding_metric_names,
    pair_metrics,
    search_metrics,
    suffix_of_dim,
)
from flax_bigbird.tasks.embedding_prediction import EmbeddingPrediction
from flax_bigbird.tasks.loading import load_files_beside
from flax_bigbird.tasks.ranking_metrics import RECALL_RANKS
from flax_bigbird.tasks.retrieval_options import SCORED_LOSSES

_HASH_BITS = 2**31 - 1  # those that fit in the int32 of a batch


class Embedding(EmbeddingPrediction, Task):
    """Represents each document by a vector, see `EmbeddingPrediction`.

    It is trained on pairs of a query and a document, with hard negatives or without, on pairs with
    scores, or on texts alone, two random parts of which are a pair in each step (arXiv 2112.09118).
    """

    owns_model_class: ClassVar[bool] = False
    token_columns: ClassVar[tuple[str, ...]] = ("query_ids", "documents")
    splits_batches: ClassVar[bool] = False
    masks_rows = True

    @classmethod
    def for_model(
        cls, options: Any, tokenizer: Tokenizer, config: Any, model: str | None
    ) -> "Embedding":
        modules = None if model is None else load_files_beside(load_embedding_modules, model)
        task = cls(options, tokenizer, config, modules)
        task._check_modules()
        return task

    @property
    def is_scored(self) -> bool:
        """Whether the examples are pairs with scores."""
        return self.options.score_column is not None

    @property
    def is_cropped(self) -> bool:
        """Whether the examples are parts of texts."""
        return self.options.query_column is None

    @classmethod
    def columns(cls, options: Any) -> dict[str, ColumnKind]:
        return example_columns(options)

    @classmethod
    def resolve_columns(cls, options: Any, names: Collection[str]) -> Any:
        return resolve_example_columns(options, names)

    @classmethod
    def check_rows(cls, options: Any, rows: Dataset, split: Split) -> list[str]:
        columns = example_columns(options)
        require_columns(rows, columns, split)
        texts = [name for name, kind in columns.items() if kind == "text"]
        messages = require_texts(rows, texts, split)
        if options.query_column is None:
            return messages
        scores = set(parse_rows(rows, lambda row: get_example(row, options).score, split))
        if options.score_column is not None and split == "train" and len(scores) < 2:
            raise DataError(
                f"the scores of the training data must differ; all are {scores.pop()}: give "
                "loss=multiple_negatives_ranking to train on pairs without scores"
            )
        return messages

    @classmethod
    def infer_config(cls, options: Any, rows: Dataset) -> dict[str, Any]:
        cls.check_rows(options, rows, "train")
        return {}

    @classmethod
    def group_labels(cls, options: Any, rows: Dataset) -> list[Any] | None:
        if options.query_column is None:
            return None
        return list(iterate_column(rows, options.query_column))

    @classmethod
    def iterate_texts(cls, options: Any, rows: Dataset) -> Iterator[str]:
        for row in rows:
            values: Any = row
            if options.query_column is None:
                yield values[options.text_column]
                continue
            example = get_example(values, options)
            yield from (example.query, *example.documents)

    @classmethod
    def evaluation_metrics(
        cls, options: Any, config: Any = None, rows: Dataset | None = None
    ) -> Metrics:
        is_scored = options.score_column is not None or options.loss in SCORED_LOSSES
        is_known = is_scored or options.loss is not None or config is not None
        size = None if config is None else config.hidden_size
        count = None if rows is None else count_documents(rows, options, max(RECALL_RANKS) + 1)
        dims = {dim for dim in options.matryoshka_dims if dim != size}
        return embedding_metric_names(is_scored if is_known else None, count, dims)

    def encode_dataset(self, rows: Dataset, split: Split) -> EncodedDataset:
        options, messages = self.options, self.check_rows(self.options, rows, split)
        prompts = self._role_prompts()

        def encode_batch(batch: Batch) -> Batch:
            encoded: list[dict[str, Any]] = []
            for values in zip(*batch.values(), strict=True):
                row = dict(zip(batch, values, strict=True))
                if self.is_cropped:
                    encoded += encode_text(row[options.text_column], self.tokenizer, options)
                else:
                    example = get_example(row, options)
                    encoded.append(encode_example(example, self.tokenizer, options, prompts))
            return {name: [row[name] for row in encoded] for name in _EXAMPLE_COLUMNS}

        roles = (options.query_column, options.document_column, options.negative_column)
        roles += (options.score_column, options.text_column)
        ratios = (options.crop_min_ratio, options.crop_max_ratio)
        key = ("embedding", roles, prompts, ratios, options.length)
        examples = map_cached(rows, encode_batch, *key, tokenizer_fingerprint(self.tokenizer))
        messages += length_messages(examples, len(rows), options, split)
        query_length = int(column_array(examples, "query_length").max())
        num_documents = int(column_array(examples, "num_documents").max())
        examples = examples.remove_columns(["cut", "query_length", "num_documents"])
        # All examples have room for the longest query, and for the same number of documents.
        bucket = options.bucket_length(query_length) if query_length else 0
        for name, value in (("query_length", bucket), ("num_documents", num_documents)):
            examples = examples.add_column(name, [value] * len(examples))  # type: ignore[arg-type]
        # Copies would be no negatives.
        encoded = EncodedDataset(
            examples, messages, inputs_per_example=num_documents + 1, repeats_in_batch=False
        )
        if split == "train":
            self._check_batch_size(encoded)
        if split == "train" or options.mini_batch_size is None:
            return encoded
        tokens = options.mini_batch_size * encoded.inputs_per_example * options.length
        return dataclasses.replace(encoded, max_evaluation_tokens=tokens)

    def collate(self, example: Row, length: int, generator: np.random.Generator) -> Arrays:
        """Returns the arrays of a query `[L]` and of its documents `[C, length]`.

        The first document pads missing ones, which do not `exist`. Equal texts have equal ids.
        """
        query, documents, query_length = example["query_ids"], example["documents"], length
        if self.is_cropped:
            (ids,) = documents
            query, *documents = (
                crop(ids, self.options, self.tokenizer, generator) for _ in range(2)
            )
        else:
            query_length = example["query_length"]
        count, found = example["num_documents"], len(documents)
        inputs = [self.pad(ids, length) for ids in documents]
        inputs += [inputs[0]] * (count - found)
        document_ids = np.zeros(count, np.int32)
        document_ids[:found] = [value & _HASH_BITS for value in example["document_ids"]]
        padded_query = self.pad(query, query_length)
        return stack(inputs) | {
            "query_input_ids": padded_query["input_ids"],
            "query_attention_mask": padded_query["attention_mask"],
            "query_id": np.asarray(example["query_id"] & _HASH_BITS, np.int32),
            "document_ids": document_ids,
            "exists": np.arange(count) < found,
            "score": np.asarray(example["score"], np.float32),
        }

    def loss(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Loss:
        """Returns the loss; with `mini_batch_size`, its gradient takes the memory of a few rows."""
        key = call.pop("dropout_rng", None)

        def embed(rows: Arrays, key: Any) -> tuple[Any, Any]:
            return embed_rows(model, params, rows, key, self.pooling_mode, **call)

        inputs = {name: jnp.asarray(batch[name]) for name in INPUTS}
        size = self.options.mini_batch_size
        if size is None:
            queries, documents = embed(inputs, key)
        else:
            queries, documents = map_mini_batches(embed, inputs, key, size)
        dims = {queries.shape[-1], *self.options.matryoshka_dims}
        losses = [
            batch_loss(queries[:, :dim], documents[..., :dim], batch, self.loss_name, self.options)
            for dim in sorted(dims)
        ]
        mask = batch.get(ROW_MASK)
        num_rows = queries.shape[0] if mask is None else jnp.asarray(mask).sum()
        return Loss(sum(losses[1:], losses[0]), num_rows)

    def eval_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        queries, documents = embed_rows(model, params, batch, None, self.pooling_mode)
        return {"queries": queries, "documents": documents}

    def compute_metrics(self, outputs: Arrays, encoded: EncodedDataset) -> dict[str, float]:
        examples, options = encoded.examples, self.options
        size = outputs["queries"].shape[-1]
        metrics: dict[str, float] = {}
        for dim in sorted({size, *options.matryoshka_dims}, reverse=True):
            queries, documents = outputs["queries"][:, :dim], outputs["documents"][..., :dim]
            if self.is_scored:
                scores = column_array(examples, "score")
                found = pair_metrics(
                    queries, documents[:, 0], scores, self.loss_name, options.temperature
                )
            else:
                query_ids = column_array(examples, "query_id")
                document_ids = list(iterate_column(examples, "document_ids"))
                found = search_metrics(
                    queries, documents, query_ids, document_ids, options.temperature
                )
            suffix = "" if dim == size else suffix_of_dim(dim)
            metrics |= {f"{name}{suffix}": value for name, value in found.items()}
        return metrics

    @property
    def loss_name(self) -> str:
        """The loss: that of the options, or else the default for the kind of examples."""
        default = "cosent" if self.is_scored else "multiple_negatives_ranking"
        return self.options.loss or default

    def save_files(self, folder: Path) -> None:
        """Writes the files that make the folder one of sentence-transformers."""
        given = {"query": self.options.query_prompt, "document": self.options.document_prompt}
        prompts = {name: text for name, text in given.items() if text is not None}
        modules = dataclasses.replace(
            self.modules,
            pooling_mode=self.pooling_mode,
            layers=(Normalize(),),
            prompts=dict(self.modules.prompts) | prompts,
            similarity_fn_name="cosine",
            max_seq_length=self.options.length,
            transformer_path="",
        )
        save_embedding_modules(folder, modules, self.config.hidden_size)

    def _check_modules(self) -> None:
        """Raises `OptionError` if a model of this kind cannot be trained or evaluated."""
        modules: EmbeddingModules = self.modules
        if not modules.include_prompt or any(not isinstance(x, Normalize) for x in modules.layers):
            raise OptionError(
                "an embedding model must have no layers after pooling but Normalize, and prompts "
                "that count, to be trained or evaluated; the model's folder has Dense layers or "
                "include_prompt=false: start from a model without them"
            )
        size = self.config.hidden_size
        for dim in self.options.matryoshka_dims:
            if not 1 <= dim <= size:
                raise OptionError(
                    f"must be from 1 to the {size:,} dimensions of the vectors; "
                    f"got {dim:,}: change it",
                    option="matryoshka_dims",
                )

    def _role_prompts(self) -> tuple[str, str]:
        """Returns the texts before queries and before documents, by default those of the model."""
        options, saved = self.options, self.modules.prompts
        query, document = options.query_prompt, options.document_prompt
        if query is None:
            query = saved.get("query", "")
        if document is None:
            name = self.modules.document_prompt_name
            document = "" if name is None else saved[name]
        return query, document

    def _check_batch_size(self, encoded: EncodedDataset) -> None:
        """Raises `OptionError` if a batch has no negatives."""
        options = self.options
        length = options.bucket_length(int(column_array(encoded.examples, "length").max()))
        inputs = encoded.inputs_per_example
        if options.tokens_per_batch // inputs // length < 2:
            raise OptionError(
                f"must hold two examples, each of {inputs} texts of "
                f"{length:,} tokens, which are negatives of each other; got "
                f"{options.tokens_per_batch:,}: raise it, with mini_batch_size=1 if the memory is "
                "too small, or lower max_length",
                option="tokens_per_batch",
            )


_EXAMPLE_COLUMNS = (
    "query_ids",
    "documents",
    "length",
    "query_length",
    "num_documents",
    "query_id",
    "document_ids",
    "score",
    "cut",
)
