"""The endpoint that shows what a model reads: `/attention`."""

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from flax_bigbird._messages import pluralize
from flax_bigbird.inference.attention_lists import Layout, block_lists, token_lists
from flax_bigbird.inference.token_lists import Token, token_windows
from flax_bigbird.server.errors import RequestError
from flax_bigbird.server.served_model import ServedModel
from flax_bigbird.server.service import Answer, Endpoint, Service
from flax_bigbird.server.task_schemas import AttentionRequest, AttentionResponse


async def attention(service: Service, body: AttentionRequest, request: Request) -> Answer:
    """Returns what a token reads and what reads it, or what the blocks of a layer read."""
    model = _encoder(service, body.model)
    assert model.attention is not None
    windows, num_tokens = await service.engine.in_pool(_windows, service, model, body)
    tokens = windows[body.window]
    position = _position(body, tokens)
    config = model.task.config
    last = config.num_hidden_layers - 1
    layers = body.layers or ([last] if position is None else range(last + 1))
    heads = body.heads or range(config.num_attention_heads)
    _check_indices("layers", layers, config.num_hidden_layers)
    _check_indices("heads", heads, config.num_attention_heads)
    if body.average_heads and body.heads is not None:
        raise RequestError("validation", "average_heads is of all heads: leave out heads")
    heads = None if body.average_heads else heads
    ids = [token["id"] for token in tokens]
    unit = await model.attention.unit(service.engine, ids, position)
    with service.engine.time_limit():  # in which the compilation of the program does not count
        (outputs,) = await service.engine.compute([unit])
        length = model.task.options.bucket_length(len(ids))
        layout = Layout(model.predictor.model.sparsity, len(ids), length)
        in_pool = service.engine.in_pool
        if position is None:
            listed = await in_pool(block_lists, outputs["blocks"], layout, layers, heads)
        else:
            of_token = outputs, layout, position, len(ids), layers, heads, body.top_k
            listed = await in_pool(token_lists, *of_token)
    value: dict[str, Any] = {
        "num_tokens": len(ids),
        "num_unread_tokens": num_tokens - sum(token["start"] is not None for token in tokens),
        "num_windows": len(windows),
        "window": body.window,
        "block_size": layout.size,
        "num_blocks": layout.num_blocks,
        "position": position,
        "tokens": tokens if body.include_tokens else None,
        "layers": listed,
    }
    return Answer(value, model, 1, len(ids), len(windows))


def _encoder(service: Service, name: str | None) -> ServedModel:
    """Returns a model whose attention can be shown.

    Raises:
      RequestError: if there is none.
    """
    if name is None:
        for model in service.models:
            if model.attention is not None:
                return model
    model = service.model(name)
    if model.attention is None:
        raise RequestError(
            "backend", f"the attention of encoders can be shown; {model.name} is none"
        )
    return model


def _windows(
    service: Service, model: ServedModel, body: AttentionRequest
) -> tuple[list[list[Token]], int]:
    """Returns the tokens of the windows of a text, and the number of tokens of the text.

    Raises:
      RequestError: if the text has too many tokens, or no window of that index.
    """
    windows, num_tokens = token_windows(
        model.tokenizer,
        body.inputs,
        body.query,
        model.task.options.length,
        service.check_num_tokens,
    )
    _check_indices("window", [body.window], len(windows))
    return windows, num_tokens


def _position(body: AttentionRequest, tokens: list[Any]) -> int | None:
    """Returns the position of the token that a request names; None if it names none.

    Raises:
      RequestError: if the text has no such token.
    """
    if body.position is not None and body.character is not None:
        raise RequestError("validation", "give position or character, not both")
    if body.character is not None:
        for index, token in enumerate(tokens):
            if token["start"] is not None and token["start"] <= body.character < token["stop"]:
                return index
        raise RequestError(
            "validation",
            f"character must be one of a token that is read; got {body.character}",
            parameter="character",
        )
    if body.position is not None and body.position >= len(tokens):
        raise RequestError(
            "validation",
            "position must be below the "
            f"{pluralize(len(tokens), 'token that is read', 'tokens that are read')}; got "
            f"{body.position:,}",
            parameter="position",
        )
    return body.position


def _check_indices(name: str, indices: Sequence[int], count: int) -> None:
    wrong = [index for index in indices if not 0 <= index < count]
    if wrong:
        raise RequestError(
            "validation", f"{name} must lie in 0..{count - 1}; got {wrong[0]}", parameter=name
        )
    if len(set(indices)) < len(indices):
        raise RequestError(
            "validation", f"{name} must differ; got one of them twice", parameter=name
        )


ENDPOINTS = (
    Endpoint(
        "/attention",
        "Returns what a token reads and what reads it, or what the blocks of a layer read.",
        AttentionRequest,
        AttentionResponse,
        attention,
    ),
)
