"""The options of `bigbird index` and `bigbird search`; importing them does not import JAX."""

import importlib
from collections.abc import Iterable
from typing import Any

import pydantic

from flax_bigbird.data.errors import OptionError
from flax_bigbird.tasks.options import MODEL, RUN, TASK, Options, option

DEFAULT_CHUNKS: dict[str, Any] = {"chunk_tokens": 256, "chunk_overlap": 32}
"""The chunks of an index whose options name none."""

VECTOR_OPTIONS = (
    "max_length",
    "dtype",
    "text_column",
    "pooling_mode",
    "normalize_embeddings",
    "truncate_dim",
    "prompt",
    "prompt_name",
    "whole_documents",
    "chunk_tokens",
    "chunk_overlap",
    "chunk_sentences",
)
"""The options of embedding that the vectors of an index depend on."""

FILE_OPTIONS = ("separator", "file_format")
"""The options of embedding that a folder with files of several formats cannot have."""

FORMATS = ("table", "json")


class IndexArguments(Options):
    """The options of `bigbird index` besides those of embedding."""

    model: str | None = option(
        None,
        help="The directory, shipped name or Hub id of the model. By default, it is that of the "
        "index, or else the shipped one.",
        panel=MODEL,
    )
    query_prompt: str | None = option(
        None,
        help="The text to put before each query. By default, it is the prompt query of the model's "
        "folder, if there is one.",
        panel=TASK,
    )
    words: bool | None = option(
        None,
        help="Whether the index can be searched by words, too. By default, a new one can.",
        panel=TASK,
    )


class SearchArguments(Options):
    """The options of `bigbird search`."""

    top_k: int = option(10, help="The maximum number of results.", panel=RUN, ge=1)
    format: str = option("table", help="How results are printed.", panel=RUN, choices=FORMATS)
    hybrid: bool = option(
        False,
        help="Rank by meaning and by words (BM25), and fuse both rankings (reciprocal rank "
        "fusion).",
        panel=TASK,
    )
    words: bool = option(
        False,
        help="Rank by words alone (BM25), without the model.",
        panel=TASK,
    )
    exact: bool = option(
        False,
        help="Compare the query with every vector, instead of those that a graph of neighbors "
        "leads to.",
        panel=TASK,
    )
    rerank: str | None = option(
        None,
        help="A model trained with bigbird train reranking, which reads the query with each of the "
        "best results and orders them again.",
        panel=MODEL,
    )
    candidates: int = option(
        100,
        help="The number of results that are fused or reranked.",
        panel=TASK,
        ge=1,
    )
    model: str | None = option(
        None,
        help="Where the model of the index is now, if it has moved.",
        panel=MODEL,
    )

    @pydantic.model_validator(mode="after")
    def _check_ranking(self) -> "SearchArguments":
        if self.words and (self.hybrid or self.exact):
            other = "hybrid" if self.hybrid else "exact"
            raise OptionError(
                f"a search by words compares no vectors; got words with {other}: leave one of them "
                "out"
            )
        return self


def check_packages() -> None:
    """Raises `OptionError` if a package of the extra `search` is missing."""
    for name in ("usearch", "bm25s", "pyarrow"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise OptionError(
                f'an index needs the package {name}: pip install "flax-bigbird[search]"'
            ) from error


def check_options(names: Iterable[str]) -> None:
    """Raises `OptionError` if an option of embedding cannot be used for an index."""
    for name in names:
        if name in FILE_OPTIONS:
            raise OptionError(
                f"{name} is an option of files of one format; got it for a folder, whose files are "
                "read by their names: leave it out"
            )
