"""How requests are to be treated: time limits, tiers, whose they are, when to come back; and ending answers by their ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ernie_backend.errors import OverloadedError
from ernie_backend.protocol import Level

from .fakes import CHAT, COMPLETIONS, HELLO, FakeClient, http, sse, words

ABORT = "/v1/abort_requests"


@pytest.mark.parametrize(("given", "microseconds"), [("2", 2_000_000), ("0.25", 250_000), ("1e-7", 1)])
async def test_the_time_limit_reaches_the_ensemble(given: str, microseconds: int) -> None:
    client = FakeClient(words(["a"]))
    async with http(client) as front:
        await front.post(CHAT, json=HELLO, headers={"X-Request-Timeout": given})
        await front.post(CHAT, json=HELLO)
    assert [request.terms.timeout_microseconds for request in client.requests] == [microseconds, 0]


@pytest.mark.parametrize("given", ["soon", "0", "-1", "nan", "inf", "1e9", "", "1_0", "٢", "1.2.3", "5, 5"])
async def test_a_time_limit_that_cannot_be_meant(given: str) -> None:
    async with http(FakeClient(words(["a"]))) as front:
        encoded = {"X-Request-Timeout": given.encode()}
        answer = await front.post(CHAT, json=HELLO, headers=encoded)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "X-Request-Timeout"


async def test_two_time_limits_are_none() -> None:
    async with http(FakeClient(words(["a"]))) as front:
        answer = await front.post(CHAT, json=HELLO, headers=[("X-Request-Timeout", "5"), ("X-Request-Timeout", "9")])
    assert answer.status_code == 400 and "got '5, 9'" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("tier", "used", "level"),
    [
        ("auto", "default", Level.DEFAULT),
        ("default", "default", Level.DEFAULT),
        ("flex", "flex", Level.FLEX),
        ("priority", "priority", Level.PRIORITY),
        (None, None, Level.DEFAULT),
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_tiers(path: str, tier: str | None, used: str | None, level: Level) -> None:
    client = FakeClient(words(["a"]))
    body = (HELLO if path == CHAT else {"prompt": "x"}) | {"service_tier": tier}
    async with http(client) as front:
        whole = (await front.post(path, json=body)).json()
        chunks = sse((await front.post(path, json=body | {"stream": True})).text)[:-1]
    assert {answer.get("service_tier") for answer in (whole, *chunks)} == {used}
    assert ("service_tier" in whole) == (tier is not None)
    assert [request.level for request in client.requests] == [level, level]


async def test_an_unknown_tier() -> None:
    async with http(FakeClient(words(["a"]))) as front:
        answer = await front.post(CHAT, json=HELLO | {"service_tier": "scale"})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "service_tier"


async def test_each_key_is_a_tenant_that_nobody_can_read_back() -> None:
    client = FakeClient(words(["a"]))
    async with http(client, api_keys=("first", "second")) as front:
        for key in ("first", "second", "first"):
            await front.post(CHAT, json=HELLO, headers={"Authorization": f"Bearer {key}"})
    first, second, again = (request.terms.tenant for request in client.requests)
    assert first == again != second and "first" not in first
    unkeyed = FakeClient(words(["a"]))
    async with http(unkeyed) as front:
        await front.post(CHAT, json=HELLO, headers={"Authorization": "Bearer anything"})
    assert unkeyed.requests[0].terms.tenant == "", "a key that nobody asked for names nobody"


@pytest.mark.parametrize(("seconds", "header"), [(17, "17"), (None, "1")])
async def test_when_to_come_back(seconds: int | None, header: str) -> None:
    async with http(FakeClient([OverloadedError("Full.", retry_after_seconds=seconds)])) as front:
        answer = await front.post(CHAT, json=HELLO)
    assert answer.status_code == 429 and answer.headers["retry-after"] == header


async def test_more_answers_than_the_engine_ever_gives() -> None:
    async with http(FakeClient(words(["a"])), max_concurrency=4) as front:
        for path, body, param in (
            (COMPLETIONS, {"prompt": ["a"] * 5}, "prompt"),
            (COMPLETIONS, {"prompt": ["a"] * 3, "n": 2}, "n"),
            (CHAT, HELLO | {"n": 5}, "n"),
        ):
            error = (await front.post(path, json=body)).json()["error"]
            assert error["param"] == param and "at most 4 answers at once" in error["message"]
        assert (await front.post(COMPLETIONS, json={"prompt": ["a"] * 4})).status_code == 200


async def test_answers_are_aborted_by_id() -> None:
    client = FakeClient(words(["a"]))
    client.under_way = {"chatcmpl-1", "cmpl-2"}
    async with http(client, api_keys=("k",)) as front:
        front.headers["Authorization"] = "Bearer k"
        answer = (await front.post(ABORT, json={"req_ids": ["cmpl-2", "gone", "cmpl-2"]})).json()
        assert answer == {"status": "success", "error_message": None, "result": {"aborted": ["cmpl-2"], "not_found": ["gone"]}}
        everything = (await front.post(ABORT, json={"abort_all": True})).json()["result"]
        assert everything == {"aborted": ["chatcmpl-1", "cmpl-2"], "not_found": []}
        await front.post(CHAT, json=HELLO)
    ((tenant, ids), (_, none)) = client.aborts
    assert ids == ("cmpl-2", "gone") and none is None and tenant == client.requests[0].terms.tenant != ""


async def test_an_administrator_aborts_everybody_s(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("chief admin\nguest infer\n")
    client = FakeClient(words(["a"]))
    async with http(client, api_key_file=str(tmp_path / "keys")) as front:
        for key in ("chief", "guest"):
            await front.post(ABORT, json={"abort_all": True}, headers={"Authorization": f"Bearer {key}"})
    assert [tenant is None for tenant, _ in client.aborts] == [True, False]


async def test_what_is_aborted_is_what_was_answered_to() -> None:
    client = FakeClient(words(["a"]))
    async with http(client) as front:
        answer = (await front.post(COMPLETIONS, json={"prompt": ["a", "b"]})).json()
    assert [request.answer_id for request in client.requests] == [answer["id"]] * 2


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "req_ids"),
        ({"req_ids": []}, "req_ids"),
        ({"req_ids": "chatcmpl-1"}, "req_ids"),
        ({"req_ids": ["a"] * 5000}, "req_ids"),
        ({"req_ids": [1]}, "req_ids[0]"),
        ({"req_ids": ["a"], "abort_all": True}, "abort_all"),
        ({"abort_all": "yes"}, "abort_all"),
        ({"stop_all": True}, "stop_all"),
    ],
)
async def test_faulty_aborts(body: dict[str, Any], param: str) -> None:
    async with http(FakeClient(words(["a"]))) as front:
        answer = await front.post(ABORT, json=body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param
