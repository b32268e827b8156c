"""What the endpoints of a server share: its models, its engine, and whether it is ready."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pydantic
from starlette.requests import Request

from flax_bigbird._messages import pluralize
from flax_bigbird.server.engine import Engine
from flax_bigbird.server.errors import RequestError, not_found, too_large
from flax_bigbird.server.metrics import Metrics
from flax_bigbird.server.requests import BodyBudget
from flax_bigbird.server.served_model import ServedModel
from flax_bigbird.server.settings import ServerSettings

logger = logging.getLogger("flax_bigbird.server")

BODIES_IN_MEMORY = 32  # of the maximum size


@dataclass
class Answer:
    """What an endpoint returns.

    Attributes:
      value: The content of the answer, as JSON values; or a response, which is sent as it is.
      model: The model that computed it.
      num_texts: The number of texts of the request.
      num_tokens: The number of tokens that were read.
      num_windows: The number of windows that were read, if the texts were divided into windows.
    """

    value: Any
    model: ServedModel | None = None
    num_texts: int = 1
    num_tokens: int = 0
    num_windows: int = 0

    def headers(self) -> dict[str, str]:
        """Returns the headers that say what was computed."""
        headers = {"x-compute-tokens": str(self.num_tokens)}
        return headers | ({"x-compute-windows": str(self.num_windows)} if self.num_windows else {})


Handler = Callable[["Service", Any, Request], Awaitable[Answer]]


@dataclass(frozen=True)
class Endpoint:
    """An endpoint that takes a JSON body.

    Attributes:
      path: The path.
      summary: One sentence for the description of the API.
      request: The schema of the body.
      response: The type of the answer.
      handler: The function that answers.
      tasks: The tasks of the models that it is for; empty for all.
    """

    path: str
    summary: str
    request: type[pydantic.BaseModel]
    response: Any
    handler: Handler
    tasks: tuple[str, ...] = ()


@dataclass
class Service:
    """The state of a server.

    Attributes:
      settings: The options.
      engine: The engine.
      metrics: The metrics.
      models: The models, in the order in which they were given; empty until they are loaded.
      is_ready: Whether all programs are compiled.
      progress: What the server does before it is ready, for its clients.
    """

    settings: ServerSettings
    engine: Engine
    metrics: Metrics
    models: list[ServedModel] = field(default_factory=list)
    is_ready: bool = False
    progress: str = "the models are being loaded"

    def __post_init__(self) -> None:
        self.bodies = BodyBudget(BODIES_IN_MEMORY * self.settings.max_body_bytes)

    def check_ready(self) -> None:
        """Raises `RequestError` until all programs are compiled, and when the server ends."""
        if self.engine.is_draining:
            raise RequestError("unhealthy", "the server is shutting down", retry_after=1)
        if not self.is_ready:
            raise RequestError("unhealthy", self.progress, retry_after=5)

    def model(self, name: str | None, tasks: Iterable[str] = ()) -> ServedModel:
        """Returns the model of a name, or else the first, among those of some tasks.

        Args:
          name: The name.
          tasks: The tasks; empty for all.

        Raises:
          RequestError: if there is none; 424 if there is no model for the task, as
            text-embeddings-inference does.
        """
        tasks = tuple(tasks)
        fitting = [m for m in self.models if not tasks or m.task_name in tasks]
        if not fitting:
            raise RequestError(
                "backend",
                f"no model for {' or '.join(tasks)} is served; those that are served are for "
                f"{', '.join(sorted({m.task_name for m in self.models}))}",
            )
        if name is None:
            return fitting[0]
        for model in fitting:
            if model.name == name:
                return model
        raise not_found(
            f"model must be one of {', '.join(m.name for m in fitting)}; got another name",
            "model",
        )

    def check_count(self, texts: Sequence[Any], field_name: str = "inputs") -> None:
        """Raises `RequestError` if a request has no texts, or too many."""
        limit = self.settings.max_client_batch_size
        if not texts:
            raise RequestError(
                "validation", f"{field_name} must hold a text; got none", parameter=field_name
            )
        if len(texts) > limit:
            raise too_large(
                f"{field_name} must hold at most {pluralize(limit, 'text')}; got {len(texts)}: "
                "send several requests"
            )

    def check_num_tokens(self, num_tokens: int) -> None:
        """Raises `RequestError` if a text has too many tokens."""
        limit = self.settings.max_input_tokens
        if num_tokens > limit:
            raise too_large(
                f"a text must have at most {limit:,} tokens; got {num_tokens:,}: divide it"
            )


def check_truncation(direction: str | None) -> None:
    """Raises `RequestError` for a direction of truncation other than the right."""
    if direction is not None and direction.lower() != "right":
        raise RequestError(
            "validation",
            f"truncation_direction must be right; got {direction!r}: send the end of the text",
            parameter="truncation_direction",
        )
