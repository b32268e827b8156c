"""The endpoints about the server itself: health, information, metrics, and tokenization."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from flax_bigbird._version import __version__
from flax_bigbird.data.json_output import to_json
from flax_bigbird.inference.token_lists import list_tokens
from flax_bigbird.server.errors import RequestError, too_large
from flax_bigbird.server.loading import batch_tokens
from flax_bigbird.server.schemas import TokenizeRequest, TokenizeResponse
from flax_bigbird.server.served_model import ServedModel
from flax_bigbird.server.service import Answer, Endpoint, Service


def json_response(value: Any) -> Response:
    """Returns a value as a JSON response."""
    return Response(to_json(value), media_type="application/json")


def health(service: Service) -> Response:
    """Returns 200 once all programs are compiled, and 503 before and during the shutdown."""
    service.check_ready()
    return json_response({"status": "ready"})


def info(service: Service) -> Response:
    """Returns what is served, and the limits."""
    service.check_ready()
    first, settings = service.models[0], service.settings
    return json_response(
        {
            "model_id": first.name,
            "model_sha": None,
            "model_dtype": first.dtype,
            "model_type": model_type(first),
            "max_concurrent_requests": settings.max_concurrent_requests,
            "max_input_length": settings.max_input_tokens,
            "max_batch_tokens": batch_tokens(settings),
            "max_batch_requests": None,
            "max_client_batch_size": settings.max_client_batch_size,
            "auto_truncate": False,
            "tokenization_workers": settings.num_tokenization_workers,
            "version": __version__,
            "sha": None,
            "docker_label": None,
            "models": [_model_info(model) for model in service.models],
        }
    )


def models(service: Service) -> Response:
    """Returns the served models in the form of OpenAI."""
    service.check_ready()
    names = dict.fromkeys(model.name for model in service.models)
    return json_response(
        {
            "object": "list",
            "data": [
                {"id": name, "object": "model", "created": 0, "owned_by": "flax-bigbird"}
                for name in names
            ],
        }
    )


def metrics(service: Service) -> Response:
    """Returns the metrics in the text format of Prometheus."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def model_type(model: ServedModel) -> dict[str, Any]:
    """Returns the type of a model in the form of text-embeddings-inference."""
    task: Any = model.task
    if model.task_name == "embedding":
        return {"embedding": {"pooling": task.pooling_mode}}
    names = getattr(task, "label_names", None)
    if model.task_name == "sequence-classification":
        return {
            "classifier": {
                "id2label": {str(index): name for index, name in enumerate(names or ())},
                "label2id": {name: index for index, name in enumerate(names or ())},
            }
        }
    if model.task_name == "reranking":
        return {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}
    return {model.task_name: {}}


def _model_info(model: ServedModel) -> dict[str, Any]:
    task: Any = model.task
    return {
        "name": model.name,
        "task": model.task_name,
        "max_input_length": task.options.length,
        "embedding_dimension": getattr(task, "dimension", None),
        "labels": getattr(task, "label_names", None),
        "num_layers": task.config.num_hidden_layers,
        "num_heads": task.config.num_attention_heads,
        "block_size": task.config.block_size,
        "can_show_attention": model.attention is not None,
    }


async def tokenize(service: Service, body: TokenizeRequest, request: Request) -> Answer:
    """Returns the tokens of each text."""
    model = service.model(body.model)
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    service.check_count(texts)
    prompt = ""
    if body.prompt_name is not None:
        if model.task_name != "embedding":
            raise RequestError(
                "validation",
                f"prompt_name belongs to embedding models; got it for {model.name}",
                parameter="prompt_name",
            )
        prompt = model.with_options(prompt_name=body.prompt_name).prompt
    limit, total = service.settings.max_queue_tokens, 0

    def check_count(num_tokens: int) -> None:
        nonlocal total
        service.check_num_tokens(num_tokens)
        total += num_tokens
        if total > limit:
            raise too_large(f"a request must have at most {limit:,} tokens; got more: divide it")

    tokens = await service.engine.in_pool(
        list_tokens,
        model.tokenizer,
        [prompt + text for text in texts],
        body.add_special_tokens,
        check_count,
    )
    return Answer(tokens, model, len(texts), sum(map(len, tokens)))


ENDPOINTS = (
    Endpoint(
        "/tokenize",
        "Returns the tokens of each text.",
        TokenizeRequest,
        TokenizeResponse,
        tokenize,
    ),
)
