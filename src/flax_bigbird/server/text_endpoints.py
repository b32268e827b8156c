"""The endpoints that read documents: `/answer`, `/tag` and `/fill-mask`."""

from typing import Any

from starlette.requests import Request

from flax_bigbird.server.errors import RequestError, too_large
from flax_bigbird.server.masks import ServedMaskedLM
from flax_bigbird.server.service import Answer, Endpoint, Service
from flax_bigbird.server.task_schemas import (
    AnswerParameters,
    AnswerRequest,
    AnswerResponse,
    FillMaskParameters,
    FillMaskRequest,
    FillMaskResponse,
    TagParameters,
    TagRequest,
    TagResponse,
)
from flax_bigbird.tasks.masked_lm import NUM_CANDIDATES
from flax_bigbird.tasks.tag_schemes import OUTSIDE

NO_ANSWER = {"answer": "", "start": 0, "end": 0}
MAX_FILLED_CHARACTERS = 2**26  # of the copies of a request's texts, one for each candidate


async def answer(service: Service, body: AnswerRequest, request: Request) -> Answer:
    """Returns the parts of a context that answer a question."""
    model = service.model(body.model, ("question-answering",))
    parameters = body.parameters or AnswerParameters()
    question, context = body.question, body.context
    if body.inputs is not None:
        question, context = body.inputs.question, body.inputs.context
    task = model.with_options(
        max_answer_length=parameters.max_answer_len,
        handle_impossible_answer=parameters.handle_impossible_answer,
    )
    row = {"question": question, "context": context}
    result = await model.answer(service.engine, task, [row])
    (windows,), (outputs,), (best,) = result.windows, result.outputs, result.answers
    count = parameters.top_k or 1
    spans = await service.engine.in_pool(task.top_answers, row, windows, outputs, count)
    no_answer, has_answer = best["no_answer_score"], best["start"] is not None
    value: Any = {
        "answers": spans,
        "no_answer_score": no_answer,
        "has_answer": has_answer,
        "num_windows": len(windows),
    }
    if body.inputs is not None:  # the Hugging Face Inference API
        spans = spans if has_answer else [NO_ANSWER | {"score": no_answer}, *spans][:count]
        value = spans[0] if count == 1 else spans
    return Answer(value, model, 1, result.num_tokens, result.num_windows)


async def tag(service: Service, body: TagRequest, request: Request) -> Answer:
    """Returns the entities of each text, or its words with their tags."""
    model = service.model(body.model, ("token-classification",))
    parameters = body.parameters or TagParameters()
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    service.check_count(texts)
    strategy = parameters.aggregation_strategy or "simple"
    if strategy == "simple" and parameters.ignore_labels is not None:
        raise RequestError("validation", "ignore_labels belongs to aggregation_strategy none")
    task = model.with_options(aggregation=strategy)
    rows = [{"text": text} for text in texts]
    result = await model.answer(service.engine, task, rows)
    ignored = parameters.ignore_labels
    ignored = {OUTSIDE} if ignored is None else set(ignored)
    entities = [
        found["entities"] if strategy == "simple" else _tagged_words(found, ignored)
        for found in result.answers
    ]
    value = entities[0] if isinstance(body.inputs, str) else entities
    return Answer(value, model, len(texts), result.num_tokens, result.num_windows)


def _tagged_words(found: dict[str, Any], ignored: set[str]) -> list[dict[str, Any]]:
    columns = (found[name] for name in ("words", "offsets", "tags", "scores"))
    return [
        {"entity": name, "score": score, "index": index, "word": word, "start": start, "end": end}
        for index, (word, (start, end), name, score) in enumerate(zip(*columns, strict=True))
        if name not in ignored
    ]


async def fill_mask(service: Service, body: FillMaskRequest, request: Request) -> Answer:
    """Returns the most likely tokens for each `[MASK]`."""
    model = service.model(body.model, ("masked-lm",))
    parameters = body.parameters or FillMaskParameters()
    top_k = parameters.top_k or body.top_k or NUM_CANDIDATES
    if top_k > NUM_CANDIDATES:
        raise RequestError(
            "validation", f"top_k must be at most {NUM_CANDIDATES}; got {top_k}", parameter="top_k"
        )
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    service.check_count(texts)
    rows = [{"text": text} for text in texts]
    result = await model.answer(service.engine, ServedMaskedLM(model.task), rows)
    mask = model.tokenizer.mask_token
    masks = [filled["masks"] for filled in result.answers]
    size = sum(top_k * len(own) * len(text) for text, own in zip(texts, masks, strict=True))
    if size > MAX_FILLED_CHARACTERS:
        raise too_large(
            "the texts with each of the candidates in the place of their masks must have at most "
            f"{MAX_FILLED_CHARACTERS:,} characters; got {size:,}: divide the text, or lower top_k"
        )
    values = await service.engine.in_pool(_filled_texts, texts, mask, masks, top_k)
    value = values[0] if isinstance(body.inputs, str) else values
    return Answer(value, model, len(texts), result.num_tokens, result.num_windows)


def _filled_texts(texts: list[str], mask: str, masks: list[list[Any]], top_k: int) -> list[Any]:
    """Returns what `_filled` returns for each of the texts."""
    return [_filled(text, mask, own, top_k) for text, own in zip(texts, masks, strict=True)]


def _filled(text: str, mask: str, masks: list[Any], top_k: int) -> list[Any]:
    """Returns the tokens of the only mask, or a list for each of several masks."""
    parts = text.split(mask)
    filled = []
    for index, candidates in enumerate(masks):
        before, after = mask.join(parts[: index + 1]), mask.join(parts[index + 1 :])
        filled.append(
            [
                {
                    "score": candidate["score"],
                    "token": candidate["id"],
                    "token_str": candidate["token"],
                    "sequence": before + _without_double_space(before, candidate["token"]) + after,
                }
                for candidate in candidates[:top_k]
            ]
        )
    return filled[0] if len(filled) == 1 else filled


def _without_double_space(before: str, token: str) -> str:
    """Returns a token without the space that begins it if the text before it ends with one."""
    return token.removeprefix(" ") if not before or before[-1].isspace() else token


ENDPOINTS = (
    Endpoint(
        "/answer",
        "Returns the parts of a context of any length that answer a question.",
        AnswerRequest,
        AnswerResponse,
        answer,
        ("question-answering",),
    ),
    Endpoint(
        "/tag",
        "Returns the entities of each text, with their characters.",
        TagRequest,
        TagResponse,
        tag,
        ("token-classification",),
    ),
    Endpoint(
        "/fill-mask",
        "Returns the most likely tokens for each [MASK].",
        FillMaskRequest,
        FillMaskResponse,
        fill_mask,
        ("masked-lm",),
    ),
)
