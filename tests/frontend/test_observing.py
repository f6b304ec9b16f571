"""The outermost middleware by itself: the access line of every ending, ids, and paths that try to write into the log."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from ernie_backend.errors import EngineError
from ernie_openai.observability import Observability
from tests.frontend.fakes import CHAT, COMPLETIONS, HELLO, FakeClient, http, words


def fields(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    (record,) = [record for record in caplog.records if record.name == "ernie_openai.access"]
    return {"message": record.getMessage(), "request_id": record.request_id, **record.fields}


@pytest.fixture(autouse=True)
def _told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ernie_openai.access")


async def test_a_stream_that_fails_behind_its_first_chunk_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with http(FakeClient([*words(["a", "b"])[:1], EngineError("broken")])) as front:
        answer = await front.post(CHAT, json={**HELLO, "stream": True})
    line = fields(caplog)
    assert answer.status_code == 200 and (line["status"], line["error"]) == (200, "internal_error")


@pytest.mark.parametrize("path", ["/%0aERROR%20forged", "/%1b%5b31m"])
async def test_a_path_cannot_forge_a_line(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async with http(FakeClient()) as front:
        await front.get(path)
    line = fields(caplog)
    assert line["message"].isprintable() and line["route"] == "unknown" and line["status"] == 404


async def test_prompts_are_logged_only_when_asked(caplog: pytest.LogCaptureFixture) -> None:
    async with http(FakeClient(words(["a", "b"]))) as front:
        answer = await front.post(CHAT, json={"messages": [{"role": "user", "content": "a secret"}]})
    line = fields(caplog)
    assert "prompt" not in line and line["request_id"] == answer.json()["id"]
    assert (line["prompt_tokens"], line["completion_tokens"]) == (7, 2) and "secret" not in caplog.text


async def test_of_a_prompt_only_as_much_as_was_allowed(caplog: pytest.LogCaptureFixture) -> None:
    async with http(FakeClient(words(["a"])), observability=Observability(max_log_len=5)) as front:
        await front.post(COMPLETIONS, json={"prompt": "not more than this"})
    assert fields(caplog)["prompt"] == "not m"


async def test_no_line_where_none_is_wanted(caplog: pytest.LogCaptureFixture) -> None:
    async with http(FakeClient(words(["a"])), observability=Observability(access_log=False)) as front:
        await front.post(CHAT, json=HELLO)
    assert not caplog.records
