"""What the arguments of an embedder's calls stand for, and what its chunks are."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from flax_bigbird.data.errors import OptionError

DEFAULT_CHUNK_SIZE = 256  # in tokens


class ChunkEmbeddings(NamedTuple):
    """The vectors of the chunks of one text.

    Attributes:
      vectors: `[C, D]`, in float32.
      spans: For each chunk, its characters `[start, end)` in the text.
    """

    vectors: np.ndarray
    spans: list[tuple[int, int]]


def vector_options(
    prompt_name: str | None,
    prompt: str | None,
    normalize_embeddings: bool,
    truncate_dim: int | None,
) -> dict[str, Any]:
    """Returns the options of vectors of whole texts; None stands for that of the loaded model."""
    return {
        "prompt_name": prompt_name if prompt is None else None,
        "prompt": prompt,
        "normalize_embeddings": normalize_embeddings or None,
        "truncate_dim": truncate_dim,
        "chunk_tokens": None,
        "chunk_sentences": False,
        "chunk_overlap": 0,
    }


def prompt_name_for(
    role: str | None, prompt_name: str | None, options: Mapping[str, Any]
) -> str | None:
    """Returns the name of the prompt of a role, unless the call gives another prompt."""
    is_given = prompt_name is not None or options.get("prompt") is not None
    return prompt_name if is_given else role


def chunk_options(by: str, chunk_size: int | None, chunk_overlap: int) -> dict[str, Any]:
    """Returns the options of chunks.

    Raises:
      OptionError: if they contradict each other.
    """
    if by not in ("tokens", "sentence"):
        raise OptionError(
            f"must be 'tokens' or 'sentence'; got {by!r}: choose one of them", option="by"
        )
    is_by_sentence = by == "sentence"
    if is_by_sentence and chunk_size is not None:
        raise OptionError(
            f"chunk_size belongs to by='tokens'; got {chunk_size} for sentences: leave it out"
        )
    size = DEFAULT_CHUNK_SIZE if chunk_size is None else chunk_size
    return {
        "chunk_tokens": None if is_by_sentence else size,
        "chunk_overlap": chunk_overlap,
        "chunk_sentences": is_by_sentence,
    }


def check_encode_call(
    output_value: str, precision: str, device: Any, options: Mapping[str, Any]
) -> None:
    """Checks the arguments of `encode` that have a single value here, and that none is of chunks.

    Raises:
      OptionError: if one of them has another value.
    """
    for name, value, only in (
        ("output_value", output_value, "sentence_embedding"),
        ("precision", precision, "float32"),
    ):
        if value != only:
            raise OptionError(f"must be {only!r}; got {value!r}: leave it out", option=name)
    if device is not None:
        raise OptionError(
            f"must be None; got {device!r}: leave it out, or give load_embedder devices",
            option="device",
        )
    if options.get("chunk_tokens") is not None or options.get("chunk_sentences"):
        raise OptionError(
            "encode returns one vector per text; got an option of chunks: call encode_chunks"
        )


def changed_options(loaded: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that a call changes.

    Args:
      loaded: The options that the embedder was loaded with.
      options: The options of the call; None stands for that of the loaded model.

    Raises:
      OptionError: if an option cannot be changed after loading.
    """
    if fixed := options.keys() & {"dtype", "max_length", "mesh"}:
        raise OptionError(
            "dtype, max_length and mesh belong to the loaded model; got "
            f"{', '.join(sorted(fixed))}: give load_embedder them"
        )
    changed = {name: value for name, value in options.items() if value is not None}
    if changed.keys() & {"prompt", "prompt_name"}:  # one excludes the other of the loaded model
        changed = {"prompt": None, "prompt_name": None} | changed
    if "chunk_tokens" in options and loaded.chunk_tokens is not None:
        changed["chunk_tokens"] = options["chunk_tokens"]  # None if texts have no such chunks
    return changed
