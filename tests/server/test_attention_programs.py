"""Tests that programs of attention are compiled once, and that nothing else waits for it."""

import asyncio
import threading

import pytest
from tiny_checkpoints import sentence

from flax_bigbird.server import attention_maps
from flax_bigbird.server.engine import Engine
from flax_bigbird.server.settings import ServerSettings


class Compiler:
    """Stands for `Program`: waits until it may go on, and fails as often as it is to."""

    def __init__(self, failures: int = 0):
        self.may_go_on, self.has_begun = threading.Event(), threading.Event()
        self.num_calls, self._failures = 0, failures

    def __call__(self, *arguments) -> str:
        self.num_calls += 1
        self.has_begun.set()
        assert self.may_go_on.wait(30)
        if self.num_calls <= self._failures:
            raise RuntimeError("XLA")
        return "program"


def programs(offline) -> attention_maps.AttentionPrograms:
    predictor = offline("embedding").predictor
    return attention_maps.AttentionPrograms("model", predictor.task, predictor.model, None)


@pytest.fixture
def engine():
    engine = Engine(ServerSettings(tokenization_workers=1), None, lambda batch, seconds: None)
    engine.start()
    yield engine
    engine.stop()


def test_a_program_is_compiled_once_and_other_requests_do_not_wait(offline, engine, monkeypatch):
    compiler = Compiler()
    monkeypatch.setattr(attention_maps, "Program", compiler)
    model = programs(offline)
    ids = offline("embedding").tokenizer(sentence(0, 12))["input_ids"]

    async def work() -> None:
        requests = [asyncio.create_task(model.unit(engine, ids, None)) for _ in range(3)]
        while not compiler.has_begun.is_set():
            await asyncio.sleep(0.001)
        # Tokenization, which has one thread, goes on; and the others wait although one leaves.
        assert await engine.in_pool(len, "abc") == 3
        requests[0].cancel()
        await asyncio.wait(requests[:1])
        compiler.may_go_on.set()
        units = await asyncio.gather(*requests[1:])
        assert units[0].group.key == units[1].group.key

    asyncio.run(work())
    assert compiler.num_calls == 1


def test_a_program_that_was_not_compiled_is_compiled_at_the_next_request(
    offline, engine, monkeypatch
):
    compiler = Compiler(failures=1)
    compiler.may_go_on.set()
    monkeypatch.setattr(attention_maps, "Program", compiler)
    model = programs(offline)

    async def work() -> None:
        with pytest.raises(RuntimeError, match="XLA"):
            await model.unit(engine, [1, 2], 0)
        await model.unit(engine, [1, 2], 0)

    asyncio.run(work())
    assert compiler.num_calls == 2
