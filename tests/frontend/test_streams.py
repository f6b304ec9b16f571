"""When things are sent, what happens when either side leaves, and the small routes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ernie_backend.errors import EngineError, InvalidRequestError
from ernie_openai.app import create_app
from ernie_openai.client import AnswerEvent

from .fakes import CHAT, COMPLETIONS, HELLO, AsgiCall, FakeClient, http, settings, sse, until, words


def app(client: FakeClient):
    return create_app(settings(), client)


async def test_nothing_is_sent_before_the_first_event() -> None:
    gate = asyncio.Event()
    call = AsgiCall(app(FakeClient([gate, *words(["a", "b"])])), CHAT, HELLO | {"stream": True})
    for _ in range(50):
        await asyncio.sleep(0)
    assert call.sent == []
    gate.set()
    await call.task
    assert call.status == 200 and sse(call.text)[-1] == "[DONE]"


async def test_every_event_is_sent_at_once() -> None:
    gate = asyncio.Event()
    first, last = words(["a", "b"])
    call = AsgiCall(app(FakeClient([first, gate, last])), CHAT, HELLO | {"stream": True})
    await until(lambda: '"a"' in call.text)
    assert '"b"' not in call.text and not call.task.done()
    gate.set()
    await call.task
    assert '"b"' in call.text


@pytest.mark.parametrize("error", [EngineError("The step failed."), RuntimeError("secret"), InvalidRequestError("no", param="x")])
async def test_an_error_after_the_first_byte_is_an_event_without_done(error: Exception) -> None:
    call = AsgiCall(app(FakeClient([*words(["a", "b"])[:1], error])), CHAT, HELLO | {"stream": True})
    await call.task
    events = sse(call.text)
    assert call.status == 200
    assert [e["choices"][0]["delta"]["content"] for e in events[:-1]] == ["", "a"]
    assert set(events[-1]) == {"error"} and set(events[-1]["error"]) == {"message", "type", "param", "code"}
    assert "[DONE]" not in call.text and "secret" not in call.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("events_before", [0, 1])
async def test_hanging_up_ends_the_work(stream: bool, events_before: int) -> None:
    client = FakeClient([*words(["a", "b"])[:events_before], asyncio.Event()])
    call = AsgiCall(app(client), CHAT, HELLO | {"stream": stream, "request_id": "r"})
    await until(lambda: client.requests)
    if stream and events_before:
        await until(lambda: call.sent)
    call.hang_up.set()
    await call.task
    assert client.abandoned == ["chatcmpl-r"]
    assert "[DONE]" not in call.text


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_hanging_up_inside_the_body_is_no_failure_of_ours(path: str) -> None:
    """What left the application would be logged as an error, traceback and all."""
    client = FakeClient([])
    call = AsgiCall(app(client), path, HELLO, more_body=True)
    call.hang_up.set()
    await call.task
    assert call.status == 499 and not client.requests


@pytest.mark.parametrize("stream", [False, True])
async def test_hanging_up_ends_the_work_on_every_prompt(stream: bool) -> None:
    client = FakeClient([*words(["a", "b"])[:1], asyncio.Event()], [asyncio.Event()], words(["c"]))
    call = AsgiCall(app(client), COMPLETIONS, {"prompt": ["p", "q", "r"], "stream": stream, "request_id": "r"})
    await until(lambda: len(client.requests) == 3)
    call.hang_up.set()
    await call.task
    assert sorted(client.abandoned) == ["cmpl-r-0", "cmpl-r-1"]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_of_one_prompt_ends_the_others(stream: bool) -> None:
    client = FakeClient([asyncio.Event()], [InvalidRequestError("prompt is too long", param="prompt")])
    async with http(client) as front:
        response = await front.post(COMPLETIONS, json={"prompt": ["p", "q"], "stream": stream, "request_id": "r"})
    assert response.status_code == 400 and response.json()["error"]["param"] == "prompt"
    assert client.abandoned == ["cmpl-r-0"]


async def test_a_finished_answer_abandons_nothing() -> None:
    client = FakeClient(words(["a", "b"]))
    async with http(client) as front:
        for stream in (False, True):
            await front.post(CHAT, json=HELLO | {"stream": stream})
    assert client.abandoned == [] and len(client.requests) == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("events_before", [0, 1])
async def test_a_server_that_stops_says_so(stream: bool, events_before: int) -> None:
    """At the end of the grace time the HTTP server cancels the requests that are left."""
    client = FakeClient([*words(["a", "b"])[:events_before], asyncio.Event()])
    call = AsgiCall(app(client), CHAT, HELLO | {"stream": stream})
    await until(lambda: client.requests)
    if stream and events_before:
        await until(lambda: call.sent)
    call.task.cancel()
    await call.task
    assert "shutting down" in call.text and "[DONE]" not in call.text
    assert call.status == (200 if stream and events_before else 503)
    assert len(client.abandoned) == 1


async def test_64_streams_at_once_stay_apart() -> None:
    class Echo(FakeClient):
        async def generate(self, request):
            self.requests.append(request)
            for i in range(20):
                await asyncio.sleep(0)
                yield AnswerEvent(0, text=f"{request.text_input}.{i} ", token_ids=(i,), finish_reason="stop" if i == 19 else None)

    async with http(Echo()) as front:
        responses = await asyncio.gather(*(front.post(COMPLETIONS, json={"prompt": f"p{i}", "stream": True}) for i in range(64)))
    for i, response in enumerate(responses):
        text = "".join(chunk["choices"][0]["text"] for chunk in sse(response.text)[:-1])
        assert text == "".join(f"p{i}.{j} " for j in range(20))


async def test_health() -> None:
    async with http(FakeClient()) as front:
        for method, path in (("GET", "/health"), ("GET", "/ping"), ("POST", "/ping")):
            response = await front.request(method, path)
            assert (response.status_code, response.content) == (200, b"")
    async with http(FakeClient(ready=False)) as front:
        response = await front.get("/health")
        assert response.status_code == 503 and response.json()["error"]["code"] == "unavailable"


async def test_health_tells_of_an_outage_that_triton_knows_nothing_of(tmp_path: Path) -> None:
    file = tmp_path / "outage"
    async with http(FakeClient(), outage_file=str(file)) as front:
        assert (await front.get("/health")).status_code == 200
        file.write_text("The model server is being restarted: it hung.")
        response = await front.get("/health")
        assert response.status_code == 503 and response.json()["error"]["message"].endswith("it hung.") and response.headers["retry-after"]
        file.unlink()
        assert (await front.get("/health")).status_code == 200


async def test_metrics_are_the_servers_and_the_front_ends() -> None:
    async with http(FakeClient()) as front:
        response = await front.get("/metrics")
    assert response.text.startswith("nv_inference_count 3\n") and "\nernie_http_requests_under_way 1.0\n" in response.text
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_models() -> None:
    async with http(FakeClient(), model_name="ERNIE-4.5-0.3B-PT", served_model_names=("baidu/ernie", "e"), max_model_len=2048) as front:
        listed = (await front.get("/v1/models")).json()
        one = (await front.get("/v1/models/baidu/ernie")).json()
        unknown = await front.get("/v1/models/nope")
    assert listed["object"] == "list" and [card["id"] for card in listed["data"]] == ["baidu/ernie", "e"]
    assert one == listed["data"][0]
    assert (one["object"], one["max_model_len"], one["root"], one["parent"]) == ("model", 2048, "ERNIE-4.5-0.3B-PT", None)
    assert unknown.status_code == 404 and unknown.json()["error"]["code"] == "model_not_found"


async def test_the_application_closes_its_client() -> None:
    client = FakeClient()
    application = app(client)
    async with application.router.lifespan_context(application):
        assert not client.closed
    assert client.closed
