"""What waits for a client that reads slowly: larger pieces, then an end; never the engine, and no memory without limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from ernie_backend.errors import EngineError
from ernie_backend.protocol import Usage
from ernie_openai.app import create_app
from ernie_openai.backlog import Backlog
from ernie_openai.client import AnswerEvent
from ernie_openai.errors import SlowReaderError

from .fakes import CHAT, HELLO, AsgiCall, FakeClient, settings, sse, until, words


class SlowCall(AsgiCall):
    """A client that stops reading once it has `mark`, until `held` is set."""

    def __init__(self, client: FakeClient, mark: str, **fields: int) -> None:
        self.held = asyncio.Event()
        self._mark = mark
        super().__init__(create_app(settings(**fields), client), CHAT, HELLO | {"stream": True})

    async def _send(self, message: object) -> None:
        await super()._send(message)
        if self._mark in self.text:
            await self.held.wait()


async def test_what_waited_comes_in_one_piece() -> None:
    played = asyncio.Event()
    texts = [f"t{i}" for i in range(100)]
    call = SlowCall(FakeClient([*words(texts)[:-1], played, words(texts)[-1]]), '"t3"')
    await until(lambda: '"t3"' in call.text)
    for _ in range(300):
        await asyncio.sleep(0)
    assert '"t4"' not in call.text
    call.held.set()
    await until(lambda: "t98" in call.text)
    played.set()
    await call.task
    contents = [event["choices"][0]["delta"]["content"] for event in sse(call.text)[:-1]]
    assert "".join(contents) == "".join(texts)
    assert "".join(texts[4:99]) in contents, "one chunk"


async def test_too_much_waiting_ends_the_work_at_once_and_the_answer_behind_what_waited() -> None:
    client = FakeClient(words(["x" * 10 for _ in range(1000)]))
    call = SlowCall(client, "x", max_pending_bytes=2000)
    await until(lambda: client.abandoned)
    assert not call.task.done(), "the client has not read on, and the engine is free already"
    call.held.set()
    await call.task
    events = sse(call.text)
    assert events[-1]["error"]["code"] == "slow_reader" and "2000 bytes" in events[-1]["error"]["message"]
    contents = [event["choices"][0]["delta"]["content"] for event in events[:-1]]
    assert 300 < len("".join(contents)) < 1000 and max(map(len, contents)) > 100, "what waited is not lost"
    assert "[DONE]" not in call.text


async def test_a_client_that_never_reads_can_still_hang_up() -> None:
    client = FakeClient([*words(["a", "b", "c"])[:2], asyncio.Event()])
    call = SlowCall(client, '"a"')
    await until(lambda: '"a"' in call.text)
    call.hang_up.set()
    await asyncio.wait_for(call.task, 60)
    assert client.abandoned


async def test_a_neighbour_does_not_notice() -> None:
    slow = SlowCall(FakeClient(words([f"t{i}" for i in range(200)])), '"t3"')
    await until(lambda: '"t3"' in slow.text)
    quick = AsgiCall(create_app(settings(), FakeClient(words(["a", "b"]))), CHAT, HELLO | {"stream": True})
    await quick.task
    assert sse(quick.text)[-1] == "[DONE]" and not slow.task.done()
    slow.held.set()
    await slow.task


def event(number: int, index: int, last: bool) -> AnswerEvent:
    logprobs = ({"token": "x", "token_id": 1, "logprob": -1.0, "bytes": [120], "top_logprobs": []},)
    usage = Usage(prompt_tokens=3, completion_tokens=number + 1)
    return AnswerEvent(
        index, f"{index}.{number} ", token_ids=(number,), logprobs=logprobs, finish_reason="stop" if last else None, usage=usage
    )


@pytest.mark.parametrize("count", [1, 31, 32, 33, 1000])
async def test_joining_loses_nothing(count: int) -> None:
    async def source() -> AsyncGenerator[AnswerEvent, None]:
        for number in range(count):
            for index in (0, 1):
                yield event(number, index, number == count - 1)

    got = [e async for e in Backlog(source(), 2**20).events()]  # nothing in the source waits: all of it comes before the first is taken
    assert len(got) == 2
    for index in (0, 1):
        (joined,) = [e for e in got if e.index == index]
        assert joined.text == "".join(f"{index}.{n} " for n in range(count))
        assert joined.token_ids == tuple(range(count)) and len(joined.logprobs) == count
        assert joined.finish_reason == "stop" and joined.usage.completion_tokens == count


async def test_an_error_comes_behind_what_waited() -> None:
    async def source() -> AsyncGenerator[AnswerEvent, None]:
        yield event(0, 0, False)
        raise EngineError("The step failed.")

    got = []
    with pytest.raises(EngineError):
        async for e in Backlog(source(), 2**20).events():
            got.append(e)
    assert [e.text for e in got] == ["0.0 "]


async def test_leaving_early_closes_the_source() -> None:
    closed = False

    async def source() -> AsyncGenerator[AnswerEvent, None]:
        nonlocal closed
        try:
            while True:
                await asyncio.sleep(0)
                yield event(0, 0, False)
        finally:
            closed = True

    events = Backlog(source(), 2**30).events()
    await anext(events)
    await events.aclose()
    assert closed


async def test_logprobs_weigh_more_than_text() -> None:
    """An object for each alternative: a limit on the text alone would let a slow reader take a thousand times as much."""

    async def source() -> AsyncGenerator[AnswerEvent, None]:
        for number in range(1000):
            yield event(number, 0, False)

    with pytest.raises(SlowReaderError):
        async for _ in Backlog(source(), 100_000).events():
            pass
