"""Delivers the tokens of a compiled decoding loop to the caller's streamer."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental import io_callback
from jaxtyping import Array, Bool, Int


class TokenStream:
    """Passes the tokens of one call of `generate` to its streamer.

    The compiled program is shared by many calls and refers to a stream by its id, which is an
    argument of the program. A stream without a streamer has the id 0.

    Args:
      streamer: A function of the new tokens, an object with `put` and `end`, or None.
      num_beams: The number of beams; streaming needs 1.

    Raises:
      ValueError: If the streamer is neither, or if there are several beams.
    """

    _open_streams: dict[int, "TokenStream"] = {}  # noqa: RUF012
    _ids = itertools.count(1)

    def __init__(self, streamer: Any, num_beams: int):
        self.id = next(self._ids) if streamer is not None else 0
        self.error: BaseException | None = None
        self._streamer: Any = streamer
        self._is_object = hasattr(streamer, "put") and hasattr(streamer, "end")
        if streamer is None:
            return
        if num_beams > 1:
            raise ValueError(
                "beam search has no tokens to stream before its end; got a streamer with "
                f"num_beams={num_beams}: leave one of them out"
            )
        if not (self._is_object or callable(streamer)):
            raise ValueError(
                "streamer must be a function of the new tokens, or have put and end; got "
                f"{type(streamer).__name__}"
            )

    def start(self, prompts: Int[Array, "B T"]) -> "TokenStream":
        """Passes the prompts to a streamer that is an object."""
        if self._is_object:
            self._streamer.put(np.asarray(prompts))
        return self

    def __enter__(self) -> "TokenStream":
        if self._streamer is not None:
            self._open_streams[self.id] = self
        return self

    def __exit__(self, *_: Any) -> None:
        self._open_streams.pop(self.id, None)

    def deliver(self, tokens: np.ndarray) -> None:
        """Passes the tokens of one step to the streamer, and keeps the error that it raises."""
        try:
            (self._streamer.put if self._is_object else self._streamer)(tokens)
        except BaseException as error:  # `wait` raises it in the caller's thread
            self.error = error

    def wait(self, result: Array) -> None:
        """Waits until every token has been delivered, and raises what the streamer raised."""
        if self._streamer is None:
            return
        if isinstance(result, Tracer):
            raise ValueError(
                "a streamer has nothing to receive while a function is traced; got one inside "
                "jax.jit (or pmap, vmap): call generate outside, which compiles by itself"
            )
        jax.block_until_ready(result)
        jax.effects_barrier()
        if self.error is not None:
            raise self.error
        if self._is_object:
            self._streamer.end()


def emit_tokens(stream_id: Int[Array, ""], tokens: Int[Array, " B"]) -> Bool[Array, ""]:
    """Delivers tokens from inside a compiled program; returns True if the loop should stop."""
    shape = jax.ShapeDtypeStruct((), jnp.bool_)
    return io_callback(_deliver, shape, stream_id, tokens, ordered=True)


def _deliver(stream_id: Array, tokens: Array) -> np.ndarray:
    stream = TokenStream._open_streams.get(int(stream_id))
    if stream is None:
        return np.array(True)
    stream.deliver(np.asarray(tokens))
    return np.array(stream.error is not None)
