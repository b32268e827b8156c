"""Reads and checks the body of a request, within the server's limits of size and time."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar, get_args

import pydantic
from starlette.requests import Request

from flax_bigbird.server.errors import ClientDisconnected, RequestError, too_large
from flax_bigbird.server.settings import ServerSettings

T = TypeVar("T")
BodyT = TypeVar("BodyT", bound=pydantic.BaseModel)

MAX_DETAIL = 200  # characters of a description of what is wrong
MAX_ERRORS = 1000  # that are described; a body of a few megabytes may have a million


class BodyBudget:
    """Limits how many bytes the bodies of all requests have that are read or worked on.

    Args:
      max_bytes: The limit.
    """

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._num_bytes = 0

    @contextlib.contextmanager
    def of_request(self) -> Iterator[Callable[[int], None]]:
        """Yields a function that counts bytes of a request, which count until the block ends.

        Raises:
          RequestError: from that function, if there are too many.
        """
        own = 0

        def take(num_bytes: int) -> None:
            nonlocal own
            if self._num_bytes + num_bytes > self._max_bytes:
                raise RequestError(
                    "overloaded", "the server works on too many large requests", retry_after=1
                )
            self._num_bytes += num_bytes
            own += num_bytes

        try:
            yield take
        finally:
            self._num_bytes -= own


async def read_body(
    request: Request, settings: ServerSettings, take: Callable[[int], None]
) -> bytes:
    """Returns the body of a request.

    Args:
      request: The request.
      settings: The limits of size and time.
      take: Counts the bytes that arrive, see `BodyBudget.of_request`.

    Raises:
      RequestError: if it is no JSON, too large, or too slow.
      ClientDisconnected: if the client left.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise RequestError(
            "validation", "the Content-Type must be application/json: send JSON", status=415
        )
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise RequestError(
            "validation", "the body must have no Content-Encoding: send it plain", status=415
        )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > settings.max_body_bytes:
        raise _body_too_large(settings)
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnected
                part = message.get("body", b"")
                if len(body) + len(part) > settings.max_body_bytes:
                    raise _body_too_large(settings)
                take(len(part))
                body += part
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise RequestError(
            "validation",
            f"the body must arrive within {settings.body_timeout:g} s",
            status=408,
        ) from None


def parse_body(schema: type[BodyT], body: bytes) -> BodyT:
    """Returns the request that a body holds.

    Raises:
      RequestError: if it is malformed (400), or has wrong fields, types or values (422).
    """
    try:
        return schema.model_validate_json(body)
    except pydantic.ValidationError as error:
        if (count := error.error_count()) > MAX_ERRORS:
            raise RequestError(
                "validation",
                f"the body must have the fields that /openapi.json lists; got {count:,} that are "
                "wrong: send those of the endpoint",
            ) from None
        errors = error.errors(include_url=False, include_input=False, include_context=False)
        if errors[0]["type"] == "json_invalid":
            detail = f"the body must be JSON: {errors[0]['msg'][:MAX_DETAIL]}"
            raise RequestError("validation", detail, status=400) from None
        field = _field(schema, errors[0]["loc"])
        # Each kind of value that a field may have has its own error.
        own = [e["msg"] for e in errors if _field(schema, e["loc"]) == field]
        detail = ", or: ".join(dict.fromkeys(own))[:MAX_DETAIL]
        name = field or "the body"
        raise RequestError("validation", f"{name}: {detail}", parameter=name) from None


def _field(schema: Any, location: Sequence[int | str]) -> str:
    """Returns the name of a field such as `parameters.top_k`, without the types of its value."""
    names: list[str] = []
    for part in location:
        if schema is None:
            break
        names.append(str(part)[:40])
        field = schema.model_fields.get(part)
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))
        classes = (kind for kind in kinds if isinstance(kind, type))
        schema = next((c for c in classes if issubclass(c, pydantic.BaseModel)), None)
    return ".".join(names)


async def run_while_connected(request: Request, work: Awaitable[T]) -> T:
    """Returns the result of work, which is cancelled if the client leaves.

    Raises:
      ClientDisconnected: if the client left.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected
        return task.result()
    finally:
        for unfinished in (task, watcher):
            unfinished.cancel()


async def _wait_for_disconnect(request: Request) -> Any:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _body_too_large(settings: ServerSettings) -> RequestError:
    return too_large(f"the body must have at most {settings.max_body_bytes:,} bytes: divide it")
