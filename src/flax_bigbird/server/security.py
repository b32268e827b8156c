"""The outermost layer: keys, hosts, origins, headers of answers, and one log line per request.

Whatever goes wrong inside is answered here, in the form that the clients of the endpoint know.
"""

import hashlib
import hmac
import logging
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flax_bigbird.data.json_output import to_json
from flax_bigbird.server.errors import ClientDisconnected, RequestError, error_body
from flax_bigbird.server.logs import describe
from flax_bigbird.server.metrics import Metrics
from flax_bigbird.server.settings import ServerSettings

logger = logging.getLogger("flax_bigbird.server")

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; "
    "frame-ancestors 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
MAX_HEAD_BYTES, MAX_HEADERS = 32 * 1024, 100
CLIENT_CLOSED_REQUEST = 499  # of nginx, for the log; nobody receives it
CORS_METHODS, CORS_HEADERS, CORS_SECONDS = "GET, POST", "authorization, content-type", "600"


class Keys:
    """The API keys, which are compared in a time that does not depend on what is sent."""

    def __init__(self, keys: Sequence[str]):
        self._digests = [self._digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accept(self, authorization: str) -> bool:
        """Returns whether a header `Authorization: Bearer KEY` has one of the keys."""
        scheme, _, key = authorization.partition(" ")
        sent = self._digest(key.strip())
        matches = [hmac.compare_digest(sent, digest) for digest in self._digests]
        return scheme.lower() == "bearer" and any(matches)

    @staticmethod
    def _digest(key: str) -> bytes:
        return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class SecurityMiddleware:
    """Checks requests before the application sees them, and finishes every answer.

    Args:
      app: The application.
      settings: The options of the server.
      metrics: The metrics.
      paths: The paths of the application; all others count as one in metrics and the log.
      open_paths: The paths that need no key.
      page_paths: The files of the page, which may be read without a key.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        metrics: Metrics,
        paths: frozenset[str],
        open_paths: frozenset[str],
        page_paths: frozenset[str],
    ):
        self._app, self._settings, self._metrics = app, settings, metrics
        self._paths, self._open_paths, self._page_paths = paths, open_paths, page_paths
        self._keys = Keys(settings.api_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = _origin_form(scope)
        exchange = _Exchange(self, scope, send)
        try:
            if (preflight := self._check(scope)) is not None:
                await preflight(scope, receive, exchange.send)
            else:
                await self._app(scope, receive, exchange.send)
        except RequestError as error:
            await exchange.send_error(error, receive)
        except ClientDisconnected:
            exchange.status = CLIENT_CLOSED_REQUEST
        except Exception as error:
            logger.error("a request failed", extra={"fields": describe(error)})
            failure = RequestError("backend", "the server failed; see its log", status=500)
            await exchange.send_error(failure, receive)
        finally:
            self._record(scope, exchange)

    def _check(self, scope: Scope) -> Response | None:
        """Returns the answer to a preflight request; None if the application is to answer.

        Raises:
          RequestError: if the head is too large, or the host or the key is not allowed.
        """
        headers = Headers(scope=scope)
        head = len(scope["raw_path"]) + len(scope["query_string"])
        head += sum(len(name) + len(value) for name, value in headers.raw)
        if head > MAX_HEAD_BYTES or len(headers.raw) > MAX_HEADERS:
            raise RequestError(
                "validation",
                f"the head must have at most {MAX_HEAD_BYTES:,} bytes and {MAX_HEADERS} fields",
                status=431,
            )
        host = headers.get("host", "").rpartition("@")[2]
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if self._settings.hosts and name.lower() not in self._settings.hosts:
            raise RequestError(
                "validation", "the Host must be one that the server is for", status=421
            )
        if _has_two_lengths(headers):
            raise RequestError(  # proxies may read it as another request
                "validation",
                "the head must have Content-Length or Transfer-Encoding, not both",
                status=400,
            )
        if scope["method"] == "OPTIONS" and self.allowed_origin(scope) is not None:
            return Response(
                status_code=204,
                headers={
                    "access-control-allow-methods": CORS_METHODS,
                    "access-control-allow-headers": CORS_HEADERS,
                    "access-control-max-age": CORS_SECONDS,
                },
            )
        if self._needs_key(scope) and not self._keys.accept(headers.get("authorization", "")):
            raise RequestError(
                "validation",
                "the request must have a valid key: Authorization: Bearer KEY",
                status=401,
            )
        return None

    def _needs_key(self, scope: Scope) -> bool:
        if not self._keys or scope["path"] in self._open_paths:
            return False
        return scope["method"] not in ("GET", "HEAD") or scope["path"] not in self._page_paths

    def allowed_origin(self, scope: Scope) -> str | None:
        """Returns the origin of a request if its pages may read the answer."""
        origin = Headers(scope=scope).get("origin")
        allowed = self._settings.cors_origin
        return origin if origin and (origin in allowed or "*" in allowed) else None

    def path_label(self, scope: Scope) -> str:
        """Returns the path of a request, or "other" for a path that is not served."""
        return scope["path"] if scope["path"] in self._paths else "other"

    def _record(self, scope: Scope, exchange: "_Exchange") -> None:
        seconds = time.monotonic() - exchange.begun
        path = self.path_label(scope)
        self._metrics.requests.labels(path, exchange.status).inc()
        self._metrics.request_seconds.labels(path).observe(seconds)
        fields: dict[str, Any] = {
            "method": scope["method"] if scope["method"] in ("GET", "POST") else "other",
            "path": path,
            "status": exchange.status,
            "seconds": round(seconds, 4),
            "bytes_out": exchange.num_bytes,
        } | scope.get("state", {}).get("log", {})
        if path not in ("/health", "/metrics"):
            logger.info("request", extra={"fields": fields})


def _has_two_lengths(headers: Headers) -> bool:
    return "content-length" in headers and "transfer-encoding" in headers


def _origin_form(scope: Scope) -> Scope:
    """Returns a request for `http://host/path` as one for `/path` at that host, as HTTP demands."""
    if scope["raw_path"].startswith(b"/"):
        return scope
    try:
        target = urlsplit(scope["raw_path"].decode("latin-1"))
    except ValueError:  # no valid host
        return scope
    if target.scheme not in ("http", "https") or not target.netloc:
        return scope
    headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
    headers.append((b"host", target.netloc.encode("latin-1")))
    path = target.path or "/"
    return {
        **scope,
        "path": unquote(path),
        "raw_path": path.encode("latin-1"),
        "headers": headers,
    }


class _Exchange:
    """Sends one answer, with the headers that all answers have."""

    def __init__(self, security: SecurityMiddleware, scope: Scope, send: Send):
        self.begun = time.monotonic()
        self.status, self.num_bytes = 0, 0
        self._security, self._scope, self._send = security, scope, send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            if self._security.path_label(self._scope) != "other":
                headers.setdefault("cache-control", "no-store")
            origin = self._security.allowed_origin(self._scope)
            if origin is not None:
                headers["access-control-allow-origin"] = origin
                headers["cross-origin-resource-policy"] = "cross-origin"
                headers.add_vary_header("Origin")
        else:
            self.num_bytes += len(message.get("body", b""))
        await self._send(message)

    async def send_error(self, error: RequestError, receive: Receive) -> None:
        """Sends an error, unless an answer has begun already."""
        if self.status:
            raise error
        headers = {"content-type": "application/json"}
        if error.retry_after is not None:
            headers["retry-after"] = str(error.retry_after)
        if error.allow is not None:
            headers["allow"] = error.allow
        if error.status == 401:
            headers["www-authenticate"] = "Bearer"
        if error.status in (408, 413) or _has_two_lengths(Headers(scope=self._scope)):
            headers["connection"] = "close"  # what follows is not read
        body = to_json(error_body(error, self._scope["path"]))
        response = Response(body, error.status, headers)
        await response(self._scope, receive, self.send)
