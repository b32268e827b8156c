"""Tests what a request may cost before it is computed: memory, time, and lists of what is wrong."""

import asyncio
import json
import threading
from typing import Any

import pydantic
import pytest
from starlette.requests import Request

from flax_bigbird.server import text_endpoints
from flax_bigbird.server.app import ENDPOINTS, PostEndpoint
from flax_bigbird.server.errors import RequestError
from flax_bigbird.server.generation_endpoints import Continuation
from flax_bigbird.server.lifecycle import _drain, _Server, _server_config, create_service
from flax_bigbird.server.requests import parse_body
from flax_bigbird.server.schemas import TokenizeRequest
from flax_bigbird.server.service import Answer, Endpoint, Service
from flax_bigbird.server.settings import ServerSettings
from flax_bigbird.server.text_endpoints import _filled

BODY_BYTES = 1024


def service(**settings) -> Service:
    """Returns a server that has no models and says that it is ready."""
    created = create_service(ServerSettings(max_body_bytes=BODY_BYTES, **settings))
    created.is_ready = True
    return created


def wrong_values(schema: dict, items: list) -> list:
    """Returns wrong values for a part of a JSON schema: its lists hold wrong items."""
    if schema.get("type") == "array":
        return [items, *([own] * 40 for own in wrong_values(schema["items"], items))]
    return [v for part in schema.get("anyOf", ()) for v in wrong_values(part, items)]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_wrong_items_of_a_list_are_not_all_listed(endpoint):
    """Each error takes a thousand times the memory of its item."""
    schema = endpoint.request.model_json_schema()
    objects = [schema, *schema.get("$defs", {}).values()]
    fields = [(name, f) for o in objects for name, f in o["properties"].items()]
    checked = 0
    for items in ([1.5] * 2000, [{}] * 2000):
        for name, field in fields:
            for value in wrong_values(field, items):
                body = {name: value}
                for parent in ("parameters", "inputs"):
                    known = schema["properties"].get(parent, {})
                    if name not in schema["properties"] and parent in str(known | {"x": parent}):
                        body = {parent: {name: value}}
                with pytest.raises(pydantic.ValidationError) as caught:
                    endpoint.request.model_validate_json(json.dumps(body))
                assert caught.value.error_count() < 30, (name, caught.value.error_count())
                checked += 1
    assert checked or endpoint.path in ("/answer",)


def test_many_unknown_fields_are_counted_and_not_listed():
    body = json.dumps({"inputs": "a"} | {f"x{n}": 1 for n in range(5000)}).encode()
    with pytest.raises(RequestError, match=r"got 5,000 that are wrong: send those") as caught:
        parse_body(TokenizeRequest, body)
    assert caught.value.status == 422


async def post(endpoint: PostEndpoint, body: bytes) -> int:
    """Returns the status of the answer to a request."""
    statuses: list[int] = []
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [(b"content-type", b"application/json")]
    try:
        await endpoint({"type": "http", "method": "POST", "headers": headers}, receive, send)
    except RequestError as error:
        return error.status
    return statuses[0]


def test_bodies_count_until_their_requests_are_answered():
    """The texts are in memory for as long as a request waits, not only while they arrive."""
    served = service()
    may_end = asyncio.Event()

    async def handler(_: Service, body: TokenizeRequest, request: Request) -> Answer:
        await may_end.wait()
        return Answer([], None)

    endpoint = PostEndpoint(served, Endpoint("/x", "", TokenizeRequest, list, handler))
    body = json.dumps({"inputs": "a" * (BODY_BYTES - 40)}).encode()

    async def work() -> None:
        waiting = [asyncio.ensure_future(post(endpoint, body)) for _ in range(40)]
        await asyncio.sleep(0.05)
        refused = [request for request in waiting if request.done()]
        assert {request.result() for request in refused} == {429}
        assert 32 * BODY_BYTES // len(body) == 40 - len(refused)
        may_end.set()
        await asyncio.gather(*waiting)
        assert await post(endpoint, body) == 200

    asyncio.run(work())


def test_a_request_that_waits_for_a_thread_is_given_up_in_time():
    engine = service(request_timeout=0.2, tokenization_workers=1).engine
    may_end = threading.Event()

    async def work() -> None:
        busy = asyncio.ensure_future(engine.in_pool(may_end.wait, 10))
        await asyncio.sleep(0.01)
        with pytest.raises(RequestError, match="threads that read texts were busy") as late:
            await asyncio.wait_for(engine.in_pool(len, "abc"), 5)
        assert (late.value.status, late.value.retry_after) == (503, 1)
        may_end.set()
        await asyncio.wait([busy])
        with engine.time_limit():  # of which waiting takes a part
            await engine.in_pool(may_end.wait, 10)
            await asyncio.sleep(0.15)
            may_end.clear()
            begun = asyncio.get_running_loop().time()
            with pytest.raises(RequestError):
                await engine.in_pool(may_end.wait, 10)
            assert asyncio.get_running_loop().time() - begun < 0.15
        may_end.set()

    try:
        asyncio.run(work())
    finally:
        may_end.set()
        engine.stop()


def test_a_second_signal_does_not_wait_for_requests():
    served = service(drain_timeout=60)
    server = _Server(_server_config(served))

    async def work() -> None:
        draining = asyncio.ensure_future(_drain(served, server))
        await asyncio.sleep(0.1)
        assert not draining.done()
        server.force_exit = True
        await asyncio.wait_for(draining, 5)

    with served.engine.admitted():
        asyncio.run(work())


@pytest.mark.parametrize("host", ["127.0.0.2", "0:0:0:0:0:0:0:1", "LocalHost", "::1"])
def test_every_address_of_loopback_is_for_loopback_only(host):
    settings = ServerSettings(host=host)
    assert settings.is_loopback
    assert {"127.0.0.1", "localhost", "::1", host.lower()} == set(settings.hosts)


def test_other_addresses_are_for_all_hosts_or_for_those_that_are_named():
    assert ServerSettings(host="0.0.0.0").hosts == ()
    named = ServerSettings(host="0.0.0.0", allowed_host=["Example.org"])
    assert named.hosts == ("example.org",)


def test_a_long_text_is_not_copied_for_each_of_many_masks(monkeypatch):
    text = "[MASK] the cow " * 2 + "a cow " * 2000
    monkeypatch.setattr(text_endpoints, "MAX_FILLED_CHARACTERS", 10 * len(text) - 1)
    service: Any = type("Service", (), {"check_count": lambda *_: None, "engine": None})()
    request: Any = None
    masks = [{"token": " b", "id": 1, "score": 0.5}] * 5
    result = type("Answers", (), {"answers": [{"masks": [masks, masks]}]})

    async def answer(*_):
        return result

    tokenizer = type("Tokenizer", (), {"mask_token": "[MASK]"})
    model = type("Model", (), {"answer": answer, "task": None, "tokenizer": tokenizer})
    service.model = lambda *_: model
    body = text_endpoints.FillMaskRequest(inputs=text)
    with pytest.raises(RequestError, match=r"divide the text, or lower top_k") as caught:
        asyncio.run(text_endpoints.fill_mask(service, body, request))
    assert caught.value.status == 413


def test_the_text_of_a_continuation_ends_with_its_stop():
    """Also if a tokenizer changes the text before the stop when that is complete."""

    class Tokenizer:
        sep_token_id = 0
        texts = ("do", "do n'", "don't", "don't go")

        def decode(self, ids, skip_special_tokens):
            return self.texts[len(ids) - 1]

    continuation: Any = Continuation.__new__(Continuation)
    continuation._model = type("Model", (), {"tokenizer": Tokenizer()})()
    continuation._stops, continuation._ids, continuation.text = ["don't"], [], ""
    continuation.num_tokens, continuation._is_stopped = 0, False
    assert [continuation._add(token) for token in (1, 2, 3)] == ["do", " n'", ""]
    assert continuation.finish_reason == "stop_sequence"
    assert continuation.finish() == "don't"


@pytest.mark.parametrize(
    ("text", "token", "sequence"),
    [
        ("House of [MASK].", " Representatives", "House of Representatives."),
        ("House of\n[MASK].", " Representatives", "House of\nRepresentatives."),
        ("[MASK] war", " The", "The war"),
        ("House of[MASK].", " Representatives", "House of Representatives."),
        ("rail[MASK]", "roads", "railroads"),
    ],
)
def test_a_filled_text_has_no_double_space(text, token, sequence):
    (filled,) = _filled(text, "[MASK]", [[{"score": 1.0, "id": 7, "token": token}]], 5)
    assert filled["sequence"] == sequence
