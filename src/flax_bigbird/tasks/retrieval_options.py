"""The options of embedding and reranking.

As those of the other tasks, they are kept apart from the tasks, and imported without JAX.
"""

from collections.abc import Mapping
from typing import Any

import pydantic

from flax_bigbird.data.errors import OptionError
from flax_bigbird.tasks.options import BATCHES, DATA, OPTIMIZATION, TASK, TaskOptions, option

POOLING_MODES = ("mean", "cls", "weightedmean", "lasttoken")
SCORED_LOSSES = ("cosent", "cosine_similarity")
EMBEDDING_LOSSES = ("multiple_negatives_ranking", *SCORED_LOSSES)
RERANKING_LOSSES = ("binary_cross_entropy", "listwise_softmax")

_LABELED = ("train", "evaluate")


def find_prompt(prompts: Mapping[str, str], name: str) -> str:
    """Returns the prompt of a model with the given name.

    Raises:
      OptionError: if the model has no such prompt.
    """
    if name not in prompts:
        raise OptionError(
            "must be one of the model's prompts, "
            f"{', '.join(prompts) or 'of which there are none'}; got {name!r}: choose one of them, "
            "or give prompt",
            option="prompt_name",
        )
    return prompts[name]


def _column(help: str, commands: Any = ("train", "evaluate", "predict")) -> Any:
    return option(
        None, help=f"{help} By default, its usual names are known.", panel=DATA, commands=commands
    )


class RerankingOptions(TaskOptions):
    """The options of reranking."""

    task = "reranking"

    query_column: str | None = _column("The column of the query.")
    document_column: str | None = _column(
        "The column of the document, or of lists of documents; beside negatives, that of the "
        "relevant documents."
    )
    negative_column: str | None = _column(
        "The column of a document that is not relevant, or of lists of them, or several columns "
        "with commas between them.",
        _LABELED,
    )
    label_column: str | None = _column(
        "The column of the label, which is high for a relevant document, or of the list of the "
        "labels of the documents.",
        _LABELED,
    )
    loss: str = option(
        "binary_cross_entropy",
        help="The loss of each pair of a query and a document (binary_cross_entropy), or of each "
        "query with all its documents (listwise_softmax).",
        panel=OPTIMIZATION,
        choices=RERANKING_LOSSES,
        commands=_LABELED,
    )


def _embedding_option(default: Any, **declared: Any) -> Any:
    return option(default, panel=TASK, commands=("embed",), **declared)


class EmbeddingOptions(TaskOptions):
    """The options of embedding."""

    task = "embedding"

    text_column: str = option(
        "text",
        help="The column of the text; in training, of texts without queries.",
        panel=DATA,
        commands=("train", "evaluate", "embed"),
    )
    query_column: str | None = _column("The column of the query, or of the first text.", _LABELED)
    document_column: str | None = _column(
        "The column of the document that is relevant, or of the second text.", _LABELED
    )
    negative_column: str | None = _column(
        "The column of a hard negative, or of lists of them, or several columns with commas "
        "between them.",
        _LABELED,
    )
    score_column: str | None = _column("The column of the score of two texts.", _LABELED)
    pooling_mode: str | None = option(
        None,
        help="How the tokens of a text become its vector, under the names of "
        "sentence-transformers. By default, it is that of the model's folder, or mean.",
        panel=TASK,
        choices=POOLING_MODES,
        commands=("train", "evaluate", "embed"),
    )
    loss: str | None = option(
        None,
        help="The loss. By default, it is cosent for pairs with scores, and otherwise InfoNCE "
        "(multiple_negatives_ranking).",
        panel=OPTIMIZATION,
        choices=EMBEDDING_LOSSES,
        commands=_LABELED,
    )
    temperature: float = option(
        0.05,
        help="The number that cosines are divided by in the loss.",
        panel=OPTIMIZATION,
        ge=0.001,
        le=10,
        commands=_LABELED,
    )
    symmetric: bool = option(
        False,
        help="Whether documents search for their queries, too, in the loss.",
        panel=OPTIMIZATION,
        commands=("train",),
    )
    mini_batch_size: int | None = option(
        None,
        help="The number of examples whose gradient is computed at once (GradCache), so that "
        "batches of any size fit in memory; the gradient is that of the whole batch.",
        panel=BATCHES,
        ge=1,
        commands=_LABELED,
    )
    matryoshka_dims: list[int] = option(
        [],
        help="A number of first dimensions that are trained, and measured, as vectors of their "
        "own (Matryoshka).",
        panel=OPTIMIZATION,
        commands=_LABELED,
    )
    query_prompt: str | None = option(
        None,
        help="The text to put before each query; it is saved with the model.",
        panel=TASK,
        commands=_LABELED,
    )
    document_prompt: str | None = option(
        None,
        help="The text to put before each document; it is saved with the model.",
        panel=TASK,
        commands=_LABELED,
    )
    crop_min_ratio: float = option(
        0.1,
        help="The smallest part of a text without a query that is a query or a document.",
        panel=TASK,
        ge=0.001,
        le=1,
        commands=_LABELED,
    )
    crop_max_ratio: float = option(
        0.5,
        help="The largest part of a text without a query that is a query or a document.",
        panel=TASK,
        ge=0.001,
        le=1,
        commands=_LABELED,
    )
    normalize_embeddings: bool = _embedding_option(
        False, help="Scale the vectors to length 1, so that their products are cosines."
    )
    truncate_dim: int | None = _embedding_option(
        None,
        help="Keep the first dimensions of the vectors only, for models that were trained for it "
        "(Matryoshka).",
        ge=1,
    )
    prompt: str | None = _embedding_option(
        None, help="The text to put before each text, for example 'query: '."
    )
    prompt_name: str | None = _embedding_option(
        None, help="The name of one of the prompts of the model's folder, for example query."
    )
    whole_documents: bool = _embedding_option(
        True,
        help="Read texts longer than max_length in overlapping windows whose tokens are added; "
        "otherwise, they are truncated.",
    )
    chunk_tokens: int | None = _embedding_option(
        None,
        help="Return a vector for every chunk of this many tokens, computed from the tokens as "
        "read in the whole document (late chunking).",
        ge=1,
    )
    chunk_overlap: int = _embedding_option(
        0, help="The number of tokens that neighboring chunks have in common.", ge=0
    )
    chunk_sentences: bool = _embedding_option(
        False, help="Return a vector for every sentence, as chunk_tokens does for tokens."
    )

    @property
    def is_chunked(self) -> bool:
        """Whether there is a vector for every chunk of a text instead of one for the text."""
        return self.chunk_sentences or self.chunk_tokens is not None

    @pydantic.model_validator(mode="after")
    def _check_chunks(self) -> "EmbeddingOptions":
        if self.chunk_sentences and self.chunk_tokens is not None:
            raise OptionError(
                f"chunks must be sentences or tokens; got chunk_sentences and chunk_tokens="
                f"{self.chunk_tokens}: leave one of them out"
            )
        if self.chunk_overlap and self.chunk_overlap >= (self.chunk_tokens or 0):
            raise OptionError(
                f"must be less than chunk_tokens; got {self.chunk_overlap} for "
                f"chunk_tokens={self.chunk_tokens}: lower it, or give more chunk_tokens",
                option="chunk_overlap",
            )
        if self.is_chunked and self.pooling_mode not in (None, "mean"):
            raise OptionError(
                f"the vectors of chunks are means; got pooling_mode={self.pooling_mode!r}: leave "
                "it out"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _check_crops(self) -> "EmbeddingOptions":
        if self.crop_min_ratio > self.crop_max_ratio:
            raise OptionError(
                f"must be at most crop_max_ratio={self.crop_max_ratio}; got "
                f"{self.crop_min_ratio}: lower it",
                option="crop_min_ratio",
            )
        return self

    @pydantic.model_validator(mode="after")
    def _check_prompts(self) -> "EmbeddingOptions":
        if self.prompt is not None and self.prompt_name is not None:
            raise OptionError(
                f"a text has one prompt; got prompt={self.prompt!r} and prompt_name="
                f"{self.prompt_name!r}: leave one of them out"
            )
        return self
