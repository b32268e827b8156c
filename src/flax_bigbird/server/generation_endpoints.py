"""The endpoint of decoders, `/generate`, in the forms of text-generation-inference."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

from flax_bigbird.data.json_output import to_json
from flax_bigbird.server.errors import RequestError, error_body, too_large
from flax_bigbird.server.generation import GREEDY, Generation, Generator, sampling_options
from flax_bigbird.server.served_model import ServedModel
from flax_bigbird.server.service import Answer, Endpoint, Service
from flax_bigbird.server.task_schemas import (
    GenerateParameters,
    GenerateRequest,
    GenerateResponse,
)

PATH = "/generate"
DEFAULT_NEW_TOKENS = 64
UNFINISHED = "\ufffd"  # what a part of a character decodes to


class Continuation:
    """One continuation: its tokens as they are generated, and their text.

    Args:
      service: The server.
      model: The model.
      ids: The token ids of the prompt.
      parameters: The parameters of the request.
    """

    def __init__(
        self, service: Service, model: ServedModel, ids: list[int], parameters: GenerateParameters
    ):
        assert model.generator is not None
        self._service, self._model = service, model
        self._generator: Generator = model.generator
        self.seed = secrets.randbits(31) if parameters.seed is None else parameters.seed
        self._stops = parameters.stop or []
        self.text, self.num_tokens, self.finish_reason = "", 0, "length"
        self._ids: list[int] = []
        self._queue: asyncio.Queue[int | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._is_stopped = False
        new_tokens = _new_tokens(parameters, self._generator)
        sampling = _sampling(parameters)
        self._generation = Generation(ids, new_tokens, sampling, self.seed, self._on_token)

    def _on_token(self, token: int) -> bool:
        """Called by a thread of the device."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, token)
        return not self._is_stopped

    async def tokens(self) -> AsyncIterator[tuple[int, str]]:
        """Yields each token, and the text that it adds.

        Raises:
          RequestError: if the computation fails or takes too long.
        """
        units = [self._generator.unit(self._generation)]
        work = asyncio.ensure_future(self._service.engine.compute(units))
        work.add_done_callback(lambda _: self._queue.put_nowait(None))
        try:
            while (token := await self._queue.get()) is not None:
                if self._is_stopped:
                    continue
                yield token, self._add(token)
            if not self._is_stopped:
                await work
        finally:
            self._is_stopped = True
            work.cancel()

    def _add(self, token: int) -> str:
        """Adds a token, and returns the new text."""
        self.num_tokens += 1
        tokenizer = self._model.tokenizer
        if token == tokenizer.sep_token_id:
            self.finish_reason = "eos_token"
        self._ids.append(token)
        text: str = tokenizer.decode(self._ids, skip_special_tokens=True)
        stop = next((stop for stop in self._stops if stop in text), None)
        if stop is not None:
            text = text[: text.index(stop) + len(stop)]
            self.finish_reason, self._is_stopped = "stop_sequence", True
        elif text.endswith(UNFINISHED) or not text.startswith(self.text):
            return ""
        added = text[len(self.text) :] if text.startswith(self.text) else ""
        self.text = text
        return added

    def finish(self) -> str:
        """Returns the whole text, with what was still unfinished."""
        if self.finish_reason != "stop_sequence":
            text: Any = self._model.tokenizer.decode(self._ids, skip_special_tokens=True)
            self.text = text
        return self.text

    def details(self) -> dict[str, Any]:
        """Returns how the continuation ended."""
        return {
            "finish_reason": self.finish_reason,
            "generated_tokens": self.num_tokens,
            "seed": self.seed,
        }


async def generate(service: Service, body: GenerateRequest, request: Request) -> Answer:
    """Continues a text."""
    model = service.model(body.model, ("causal-lm",))
    assert model.generator is not None
    parameters = body.parameters or GenerateParameters()
    prompt = body.inputs if parameters.return_full_text else ""
    ids = await service.engine.in_pool(model.generator.encode, body.inputs)
    continuation = Continuation(service, model, ids, parameters)
    if body.stream:
        events = _events(continuation, model, prompt)
        response = StreamingResponse(events, media_type="text/event-stream")
        return Answer(response, model, 1, len(ids))
    async for _ in continuation.tokens():
        pass
    value: dict[str, Any] = {"generated_text": prompt + continuation.finish()}
    if parameters.details:
        value["details"] = continuation.details() | {"prefill": [], "tokens": []}
    return Answer(value, model, 1, len(ids))


async def _events(
    continuation: Continuation, model: ServedModel, prompt: str
) -> AsyncIterator[str]:
    """Yields a server-sent event per token; the last one has the whole text."""
    special = set(model.tokenizer.all_special_ids)
    pending: dict[str, Any] | None = None
    index = 0
    try:
        async for token, text in continuation.tokens():
            if pending is not None:
                yield _event(pending)
            index += 1
            pending = {
                "index": index,
                "token": {"id": token, "text": text, "logprob": None, "special": token in special},
                "generated_text": None,
                "details": None,
            }
    except RequestError as error:
        yield _event(error_body(error, PATH))
        return
    if pending is not None:
        whole = prompt + continuation.finish()
        yield _event(pending | {"generated_text": whole, "details": continuation.details()})


def _event(value: dict[str, Any]) -> str:
    return f"data: {to_json(value)}\n\n"


def _new_tokens(parameters: GenerateParameters, generator: Generator) -> int:
    given = parameters.max_new_tokens
    if given is not None and given > generator.max_new_tokens:
        raise too_large(
            f"max_new_tokens must be at most {generator.max_new_tokens}; got {given}: lower it"
        )
    return given or min(DEFAULT_NEW_TOKENS, generator.max_new_tokens)


def _sampling(parameters: GenerateParameters) -> dict[str, Any]:
    values = (parameters.temperature, parameters.top_p)
    is_sampled = parameters.do_sample
    if is_sampled is None:
        is_sampled = any(value is not None for value in values)
    if not is_sampled and any(value is not None for value in values):
        raise RequestError(
            "validation", "temperature and top_p belong to sampling; got do_sample=false"
        )
    return sampling_options(*values) if is_sampled else GREEDY


ENDPOINTS = (
    Endpoint(
        PATH,
        "Continues a text; with stream, as server-sent events.",
        GenerateRequest,
        GenerateResponse,
        generate,
        ("causal-lm",),
    ),
)
