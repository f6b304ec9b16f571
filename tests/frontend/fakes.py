"""A scripted engine, and the shortest ways to ask the application something; knows no expectation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import httpx

from ernie_backend.protocol import Usage
from ernie_openai.app import create_app
from ernie_openai.client import AnswerEvent, EnsembleRequest
from ernie_openai.settings import FrontendSettings

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello"}]}

Step = AnswerEvent | Exception | asyncio.Event


def words(texts: Sequence[str], index: int = 0, finish: str = "stop", prompt_tokens: int = 7, **first: Any) -> list[AnswerEvent]:
    """One event per text, each with one token; the last one ends the choice. `first` goes onto the first event."""
    return [
        AnswerEvent(
            index=index,
            text=text,
            token_ids=(100 + i,),
            finish_reason=finish if i == len(texts) - 1 else None,
            usage=Usage(prompt_tokens=prompt_tokens, completion_tokens=i + 1, cached_tokens=prompt_tokens // 2),
            **(first if i == 0 else {}),
        )
        for i, text in enumerate(texts)
    ]


def logprob(token: str, value: float, others: dict[str, float] | None = None) -> dict[str, Any]:
    top = [{"token": t, "token_id": 1, "logprob": v, "bytes": list(t.encode())} for t, v in (others or {}).items()]
    return {"token": token, "token_id": 2, "logprob": value, "bytes": list(token.encode()), "top_logprobs": top}


class FakeClient:
    """Plays one script per prompt, in the order of the prompts; an exception in a script is raised, an event is waited for."""

    def __init__(self, *scripts: Sequence[Step], ready: bool = True) -> None:
        self.scripts = list(scripts)
        self.ready = ready
        self.requests: list[EnsembleRequest] = []
        self.abandoned: list[str] = []
        """Ids of requests whose script was not played to its end."""
        self.closed = False
        self.under_way: set[str] = set()
        """Ids that an abort finds."""
        self.aborts: list[tuple[str, tuple[str, ...] | None]] = []

    async def generate(self, request: EnsembleRequest) -> AsyncGenerator[AnswerEvent, None]:
        script = self.scripts[len(self.requests) % len(self.scripts)]
        self.requests.append(request)
        finished = False
        try:
            for step in script:
                if isinstance(step, Exception):
                    finished = True
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    await asyncio.sleep(0)
                    yield step
            finished = True
        finally:
            if not finished:
                self.abandoned.append(request.request_id)

    async def abort(self, tenant: str | None, answer_ids: tuple[str, ...] | None) -> tuple[str, ...]:
        self.aborts.append((tenant, answer_ids))
        return tuple(sorted(self.under_way if answer_ids is None else self.under_way & set(answer_ids)))

    async def is_ready(self) -> bool:
        return self.ready

    async def metrics(self) -> bytes:
        return b"nv_inference_count 3\n"

    async def close(self) -> None:
        self.closed = True

    def sampling(self, prompt: int = 0) -> dict[str, Any]:
        return json.loads(self.requests[prompt].sampling_parameters)

    def chat(self, prompt: int = 0) -> dict[str, Any]:
        chat = self.requests[prompt].chat
        assert chat is not None
        return json.loads(chat)


def settings(**fields: Any) -> FrontendSettings:
    return FrontendSettings(triton_grpc="127.0.0.1:1", triton_metrics="http://127.0.0.1:1/metrics", **fields)


def http(client: FakeClient, **fields: Any) -> httpx.AsyncClient:
    """An HTTP client wired straight into the application."""
    transport = httpx.ASGITransport(create_app(settings(**fields), client), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://front")


def sse(text: str) -> list[Any]:
    """The data of a stream's events; `[DONE]` stays a string."""
    assert text.endswith("\n\n")
    lines = text[:-2].split("\n\n")
    assert all(line.startswith("data: ") for line in lines)
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


class AsgiCall:
    """One request by hand, for what an HTTP client hides: when each message is sent, and hanging up."""

    def __init__(self, app: Any, path: str, body: Any, *, headers: Sequence[tuple[bytes, bytes]] = (), more_body: bool = False) -> None:
        """`more_body`: the rest of the body never comes."""
        self.sent: list[Any] = []
        self.hang_up = asyncio.Event()
        self._body = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": more_body}]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "server": ("front", 80),
            "client": ("127.0.0.1", 1),
            "headers": [(b"content-type", b"application/json"), *headers],
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> Any:
        if self._body:
            return self._body.pop()
        await self.hang_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()


async def until(condition: Any, turns: int = 1000) -> None:
    """Lets the loop turn until `condition()` holds."""
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("never happened")
