"""The interface between the decoding loops and a model."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int


class Decoder(NamedTuple):
    """The functions that a decoding loop calls; `State` is any pytree (cache, positions, masks).

    Attributes:
      prefill: `() -> (scores [B, V], State)`; processes the prompts.
      step: `(State, tokens [B]) -> (scores [B, V], State)`; processes one more token per example.
      repeat: `(State, n) -> State`; repeats each example n times, side by side.
      reorder: `(State, rows [B]) -> State`; continues from other rows, each of which must be a copy
        of the same example.
    """

    prefill: Callable[[], tuple[Float[Array, "B V"], Any]]
    step: Callable[[Any, Int[Array, " B"]], tuple[Float[Array, "B V"], Any]]
    repeat: Callable[[Any, int], Any]
    reorder: Callable[[Any, Int[Array, " B"]], Any]


class Prompt(NamedTuple):
    """Left-padded prompts.

    Attributes:
      tokens: The token ids.
      first_slot: The slot of the first real token of each prompt.
      max_new_tokens: The number of tokens to generate, which `DecodingOptions.max_slots` bounds.
    """

    tokens: Int[Array, "B P"]
    first_slot: Int[Array, " B"]
    max_new_tokens: Int[Array, ""]


Emit = Callable[[Int[Array, " B"]], Bool[Array, ""]]
"""Passes new tokens to the caller's streamer; returns True if the loop should stop."""
