"""The gRPC client against a server of the real protocol: tensors both ways, order, cancelling, every kind of error."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from ernie_backend.errors import (
    ContextLengthError,
    EngineError,
    ErnieError,
    InvalidRequestError,
    OverloadedError,
    RequestAbortedError,
    RequestTimeoutError,
    UnavailableError,
)
from ernie_backend.protocol import Level, Usage
from ernie_openai import triton_client
from ernie_openai.client import AnswerEvent, EnsembleRequest
from ernie_openai.terms import Terms
from ernie_openai.triton_client import TritonClient

from .fake_triton import FakeTriton, Script, SeenRequest, empty_final, error_message, logged, response, serving

HELLO = EnsembleRequest(request_id="r1", sampling_parameters="{}", num_choices=1, prompt_field="prompt", text_input="Hello")


def replies(*items: Any) -> Script:
    async def script(_: SeenRequest) -> AsyncIterator[Any]:
        for item in items:
            yield item

    return script


@asynccontextmanager
async def connected(script: Script) -> AsyncIterator[tuple[TritonClient, FakeTriton]]:
    triton = FakeTriton(script)
    async with serving(triton) as address:
        client = TritonClient(address, "http://127.0.0.1:1/metrics")
        try:
            yield client, triton
        finally:
            await client.close()


async def collect(client: TritonClient, request: EnsembleRequest = HELLO) -> list[AnswerEvent]:
    return [event async for event in client.generate(request)]


async def test_tensors_in() -> None:
    async with connected(replies(response(True, finish_reason="stop"))) as (client, triton):
        await collect(client, EnsembleRequest("r1", '{"stop":["明天"]}', 1, "prompt", chat='{"messages":"你"}'))
        await collect(client)
    chat, text = triton.seen
    assert (chat.model, chat.id, chat.wants_empty_final) == ("ernie", "r1", True)
    assert chat.tensors == {"sampling_parameters": '{"stop":["明天"]}', "stream": b"\x01", "chat": '{"messages":"你"}'}
    assert chat.shapes == {("sampling_parameters", "BYTES", (1,)), ("stream", "BOOL", (1,)), ("chat", "BYTES", (1,))}
    assert text.tensors == {"sampling_parameters": "{}", "stream": b"\x01", "text_input": "Hello"}
    assert "triton_grpc_error" not in chat.metadata, "tritonserver 2.51 dies of it"


async def test_terms_are_parameters() -> None:
    terms = Terms("t1", 2_000_000)
    asked = EnsembleRequest("r", "{}", 1, "prompt", text_input="x", answer_id="cmpl-1", level=Level.FLEX, terms=terms)
    async with connected(replies(response(True, finish_reason="stop"))) as (client, triton):
        await collect(client, asked)
        await collect(client)
    given, not_given = (seen.parameters for seen in triton.seen)
    assert (given["timeout"], given["ernie_priority"], given["ernie_tenant"], given["ernie_answer_id"]) == (2_000_000, 3, "t1", "cmpl-1")
    assert "timeout" not in not_given and not_given["ernie_priority"] == Level.DEFAULT


async def test_a_time_limit_holds_though_nobody_keeps_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_client, "_TIMEOUT_MARGIN_SECONDS", 0.0)

    async def never(_: SeenRequest) -> AsyncIterator[Any]:
        yield response(text_output="a")
        await asyncio.Event().wait()

    async with connected(never) as (client, triton):
        with pytest.raises(RequestTimeoutError):
            await collect(client, EnsembleRequest("r", "{}", 1, "prompt", text_input="x", terms=Terms("", 200_000)))
        await asyncio.wait_for(triton.cancelled.wait(), 60)


async def test_an_abort_says_what_it_found() -> None:
    async with connected(replies(response(True, text_output='["cmpl-1"]', finish_reason="stop"))) as (client, triton):
        assert await client.abort("t1", ("cmpl-1", "cmpl-2")) == ("cmpl-1",)
        assert await client.abort(None, None) == ("cmpl-1",)
    some, everything = (seen.parameters for seen in triton.seen)
    assert (some["ernie_abort"], some["ernie_tenant"]) == ('{"ids": ["cmpl-1", "cmpl-2"], "everyone": false}', "t1")
    assert (everything["ernie_abort"], everything["ernie_tenant"]) == ('{"ids": null, "everyone": true}', "")


async def test_an_abort_without_an_answer_is_an_error() -> None:
    async with connected(replies(empty_final())) as (client, _):
        with pytest.raises(EngineError):
            await client.abort("", None)


@pytest.mark.parametrize(("told", "kind"), [(RequestAbortedError("Ended.").to_wire(), RequestAbortedError), ("", UnavailableError)])
async def test_an_answer_that_was_ended_says_by_whom(told: str, kind: type[ErnieError]) -> None:
    async with connected(replies(response(True, finish_reason="abort", error=told))) as (client, _):
        with pytest.raises(kind):
            await collect(client)


async def test_tensors_out() -> None:
    logprobs = [{"token": "好", "token_id": 9, "logprob": -0.5, "bytes": [1], "top_logprobs": []}]
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "cached_tokens": 4, "reasoning_tokens": 1, "image_tokens": 0, "video_tokens": 0}
    calls = [{"index": 0, "function": {"arguments": "{"}}]
    first = response(
        text_output="你好",
        reasoning_output="hm",
        tool_calls=calls,
        token_ids=(7, 103423),
        logprobs=logprobs,
        usage=usage | {"prompt_token_ids": [1, 2]},
    )
    async with connected(replies(first, response(True, finish_reason="length", usage=usage))) as (client, _):
        events = await collect(client)
    assert events == [
        AnswerEvent(0, "你好", "hm", tuple(calls), (7, 103423), tuple(logprobs), None, Usage(5, 2, 4, 1, 0, 0), prompt_token_ids=(1, 2)),
        AnswerEvent(0, finish_reason="length", usage=Usage(5, 2, 4, 1, 0, 0)),
    ]


async def test_order_over_300_replies_with_empty_ones_between() -> None:
    async def script(_: SeenRequest) -> AsyncIterator[Any]:
        for i in range(300):
            yield response(text_output=f"{i} ", token_ids=(i,))
            if i % 3 == 0:
                yield response()
        yield response(True, finish_reason="stop")

    async with connected(script) as (client, _):
        events = await collect(client)
    assert [event.token_ids for event in events[:-1]] == [(i,) for i in range(300)]
    assert events[-1].finish_reason == "stop" and len(events) == 301


FINALS = {
    "with the last payload": [response(True, token_ids=(1,), finish_reason="stop")],
    "alone": [response(token_ids=(1,), finish_reason="stop"), empty_final()],
    "never": [response(token_ids=(1,), finish_reason="stop")],
}


@pytest.mark.parametrize("how", FINALS)
async def test_the_end_needs_no_final_flag(how: str) -> None:
    async with connected(replies(*FINALS[how])) as (client, triton):
        events = await collect(client)
        assert [event.finish_reason for event in events] == ["stop"]
        assert triton.num_finished == 1 and not triton.cancelled.is_set()


async def test_all_choices_are_waited_for() -> None:
    script = replies(
        response(index=1, finish_reason="stop"), response(index=0, token_ids=(4,)), response(True, index=0, finish_reason="length")
    )
    async with connected(script) as (client, _):
        events = await collect(client, EnsembleRequest("r", "{}", 2, "prompt", text_input="x"))
    assert [(event.index, event.finish_reason) for event in events] == [(1, "stop"), (0, None), (0, "length")]


async def test_leaving_early_cancels_the_stream() -> None:
    async def script(_: SeenRequest) -> AsyncIterator[Any]:
        yield response(token_ids=(1,))
        await asyncio.Event().wait()

    async with connected(script) as (client, triton):
        events = client.generate(HELLO)
        assert (await anext(events)).token_ids == (1,)
        await events.aclose()
        await asyncio.wait_for(triton.cancelled.wait(), 60)


async def test_being_cancelled_before_the_first_reply_cancels_the_stream() -> None:
    async def script(_: SeenRequest) -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield response()

    async with connected(script) as (client, triton):
        task = asyncio.ensure_future(collect(client))
        while not triton.seen:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(triton.cancelled.wait(), 60)


async def test_hanging_up_is_no_fault_and_leaves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """grpc's own read, if it is cancelled while it waits, says `Internal error from Core` and keeps its buffers."""

    async def script(_: SeenRequest) -> AsyncIterator[Any]:
        yield response(token_ids=(1,))
        await asyncio.Event().wait()

    async with connected(script) as (client, triton):
        tasks = [asyncio.ensure_future(collect(client)) for _ in range(200)]
        while len(triton.seen) < len(tasks):
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended)
        async with asyncio.timeout(20):  # the fake server's own tasks end when it hears of it
            while len(asyncio.all_tasks()) >= 50:
                await asyncio.sleep(0.01)
    assert not logged(caplog)


async def test_cancelling_one_stream_leaves_the_others_alone() -> None:
    async def script(request: SeenRequest) -> AsyncIterator[Any]:
        for i in range(20):
            yield response(text_output=f"{request.id}.{i}", token_ids=(i,))
            await asyncio.sleep(0.005)
        yield response(True, finish_reason="stop")

    async with connected(script) as (client, _):

        async def one(number: int) -> list[str]:
            texts = []
            events = client.generate(EnsembleRequest(f"r{number}", "{}", 1, "prompt", text_input="x"))
            async for event in events:
                texts.append(event.text)
                if number % 2 and len(texts) == 3:
                    break
            await events.aclose()
            return texts

        answers = await asyncio.gather(*(one(number) for number in range(16)))
    for number, texts in enumerate(answers):
        expected = [f"r{number}.{i}" for i in range(20)] + [""]
        assert texts == (expected[:3] if number % 2 else expected)


BAD = InvalidRequestError("temperature must be a number from 0 to 100, got -1.", param="temperature")
LONG = ContextLengthError("The prompt has 3000 tokens, the context 2048.", param="messages")
INVALID, UNAVAILABLE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE
STEP = response(finish_reason="error", error=EngineError("Step.").to_wire())
ERRORS: list[tuple[str, list[Any], type[ErnieError], str | None, str]] = [
    ("status", [(INVALID, BAD.to_wire())], InvalidRequestError, "temperature", "got -1."),
    ("status, ensemble", [(INVALID, "in ensemble 'ernie', " + LONG.to_wire())], ContextLengthError, "messages", "3000 tokens"),
    ("status, id", [(INVALID, "in ensemble 'ernie', [request id: r1] " + BAD.to_wire())], InvalidRequestError, "temperature", "got -1."),
    ("in-stream", [error_message("in ensemble 'ernie', " + BAD.to_wire())], InvalidRequestError, "temperature", "got -1."),
    ("event", [response(finish_reason="error", error=OverloadedError("Full.").to_wire())], OverloadedError, None, "Full."),
    (
        "late event",
        [response(token_ids=(1,)), STEP],
        EngineError,
        None,
        "Step.",
    ),
    ("abort", [response(finish_reason="abort")], UnavailableError, None, "stopped this answer"),
    ("unavailable", [(UNAVAILABLE, "Socket closed")], UnavailableError, None, "not available"),
    ("stopping", [response(token_ids=(1,)), (UNAVAILABLE, "Server is stopping")], UnavailableError, None, "not available"),
    (
        "dead process",
        [error_message("in ensemble 'ernie', [request id: r] Stub process 'ernie_engine_0_0' is not healthy.")],
        UnavailableError,
        None,
        "not available",
    ),
    ("unknown model", [error_message("Request for unknown model: 'ernie' is not found")], UnavailableError, None, "not available"),
    ("broken connection", [(grpc.StatusCode.INTERNAL, "Internal error from Core")], UnavailableError, None, "not available"),
    ("internal", [(grpc.StatusCode.INTERNAL, "RuntimeError: secret /path")], EngineError, None, "server's log"),
    ("python error", [error_message("Failed to process: secret /path/model.py(11)")], EngineError, None, "server's log"),
    ("too short", [response(token_ids=(1,))], EngineError, None, "before it was complete"),
    ("nothing", [], EngineError, None, "before it was complete"),
]


@pytest.mark.parametrize(("script", "kind", "param", "text"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS])
async def test_errors(script: list[Any], kind: type[ErnieError], param: str | None, text: str) -> None:
    async with connected(replies(*script)) as (client, _):
        with pytest.raises(kind) as caught:
            await collect(client)
    assert type(caught.value) is kind and caught.value.param == param
    assert text in caught.value.message
    assert "secret" not in caught.value.message and "ensemble" not in caught.value.message


@pytest.mark.parametrize(("server", "model", "ready"), [(True, True, True), (False, True, False), (True, False, False)])
async def test_readiness(server: bool, model: bool, ready: bool) -> None:
    async with connected(replies()) as (client, triton):
        triton.server_ready, triton.model_ready = server, model
        assert await client.is_ready() is ready


async def test_a_prompt_of_5_mb_fits_through() -> None:
    async def script(request: SeenRequest) -> AsyncIterator[Any]:
        yield response(True, text_output=request.tensors["text_input"], finish_reason="stop")

    prompt = "明" * (5 * 2**20 // 3)
    async with connected(script) as (client, _):
        (event,) = await collect(client, EnsembleRequest("r", "{}", 1, "prompt", text_input=prompt))
    assert event.text == prompt


async def test_metrics_come_from_triton_and_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"path {self.path}\n".encode())

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = TritonClient("127.0.0.1:1", f"http://127.0.0.1:{server.server_port}/metrics")
    assert await client.metrics() == b"path /metrics\n"
    await client.close()
    server.shutdown()
    server.server_close()


async def test_streams_are_spread_over_the_channels() -> None:
    gate = asyncio.Event()

    async def script(_: SeenRequest) -> AsyncIterator[Any]:
        await gate.wait()
        yield response(True, finish_reason="stop")

    async with connected(script) as (client, triton):
        tasks = [asyncio.ensure_future(collect(client)) for _ in range(10)]
        while len(triton.seen) < 10:
            await asyncio.sleep(0.01)
        assert sorted(client._streams) == [2, 2, 3, 3]
        gate.set()
        await asyncio.gather(*tasks)
        assert client._streams == [0, 0, 0, 0]
