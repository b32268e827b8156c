"""The endpoint of cross-encoders: `/rerank`."""

import dataclasses
from typing import Any

from starlette.requests import Request

from flax_bigbird.checkpoint.embedding_layers import IDENTITY
from flax_bigbird.server.schemas import RerankRequest, RerankResponse
from flax_bigbird.server.service import Answer, Endpoint, Service, check_truncation

TASKS = ("reranking",)


async def rerank(service: Service, body: RerankRequest, request: Request) -> Answer:
    """Returns the texts by their relevance to the query, the most relevant first."""
    check_truncation(body.truncation_direction)
    model = service.model(body.model, TASKS)
    service.check_count(body.texts, "texts")
    task = model.with_options(query_column="query", document_column="document")
    if body.raw_scores:
        task.settings = dataclasses.replace(task.settings, activation=IDENTITY)
    rows = [{"query": body.query, "document": text} for text in body.texts]
    answers = await model.answer(service.engine, task, rows, must_fit=not body.truncate)
    scores = [answer["score"] for answer in answers.answers]
    ranks: list[dict[str, Any]] = [
        {"index": index, "score": scores[index]}
        | ({"text": body.texts[index]} if body.return_text else {})
        for index in sorted(range(len(scores)), key=lambda index: -scores[index])
    ]
    return Answer(ranks, model, len(rows), answers.num_tokens)


ENDPOINTS = (
    Endpoint(
        "/rerank",
        "Returns texts by their relevance to a query, the most relevant first.",
        RerankRequest,
        RerankResponse,
        rerank,
        TASKS,
    ),
)
