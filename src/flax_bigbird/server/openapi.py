"""The description of the API, made from the schemas that check the requests."""

from collections.abc import Sequence
from typing import Any

import pydantic
from pydantic.json_schema import models_json_schema

from flax_bigbird._version import __version__
from flax_bigbird.server.errors import STATUS
from flax_bigbird.server.openai_schemas import ModelList, OpenAIError
from flax_bigbird.server.schemas import ErrorResponse, Info
from flax_bigbird.server.service import Endpoint

REFERENCE = "#/components/schemas/{model}"
ERRORS = {
    400: "The body is no JSON.",
    401: "The key is missing or wrong.",
    413: "The request exceeds a limit.",
    422: "A field is missing, unknown, or has a value that is not allowed.",
    STATUS["backend"]: "No model for the task is served, or the computation failed.",
    STATUS["overloaded"]: "Too many requests wait; Retry-After says when to try again.",
    STATUS["unhealthy"]: "The server is not ready, or the request waited too long.",
    STATUS["timeout"]: "The computation took too long.",
}


def description(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Returns the description in the form of OpenAPI 3.1.

    Args:
      endpoints: The endpoints that take a body.
    """
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {
        path: {"get": _operation(path, summary, _schema(response, schemas), None, schemas)}
        for path, summary, response in (
            ("/health", "Returns 200 once the server is ready, and 503 otherwise.", dict[str, str]),
            ("/info", "Returns what is served, and the limits.", Info),
            ("/v1/models", "Returns the served models in the form of OpenAI.", ModelList),
        )
    }
    for endpoint in endpoints:
        response = _schema(endpoint.response, schemas)
        body = _schema(endpoint.request, schemas)
        operation = _operation(endpoint.path, endpoint.summary, response, body, schemas)
        paths[endpoint.path] = {"post": operation}
    paths["/metrics"] = {
        "get": {
            "summary": "Returns the metrics in the text format of Prometheus.",
            "responses": {
                "200": {"description": "The metrics.", "content": {"text/plain": {}}},
            },
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "flax-bigbird", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(
    path: str, summary: str, response: Any, body: Any, schemas: dict[str, Any]
) -> dict[str, Any]:
    error = _schema(OpenAIError if path.startswith("/v1/") else ErrorResponse, schemas)
    operation: dict[str, Any] = {
        "summary": summary,
        "operationId": path.strip("/").replace("/", "_").replace("-", "_"),
        "responses": {
            "200": {
                "description": "The answer.",
                "content": {"application/json": {"schema": response}},
            },
        }
        | {
            str(status): {
                "description": text,
                "content": {"application/json": {"schema": error}},
            }
            for status, text in ERRORS.items()
        },
    }
    if body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": body}},
        }
    return operation


def _schema(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of a type, and adds those that it refers to."""
    if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
        references, definitions = models_json_schema([(kind, "validation")], ref_template=REFERENCE)
        schemas.update(definitions["$defs"])
        return references[kind, "validation"]
    schema = pydantic.TypeAdapter(kind).json_schema(ref_template=REFERENCE)
    schemas.update(schema.pop("$defs", {}))
    return schema
