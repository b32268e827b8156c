"""The ASGI application: the endpoints, behind the checks of `SecurityMiddleware`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic_core
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from flax_bigbird.server import (
    attention_endpoints,
    classification_endpoints,
    embedding_endpoints,
    generation_endpoints,
    operations,
    ranking_endpoints,
    text_endpoints,
)
from flax_bigbird.server.errors import RequestError, not_found
from flax_bigbird.server.openapi import description
from flax_bigbird.server.requests import parse_body, read_body, run_while_connected
from flax_bigbird.server.security import SecurityMiddleware
from flax_bigbird.server.service import Answer, Endpoint, Service

PAGE = Path(__file__).parent / "page"
PAGE_FILES = frozenset(
    f"/{file.relative_to(PAGE).as_posix()}" for file in PAGE.rglob("*") if file.is_file()
)

ENDPOINTS: tuple[Endpoint, ...] = (
    *embedding_endpoints.ENDPOINTS,
    *classification_endpoints.ENDPOINTS,
    *ranking_endpoints.ENDPOINTS,
    *text_endpoints.ENDPOINTS,
    *generation_endpoints.ENDPOINTS,
    *attention_endpoints.ENDPOINTS,
    *operations.ENDPOINTS,
)
OPERATIONS: dict[str, Callable[[Service], Response]] = {
    "/health": operations.health,
    "/info": operations.info,
    "/v1/models": operations.models,
    "/metrics": operations.metrics,
}
OPENAPI = "/openapi.json"
METHODS: dict[str, str] = (
    dict.fromkeys((endpoint.path for endpoint in ENDPOINTS), "POST")
    | dict.fromkeys((*OPERATIONS, OPENAPI, *PAGE_FILES), "GET, HEAD")
    | {"/": "GET, HEAD, POST"}
)
"""The methods of every path."""

NEEDS_NO_KEY = frozenset({"/health"})


class Application:
    """Routes requests to the endpoints, and says of which errors are not theirs."""

    def __init__(self, service: Service):
        endpoints = {endpoint.path: PostEndpoint(service, endpoint) for endpoint in ENDPOINTS}
        routes: list[Any] = [
            Route(path, endpoint, methods=["POST"]) for path, endpoint in endpoints.items()
        ]
        routes += [Route(path, _get(service, get)) for path, get in OPERATIONS.items()]
        document = operations.json_response(description(ENDPOINTS))
        routes.append(Route(OPENAPI, _constant(document)))
        routes.append(Route("/", RootEndpoint(service, endpoints), methods=["POST"]))
        if PAGE.is_dir():
            routes.append(Mount("/", StaticFiles(directory=PAGE, html=True)))
        self._router = Router(routes, default=_no_such_path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # then the router raises its errors instead of answering them
        try:
            await self._router(scope, receive, send)
        except HTTPException as error:
            raise _refusal(scope["path"], error.status_code) from error


def create_app(service: Service) -> ASGIApp:
    """Returns the application of a server.

    Args:
      service: Its models and its engine.
    """
    return SecurityMiddleware(
        Application(service),
        service.settings,
        service.metrics,
        frozenset(METHODS.keys() - PAGE_FILES),
        NEEDS_NO_KEY,
        PAGE_FILES | {"/"},
    )


class PostEndpoint:
    """An endpoint that takes a JSON body, as an ASGI application.

    The request counts as worked on until its answer is sent, streams included.

    Args:
      service: The server.
      endpoint: What is answered.
    """

    def __init__(self, service: Service, endpoint: Endpoint):
        self._service, self._endpoint = service, endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, request = self._service, Request(scope, receive)
        service.check_ready()
        with service.engine.admitted(), service.bodies.of_request() as take:
            content = await read_body(request, service.settings, take)
            body = parse_body(self._endpoint.request, content)
            size = len(content)
            del content
            with service.engine.time_limit():
                work = self._endpoint.handler(service, body, request)
                result = await run_while_connected(request, work)
                scope.setdefault("state", {})["log"] = self._log(result, size)
                response = result.value
                if not isinstance(response, Response):
                    encoded = await service.engine.in_pool(pydantic_core.to_json, response)
                    response = Response(
                        encoded, headers=result.headers(), media_type="application/json"
                    )
                await response(scope, receive, send)

    def _log(self, result: Answer, num_bytes: int) -> dict[str, Any]:
        """Returns the fields of a request in the log, and counts its tokens."""
        log = {"bytes_in": num_bytes, "texts": result.num_texts, "tokens": result.num_tokens}
        if result.model is None:
            return log
        name = result.model.name
        self._service.metrics.request_tokens.labels(name).observe(result.num_tokens)
        return log | {"model": name}


def _get(service: Service, function: Callable[[Service], Response]) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        return function(service)

    return answer


def _constant(response: Response) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        return response

    return answer


class RootEndpoint:
    """Answers at the root for the task of the first model.

    The Hugging Face Inference API has one path per model.
    """

    def __init__(self, service: Service, endpoints: dict[str, PostEndpoint]):
        self._service, self._endpoints = service, endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._service.check_ready()
        task = self._service.models[0].task_name
        path = next(endpoint.path for endpoint in ENDPOINTS if task in endpoint.tasks)
        await self._endpoints[path](scope, receive, send)


async def _no_such_path(scope: Scope, receive: Receive, send: Send) -> None:
    raise HTTPException(404)


def _refusal(path: str, status: int) -> RequestError:
    """Returns the error of a request that no endpoint and no file of the page answers."""
    if status not in (404, 405):
        return RequestError("validation", "the request cannot be answered", status=status)
    if path not in METHODS:
        return not_found("there is no such path")
    allowed = METHODS[path]
    message = f"the method of {path} must be {allowed}"
    return RequestError("validation", message, status=405, allow=allowed)
