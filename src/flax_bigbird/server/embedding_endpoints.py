"""The endpoints of embedding models: `/embed`, `/similarity` and OpenAI's `/v1/embeddings`."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.requests import Request

from flax_bigbird.inference.similarity import similarities
from flax_bigbird.server.openai_schemas import EmbeddingList, EmbeddingsRequest
from flax_bigbird.server.schemas import (
    EmbedRequest,
    EmbedResponse,
    SimilarityParameters,
    SimilarityRequest,
    SimilarityResponse,
)
from flax_bigbird.server.served_model import Answers, ServedModel
from flax_bigbird.server.service import Answer, Endpoint, Service, check_truncation

TASKS = ("embedding",)


async def embed(service: Service, body: EmbedRequest, request: Request) -> Answer:
    """Returns the vector of each text."""
    check_truncation(body.truncation_direction)
    model = service.model(body.model, TASKS)
    texts = _as_list(body.inputs)
    answers = await _vectors(
        service,
        model,
        texts,
        normalize=body.normalize is not False,
        prompt_name=body.prompt_name,
        truncate=body.truncate,
        dimensions=body.dimensions,
    )
    vectors = [answer["vector"].tolist() for answer in answers.answers]
    return Answer(vectors, model, len(texts), answers.num_tokens)


async def similarity(service: Service, body: SimilarityRequest, request: Request) -> Answer:
    """Returns the cosine of a text with each of the others."""
    parameters = body.parameters or SimilarityParameters()
    check_truncation(parameters.truncation_direction)
    model = service.model(body.model, TASKS)
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    answers = await _vectors(
        service,
        model,
        texts,
        normalize=True,
        prompt_name=parameters.prompt_name,
        truncate=parameters.truncate,
    )
    source, *others = (answer["vector"] for answer in answers.answers)
    (cosines,) = similarities(source, np.stack(others), "cosine").tolist()
    return Answer(cosines, model, len(texts), answers.num_tokens)


async def openai_embeddings(service: Service, body: EmbeddingsRequest, request: Request) -> Answer:
    """Returns the vector of each text in the form of OpenAI."""
    model = service.model(body.model, TASKS)
    texts = _as_list(body.input)
    answers = await _vectors(service, model, texts, normalize=True, dimensions=body.dimensions)
    encode = _as_base64 if body.encoding_format == "base64" else np.ndarray.tolist
    value: dict[str, Any] = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": encode(answer["vector"])}
            for index, answer in enumerate(answers.answers)
        ],
        "model": model.name,
        "usage": {"prompt_tokens": answers.num_tokens, "total_tokens": answers.num_tokens},
    }
    return Answer(value, model, len(texts), answers.num_tokens)


async def _vectors(
    service: Service,
    model: ServedModel,
    texts: Sequence[str | list[int]],
    *,
    normalize: bool,
    prompt_name: str | None = None,
    truncate: bool | None = None,
    dimensions: int | None = None,
) -> Answers:
    service.check_count(texts)
    task = model.with_options(
        normalize_embeddings=normalize,
        prompt_name=prompt_name,
        truncate_dim=dimensions,
        whole_documents=not truncate,
    )
    column = task.options.text_column
    rows = [text if isinstance(text, list) else {column: text} for text in texts]
    return await model.answer(service.engine, task, rows)


def _as_list(inputs: Any) -> list[str | list[int]]:
    """Returns the texts of a request, of which a single one may be a text or token ids."""
    if isinstance(inputs, str) or (inputs and isinstance(inputs[0], int)):
        return [inputs]
    return list(inputs)


def _as_base64(vector: np.ndarray) -> str:
    """Returns the bytes of little-endian 32-bit floats."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


ENDPOINTS = (
    Endpoint(
        "/embed", "Returns the vector of each text.", EmbedRequest, EmbedResponse, embed, TASKS
    ),
    Endpoint(
        "/similarity",
        "Returns the cosine of a text with each of the others.",
        SimilarityRequest,
        SimilarityResponse,
        similarity,
        TASKS,
    ),
    Endpoint(
        "/v1/embeddings",
        "Returns the vector of each text in the form of OpenAI.",
        EmbeddingsRequest,
        EmbeddingList,
        openai_embeddings,
        TASKS,
    ),
)
