"""The official client, FastDeploy's documented loops and plain sockets against a real HTTP server."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest
import requests
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from ernie_backend.errors import (
    ContextLengthError,
    EngineError,
    OverloadedError,
    RequestAbortedError,
    RequestTimeoutError,
    UnavailableError,
)

from .fakes import HELLO, FakeClient, logprob, words
from .http_server import serving


def openai_client(url: str, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="null", max_retries=0, **options)


MESSAGES: Any = [{"role": "system", "content": "I'm a helpful AI assistant."}, {"role": "user", "content": "Hello"}]


def strictly(kind: Any, value: Any) -> None:
    """`value` is what the client's own type says, with no field of a wrong type (the client itself does not check)."""
    kind.model_validate(value.model_dump(), strict=False)


async def test_chat_types() -> None:
    events = words(["Hi", " there"])
    events = [replace(event, logprobs=(logprob(event.text, -0.5, {"x": -1.0}),)) for event in events]
    async with serving(FakeClient(events)) as url, openai_client(url) as client:
        answer = await client.chat.completions.create(model="default", messages=MESSAGES, logprobs=True, top_logprobs=1)
        strictly(ChatCompletion, answer)
        assert answer.choices[0].message.content == "Hi there" and answer.choices[0].finish_reason == "stop"
        assert answer.choices[0].logprobs and answer.choices[0].logprobs.content
        assert [(t.token, t.top_logprobs[0].token) for t in answer.choices[0].logprobs.content] == [("Hi", "x"), (" there", "x")]
        assert answer.usage and answer.usage.prompt_tokens_details and answer.usage.prompt_tokens_details.cached_tokens == 3
        text = ""
        stream = await client.chat.completions.create(
            model="null", messages=MESSAGES, stream=True, stream_options={"include_usage": True}, logprobs=True
        )
        chunks = [chunk async for chunk in stream]
        for chunk in chunks:
            strictly(ChatCompletionChunk, chunk)
            text += chunk.choices[0].delta.content or "" if chunk.choices else ""
        assert text == "Hi there" and chunks[-1].usage and chunks[-1].usage.total_tokens == 9


async def test_the_clients_own_accumulator_agrees() -> None:
    async with (
        serving(FakeClient(words(["Hi", " there"]))) as url,
        openai_client(url) as client,
        client.chat.completions.stream(model="x", messages=MESSAGES) as stream,
    ):
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "Hi there" and final.choices[0].finish_reason == "stop"


async def test_the_tutorials_streaming_loop() -> None:
    """FastDeploy's: any model name, any key, and `delta.content` read from every chunk without a look at `choices`."""
    async with serving(FakeClient(words(["明天", "去", "走走"]))) as url, openai_client(url) as client:
        stream = await client.chat.completions.create(
            model="null",
            messages=MESSAGES,
            stream=True,
            max_tokens=2048,
            temperature=0.7,
            top_p=0.9,
            frequency_penalty=0.1,
            presence_penalty=0.1,
            stop=["出去走走"],
            extra_body={"top_k": 20, "metadata": {"enable_thinking": False}},
        )
        text = ""
        async for chunk in stream:
            assert chunk.choices[0].delta.content is not None
            text += chunk.choices[0].delta.content
        assert text == "明天去走走"


async def test_the_tutorials_data_lines() -> None:
    async with serving(FakeClient(words(["Hi", " there"]))) as url:

        def read() -> str:
            text = ""
            body = json.dumps({"messages": MESSAGES, "stream": True})
            with requests.post(f"{url}/v1/chat/completions", data=body, stream=True, timeout=10) as response:
                for line in response.iter_lines():
                    if line and line != b"data: [DONE]":
                        text += json.loads(line.removeprefix(b"data: "))["choices"][0]["delta"]["content"]
            return text

        assert await asyncio.to_thread(read) == "Hi there"


async def test_completion_types() -> None:
    events = [replace(event, logprobs=(logprob(event.text, -0.5),)) for event in words([" Bei", "jing"])]
    async with serving(FakeClient(events)) as url, openai_client(url) as client:
        answer = await client.completions.create(model="null", prompt="Where is the capital of China?", logprobs=1)
        strictly(Completion, answer)
        assert answer.choices[0].text == " Beijing"
        assert answer.choices[0].logprobs and answer.choices[0].logprobs.text_offset == [0, 4]
        text = ""
        async for chunk in await client.completions.create(model="null", prompt="Where is the capital of China?", stream=True):
            if chunk.choices[0].finish_reason:  # the type knows no null, which the official server sends until the end
                strictly(Completion, chunk)
            text += chunk.choices[0].text
        assert text == " Beijing"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ContextLengthError("The prompt has 3000 tokens, the context 2048.", param="messages"), openai.BadRequestError),
        (RequestTimeoutError("Over."), openai.APIStatusError),
        (RequestAbortedError("Ended."), openai.APIStatusError),
        (OverloadedError("Full."), openai.RateLimitError),
        (UnavailableError("Starting."), openai.InternalServerError),
        (EngineError("Step."), openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_clients_exceptions(error: Any, kind: type[openai.APIStatusError], stream: bool) -> None:
    async with serving(FakeClient([error])) as url, openai_client(url) as client:
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(model="x", messages=MESSAGES, stream=stream)
    assert caught.value.status_code == error.http_status and error.message in str(caught.value)
    assert (caught.value.param, caught.value.code) == (error.param, error.code)


async def test_a_body_that_is_too_large() -> None:
    async with serving(FakeClient(words(["a"])), max_body_bytes=1000) as url, openai_client(url) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model="x", messages=[{"role": "user", "content": "x" * 2000}])
    assert caught.value.status_code == 413 and caught.value.code == "payload_too_large"


async def test_an_error_within_a_stream_reaches_the_client() -> None:
    async with serving(FakeClient([*words(["a", "b"])[:1], EngineError("The step failed.")])) as url, openai_client(url) as client:
        stream = await client.chat.completions.create(model="x", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="The step failed"):
            async for _ in stream:
                pass


async def test_keys_and_models() -> None:
    async with serving(FakeClient(words(["a"])), api_keys=("k",), served_model_names=("e",)) as url, openai_client(url) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
        keyed = client.with_options(api_key="k")
        assert [model.id async for model in keyed.models.list()] == ["e"]
        assert (await keyed.models.retrieve("e")).object == "model"
        with pytest.raises(openai.NotFoundError):
            await keyed.chat.completions.create(model="other", messages=MESSAGES)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_real_hang_up_ends_the_work(stream: bool) -> None:
    client = FakeClient([*words(["a", "b"])[:1], asyncio.Event()])
    async with serving(client) as url:
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps(HELLO | {"stream": stream}).encode()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        while not client.requests:
            await asyncio.sleep(0.01)
        writer.close()
        for _ in range(500):
            if client.abandoned:
                break
            await asyncio.sleep(0.01)
        assert len(client.abandoned) == 1


async def test_a_client_that_asks_first_is_refused_before_it_sends() -> None:
    async with serving(FakeClient(words(["a"])), max_body_bytes=100_000) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\nexpect: 100-continue\r\n\r\n")
        status = await asyncio.wait_for(reader.readline(), 60)
        assert status.split()[1] == b"413"
        writer.close()


async def test_a_client_that_still_sends_gets_its_refusal() -> None:
    """Instead of a connection that breaks under its hands."""

    def pieces() -> Iterator[bytes]:
        for _ in range(3):
            yield b"x" * 100_000
            time.sleep(0.1)

    def post(url: str) -> int:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        connection.request("POST", "/v1/chat/completions", body=pieces(), headers={"content-length": "300000"})
        status = connection.getresponse().status
        connection.close()
        return status

    async with serving(FakeClient(words(["a"])), max_body_bytes=100_000) as url:
        assert await asyncio.to_thread(post, url) == 413
