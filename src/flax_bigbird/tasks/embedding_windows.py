"""The parts of a document's windows that belong to each of its vectors, and the sums over them."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from flax_bigbird.data.sentences import sentence_spans

Offsets = list[tuple[int, int]]


class Part(NamedTuple):
    """The tokens of one window that belong to one vector.

    Attributes:
      vector: The index of the vector.
      start: The position of the first token in the window.
      stop: The position after the last token.
    """

    vector: int
    start: int
    stop: int


class WindowParts(NamedTuple):
    """What `decode` needs to know about a window.

    Attributes:
      start: The position in the document of the window's first token, where `[CLS]` is 0.
      parts: The parts of the window that are added up.
      num_spans: The number of parts that the arrays of the window have room for.
      chunks: For each vector of the document, the characters `[start, end)` that it stands for;
        None if there is a single vector for the whole document.
    """

    start: int
    parts: list[Part]
    num_spans: int
    chunks: Offsets | None


def chunk_pieces(offsets: Offsets, size: int, overlap: int) -> list[tuple[int, int]]:
    """Returns the tokens `[start, stop)` of each chunk of `size` tokens."""
    count = len(offsets)
    starts = range(0, max(min(count, 1), count - overlap), size - overlap)
    return [(start, min(start + size, count)) for start in starts]


def chunk_sentences(text: str, offsets: Offsets) -> list[tuple[int, int]]:
    """Returns the tokens `[start, stop)` of each sentence that has any."""
    ends = np.array([end for _, end in offsets])
    last_chars = [end for _, end in sentence_spans(text)]
    stops = np.searchsorted(ends, last_chars, side="right")
    stops[-1:] = len(offsets)
    return [(a, b) for a, b in itertools.pairwise([0, *stops.tolist()]) if a < b]


def span_sums(
    states: Float[Array, "B T D"],
    spans: Int[Array, "B S 2"],
    first_weight: Float[Array, " B"] | None = None,
) -> Float[Array, "B S D"]:
    """Returns the sums of the vectors in each span, as one product of matrices.

    Args:
      states: The vectors of the tokens.
      spans: The positions `[start, stop)` of each span; spans may overlap, or be empty.
      first_weight: The weight of the first token of each row; that of every other token is greater
        by 1 than that of the token before it. By default, all weights are 1.
    """
    position = jnp.arange(states.shape[1])
    is_inside = (position >= spans[..., :1]) & (position < spans[..., 1:])
    weights = is_inside.astype(states.dtype)
    if first_weight is not None:
        weights *= (first_weight[:, None] + position.astype(states.dtype))[:, None]
    return jnp.einsum("bst,btd->bsd", weights, states, precision=jax.lax.Precision.HIGHEST)


def pool_tokens(
    states: Float[Array, "B T D"], mask: Int[Array, "B T"], pooling_mode: str
) -> Float[Array, "B D"]:
    """Returns the vectors of texts of one window.

    Args:
      states: The vectors of the tokens, in float32. Those of padding may be anything.
      mask: 1 at the tokens of a text, which precede the padding.
      pooling_mode: One of `POOLING_MODES`.
    """
    states = jnp.where(mask[..., None] > 0, states, 0.0)
    if pooling_mode == "cls":
        return states[:, 0]
    num_tokens = mask.sum(-1)
    if pooling_mode == "lasttoken":
        return jnp.take_along_axis(states, num_tokens[:, None, None] - 1, axis=1)[:, 0]
    weights = mask.astype(states.dtype)
    if pooling_mode == "weightedmean":
        weights *= jnp.arange(1, mask.shape[1] + 1, dtype=states.dtype)
    total = jnp.einsum("bt,btd->bd", weights, states, precision=jax.lax.Precision.HIGHEST)
    return total / jnp.maximum(weights.sum(-1, keepdims=True), 1)
