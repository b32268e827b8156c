"""Continues texts with a decoder: a compiled loop per bucket of prompts, whose tokens are sent on.

The loop always has room for the server's maximum of new tokens, and is ended from its callback,
so that a request for fewer tokens needs no program of its own, and a client that left stops it.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from flax_bigbird.data.errors import DataError
from flax_bigbird.inference.predictor import Predictor
from flax_bigbird.server.batches import Group
from flax_bigbird.server.engine import Unit
from flax_bigbird.server.errors import RequestError

GREEDY: dict[str, Any] = {"do_sample": False}
# Other values than 1 keep both options in the program, which is then the same for all values.
ALMOST_ONE = 1 - 2.0**-20
COST_PER_NEW_TOKEN = 8  # in tokens that are read


class _StopGeneration(Exception):
    """Ends the compiled loop."""


@dataclasses.dataclass(frozen=True)
class Generation:
    """The continuation of one text.

    Attributes:
      ids: The token ids of the prompt.
      max_new_tokens: The maximum number of tokens to generate.
      sampling: `GREEDY`, or the result of `sampling_options`.
      seed: The seed of sampling.
      on_token: Called with each token id by a thread of the device; returns whether to go on.
    """

    ids: list[int]
    max_new_tokens: int
    sampling: dict[str, Any]
    seed: int
    on_token: Callable[[int], bool]


def sampling_options(temperature: float | None, top_p: float | None) -> dict[str, Any]:
    """Returns the options of sampling, for which there is one program."""
    values = {"temperature": temperature or 1.0, "top_p": top_p or 1.0}
    traced = {name: ALMOST_ONE if value == 1 else value for name, value in values.items()}
    return {"do_sample": True, "top_k": 0} | traced


class Generator:
    """The decoding programs of one model.

    Args:
      name: The name of the model.
      predictor: The model and its task, whose `max_new_tokens` is the maximum of a request.
    """

    def __init__(self, name: str, predictor: Predictor):
        self._task: Any = predictor.task
        self._model = predictor.model
        options = self._task.options
        self.max_new_tokens: int = options.max_new_tokens
        longest = options.length - self.max_new_tokens
        lengths = [length for length in options.bucket_lengths if length < longest]
        self._groups = {
            length: Group(
                ("generate", name, length),
                name,
                length + COST_PER_NEW_TOKEN * self.max_new_tokens,
                (1,),
                functools.partial(_GenerationRun, self, length),
            )
            for length in (*lengths, longest)
        }

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths that prompts are padded to."""
        return tuple(self._groups)

    def compile(self, length: int, sampling: dict[str, Any]) -> None:
        """Compiles the program for prompts of a length, by generating one token."""
        prompt = [self._task.tokenizer.cls_token_id]
        self.run(length, Generation(prompt, 1, sampling, 0, lambda token: False))

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a prompt: the end of a text that is too long.

        Raises:
          RequestError: if the text cannot be used.
        """
        try:
            (window,) = self._task.encode({self._task.options.text_column: text})
        except DataError as error:
            raise RequestError("validation", str(error)) from error
        return window.input_ids

    def unit(self, generation: Generation) -> Unit:
        """Returns the unit of work of a continuation."""
        length = next(n for n in self._groups if n >= len(generation.ids))
        return Unit(self._groups[length], generation)

    def run(self, length: int, generation: Generation) -> list[int]:
        """Returns the new token ids; this occupies the device until the end."""
        tokenizer = self._task.tokenizer
        arrays = self._task.pad(generation.ids, length)
        new_ids: list[int] = []

        def receive(tokens: Any) -> None:
            token = int(np.asarray(tokens).reshape(-1)[0])
            new_ids.append(token)
            goes_on = generation.on_token(token)
            is_last = len(new_ids) >= generation.max_new_tokens or token == tokenizer.sep_token_id
            if is_last or not goes_on:
                raise _StopGeneration

        with contextlib.suppress(_StopGeneration):
            self._model.generate(
                arrays["input_ids"][None],
                attention_mask=arrays["attention_mask"][None],
                prng_key=jax.random.PRNGKey(generation.seed),
                max_new_tokens=self.max_new_tokens,
                eos_token_id=tokenizer.sep_token_id,
                pad_token_id=tokenizer.pad_token_id,
                streamer=receive,
                **generation.sampling,
            )
        return new_ids


class _GenerationRun:
    """A continuation that is being computed; it cannot be passed by others."""

    def __init__(self, generator: Generator, length: int, payloads: list[Generation], size: int):
        del size
        (self._generation,) = payloads
        self._generator, self._length = generator, length
        self._new_ids: list[int] | None = None

    @property
    def is_done(self) -> bool:
        return self._new_ids is not None

    def advance(self) -> None:
        self._new_ids = self._generator.run(self._length, self._generation)

    def outputs(self) -> list[list[int]]:
        assert self._new_ids is not None
        return [self._new_ids]
