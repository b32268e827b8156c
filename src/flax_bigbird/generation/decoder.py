"""What the loops need of a model: a prompt's scores, and those after each further token."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from jaxtyping import Array, Float, Int


class Decoder(NamedTuple):
    """Functions of one compiled program; `State` is any pytree (cache, positions, masks).

    Attributes:
      prefill: `() -> (scores [B, V], State)` after the prompt.
      step: `(State, tokens [B]) -> (scores [B, V], State)` after one more token.
      repeat: `(State, n) -> State` with each document n times, side by side.
      reorder: `(State, rows [B]) -> State` that goes on from those rows, which must be copies of
        the same document.
    """

    prefill: Callable[[], tuple[Float[Array, "B V"], Any]]
    step: Callable[[Any, Int[Array, " B"]], tuple[Float[Array, "B V"], Any]]
    repeat: Callable[[Any, int], Any]
    reorder: Callable[[Any, Int[Array, " B"]], Any]


class Prompt(NamedTuple):
    """A prompt whose real tokens stand against the right end.

    Attributes:
      tokens: `[B, P]`.
      first: `[B]`, slot of the first real token.
      limit: tokens to generate at most, at most `Options.room`.
    """

    tokens: Int[Array, "B P"]
    first: Int[Array, " B"]
    limit: Int[Array, ""]


class Emit(Protocol):
    """Hands new tokens to the caller's stream; True asks to stop."""

    def __call__(self, tokens: Int[Array, " B"]) -> Array: ...
