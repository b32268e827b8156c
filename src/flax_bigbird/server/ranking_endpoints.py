"""The endpoint of cross-encoders: `/rerank`."""

import dataclasses
from typing import Any

from starlette.requests import Request

from flax_bigbird.checkpoint.sentence_transformers import IDENTITY
from flax_bigbird.data.tokenization import tokenize
from flax_bigbird.server.errors import too_large
from flax_bigbird.server.schemas import RerankRequest, RerankResponse
from flax_bigbird.server.served_model import ServedModel
from flax_bigbird.server.service import Answer, Endpoint, Service, check_truncation

TASKS = ("reranking",)
NUM_SPECIAL_TOKENS = 3  # of a pair


async def rerank(service: Service, body: RerankRequest, request: Request) -> Answer:
    """Returns the texts by their relevance to the query, the most relevant first."""
    check_truncation(body.truncation_direction)
    model = service.model(body.model, TASKS)
    service.check_count(body.texts, "texts")
    task = model.with_options(query_column="query", document_column="document")
    if body.raw_scores:
        task.settings = dataclasses.replace(task.settings, activation=IDENTITY)
    rows = [{"query": body.query, "document": text} for text in body.texts]
    if not body.truncate:
        await service.engine.in_pool(check_pairs_fit, model, rows)
    answers = await model.answer(service.engine, task, rows)
    scores = [answer["score"] for answer in answers.answers]
    ranks: list[dict[str, Any]] = [
        {"index": index, "score": scores[index]}
        | ({"text": body.texts[index]} if body.return_text else {})
        for index in sorted(range(len(scores)), key=lambda index: -scores[index])
    ]
    return Answer(ranks, model, len(rows), answers.num_tokens)


def check_pairs_fit(model: ServedModel, rows: list[dict[str, Any]]) -> None:
    """Checks that pairs of texts are not longer than a model.

    Args:
      model: The model.
      rows: The pairs, each a row with two texts.

    Raises:
      RequestError: if one is.
    """
    limit = model.task.options.length
    for row in rows:
        num_tokens = sum(map(len, tokenize(model.tokenizer, [*row.values()]))) + NUM_SPECIAL_TOKENS
        if num_tokens > limit:
            raise too_large(
                f"a pair of texts must have at most {limit:,} tokens; got {num_tokens:,}: shorten "
                "it, or set truncate"
            )


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
