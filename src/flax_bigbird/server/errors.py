"""What a request can fail with: a status, a kind, and one sentence that names the remedy."""

from typing import Any

STATUS = {
    "validation": 422,
    "tokenizer": 422,
    "backend": 424,
    "overloaded": 429,
    "unhealthy": 503,
    "timeout": 504,
}
"""The status of each kind of error, unless the error has its own."""


class RequestError(Exception):
    """A request that cannot be answered.

    Attributes:
      kind: One of `STATUS`: what text-embeddings-inference calls the type of an error.
      message: One line for the client: the rule, the received value, and the remedy. It never
        holds a path of the server.
      status: The HTTP status.
      retry_after: After how many seconds it is worth to try again, if it is.
      parameter: The field of the request that is wrong, if there is one.
      allow: The methods that the path has, if it is another one's.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        status: int | None = None,
        retry_after: int | None = None,
        parameter: str | None = None,
        allow: str | None = None,
    ):
        super().__init__(message)
        self.kind, self.message = kind, message
        self.status = STATUS[kind] if status is None else status
        self.retry_after = retry_after
        self.parameter = parameter
        self.allow = allow


class ClientDisconnected(Exception):
    """The client closed the connection before its request was answered."""


def too_large(message: str) -> RequestError:
    """Returns the error of a request that exceeds a limit of the server."""
    return RequestError("validation", message, status=413)


def not_found(message: str, parameter: str | None = None) -> RequestError:
    """Returns the error of a request for something that is not served."""
    return RequestError("validation", message, status=404, parameter=parameter)


def error_body(error: RequestError, path: str) -> dict[str, Any]:
    """Returns an error in the form that the clients of an endpoint know.

    Args:
      error: The error.
      path: The path of the request: `/v1/...` has the form of OpenAI, `/generate` that of
        text-generation-inference, and all others have that of text-embeddings-inference.
    """
    if path.startswith("/v1/"):
        types = {"overloaded": "rate_limit_error", "backend": "server_error"}
        types |= {"unhealthy": "server_error", "timeout": "server_error"}
        return {
            "error": {
                "message": error.message,
                "type": types.get(error.kind, "invalid_request_error"),
                "param": error.parameter,
                "code": {401: "invalid_api_key", 404: "not_found"}.get(error.status),
            }
        }
    if path.startswith("/generate"):
        return {"error": error.message, "error_type": error.kind}
    kinds = {"timeout": "Overloaded"}
    return {"error": error.message, "error_type": kinds.get(error.kind, error.kind.capitalize())}
