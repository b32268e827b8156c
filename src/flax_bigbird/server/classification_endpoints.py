"""The endpoint of classifiers: `/predict`."""

from typing import Any

from starlette.requests import Request

from flax_bigbird.data.types import Row
from flax_bigbird.server.errors import RequestError
from flax_bigbird.server.schemas import PredictRequest, PredictResponse
from flax_bigbird.server.served_model import Answers, ServedModel
from flax_bigbird.server.service import Answer, Endpoint, Service, check_truncation

TASKS = ("sequence-classification",)


async def predict(service: Service, body: PredictRequest, request: Request) -> Answer:
    """Returns the scores of the labels of each text."""
    check_truncation(body.truncation_direction)
    model = service.model(body.model, TASKS)
    rows, is_single = _rows(body.inputs)
    service.check_count(rows)
    parameters = body.parameters
    raw = body.raw_scores or (parameters is not None and parameters.function_to_apply == "none")
    top_k = parameters.top_k if parameters else None
    predictions, *counts = await _predict(service, model, rows, bool(body.truncate), raw)
    labels = [_sorted(scores)[:top_k] for scores in predictions]
    is_flat = is_single and parameters is None
    return Answer(labels[0] if is_flat else labels, model, len(rows), *counts)


async def _predict(
    service: Service, model: ServedModel, rows: list[Row], truncate: bool, raw: bool
) -> tuple[list[dict[str, float]], int, int]:
    """Returns the scores of each row by label, and how many tokens and windows were read."""
    predictions: list[dict[str, float]] = [{}] * len(rows)
    num_tokens = num_windows = 0
    for has_pair in (False, True):
        indices = [i for i, row in enumerate(rows) if ("text_pair" in row) == has_pair]
        if not indices:
            continue
        own = [rows[i] for i in indices]
        if has_pair:
            task = model.with_options(text_pair_column="text_pair", whole_documents=False)
        else:
            task = model.with_options(whole_documents=not truncate)
        must_fit = has_pair and not truncate
        answers = await model.answer(service.engine, task, own, must_fit=must_fit)
        num_tokens += answers.num_tokens
        num_windows += answers.num_windows
        for index, scores in zip(indices, _scores(task, answers, raw), strict=True):
            predictions[index] = scores
    return predictions, num_tokens, num_windows


def _scores(task: Any, answers: Answers, raw: bool) -> list[dict[str, float]]:
    if raw:
        logits = [task.document_logits(outputs) for outputs in answers.outputs]
        return [dict(zip(task.label_names, map(float, row), strict=True)) for row in logits]
    return [
        answer["scores"] if "scores" in answer else {task.label_names[0]: answer["value"]}
        for answer in answers.answers
    ]


def _rows(inputs: Any) -> tuple[list[Row], bool]:
    """Returns the rows of a request, and whether it has a single one that is not in a list."""
    if isinstance(inputs, str):
        return [{"text": inputs}], True
    if len(inputs) == 2 and all(isinstance(text, str) for text in inputs):
        return [{"text": inputs[0], "text_pair": inputs[1]}], True
    rows: list[Row] = []
    for item in inputs:
        texts = [item] if isinstance(item, str) else item
        if len(texts) not in (1, 2):
            raise RequestError(
                "validation",
                f"inputs must hold lists of one or two texts; got one of {len(texts)}",
                parameter="inputs",
            )
        rows.append(dict(zip(("text", "text_pair"), texts, strict=False)))
    return rows, False


def _sorted(scores: dict[str, float]) -> list[dict[str, Any]]:
    """Returns labels and scores, the highest score first."""
    pairs = sorted(scores.items(), key=lambda pair: -pair[1])
    return [{"label": label, "score": score} for label, score in pairs]


ENDPOINTS = (
    Endpoint(
        "/predict",
        "Returns the scores of the labels of each text, or pair of texts.",
        PredictRequest,
        PredictResponse,
        predict,
        TASKS,
    ),
)
