"""Who is let in: keys, scopes, the file of keys, other people's web pages; and that no answer, log or process list shows a key."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ernie_backend.api_keys import ENVIRONMENT_VARIABLE, make_key, read_key_file
from ernie_backend.errors import ConfigError
from ernie_openai.access import KeyRing

from .fakes import CHAT, HELLO, FakeClient, http, words
from .test_bad_input import assert_error

WRONG_KEYS = ["", "Bearer", "Bearer ", "Bearer wrong", "Bearer secret-1x", "Basic secret-1", "secret-1", "Bearer secret-1 secret-2"]
PATHS = [("POST", CHAT), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("DELETE", CHAT)]
NO_PATHS = [("GET", "/v1"), ("GET", "/nope"), ("GET", "/health/"), ("GET", "/v1/../metrics"), ("GET", "/METRICS")]


@pytest.mark.parametrize("header", WRONG_KEYS)
@pytest.mark.parametrize(("method", "path"), PATHS + NO_PATHS)
async def test_no_path_but_health_answers_without_a_key(header: str, method: str, path: str) -> None:
    client = FakeClient(words(["a"]))
    async with http(client, api_keys=("secret-1", "secret-2")) as front:
        response = await front.request(method, path, json=HELLO, headers={"authorization": header} if header else {})
    assert_error(response, 401, param=None, code="invalid_api_key", kind="authentication_error")
    assert response.headers["www-authenticate"] == "Bearer" and "secret" not in response.text
    assert client.requests == []


@pytest.mark.parametrize("header", ["Bearer secret-1", "bearer secret-2", "Bearer  schlüssel"])
async def test_any_of_the_keys_opens(header: str) -> None:
    async with http(FakeClient(words(["a"])), api_keys=("secret-1", "secret-2", "schlüssel")) as front:
        for path in ("/v1/models", "/metrics"):
            assert (await front.get(path, headers={"authorization": header.encode()})).status_code == 200


async def test_health_needs_no_key() -> None:
    async with http(FakeClient(words(["a"])), api_keys=("secret-1",)) as front:
        assert [(await front.get(path)).status_code for path in ("/health", "/ping")] == [200, 200]


async def test_every_route_that_is_not_open_asks_for_a_key() -> None:
    """Routes that come later are covered, too: whatever the application knows, and nothing by its name."""
    async with http(FakeClient(words(["a"])), api_keys=("secret-1",)) as front:
        routes = (await front.get("/openapi.json", headers={"authorization": "Bearer secret-1"})).json()["paths"]
        assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/metrics", "/health"} <= set(routes)
        for path, methods in routes.items():
            for method in methods:
                open_to_all = path in ("/", "/health", "/ping")
                assert ((await front.request(method, path)).status_code != 401) == open_to_all, path


SCOPED = """
# for the chat page
secret-infer   infer
secret-metrics metrics
secret-admin   admin
secret-both    infer,metrics
secret-plain
"""


@pytest.mark.parametrize(
    ("key", "models", "metrics"),
    [("infer", 200, 403), ("metrics", 403, 200), ("admin", 200, 200), ("both", 200, 200), ("plain", 200, 200), ("other", 401, 401)],
)
async def test_a_key_may_do_what_its_scopes_say(tmp_path: Path, key: str, models: int, metrics: int) -> None:
    file = tmp_path / "keys"
    file.write_text(SCOPED)
    async with http(FakeClient(words(["a"])), api_key_file=str(file)) as front:
        front.headers["authorization"] = f"Bearer secret-{key}"
        answers = [await front.get("/v1/models"), await front.get("/metrics")]
    assert [answer.status_code for answer in answers] == [models, metrics]
    for answer, scope in zip(answers, ("infer", "metrics"), strict=True):
        if answer.status_code == 403:
            assert_error(answer, 403, param=None, code="insufficient_scope", kind="permission_error", text=repr(scope))


def test_only_an_administrator_is_one() -> None:
    assert "admin" not in make_key("k").scopes
    ring = KeyRing(("k",), None)
    caller = ring.caller(b"k")
    assert caller is not None and not caller.may("admin") and caller.may("infer")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_file_is_read_again_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, clock = tmp_path / "keys", Clock()
    file.write_text("old-key infer\n")
    ring = KeyRing(("fixed",), str(file), clock)

    def let_in() -> list[str]:
        clock.now += 2
        return [key for key in ("fixed", "old-key", "new-key") if ring.caller(key.encode())]

    assert let_in() == ["fixed", "old-key"]
    file.write_text("new-key infer\n# and a comment\n")
    assert let_in() == ["fixed", "new-key"]
    with caplog.at_level(logging.WARNING):
        file.write_text("old-key emperor\n# the scope is wrong\n")
        assert let_in() == ["fixed", "new-key"], "a mistake changes nothing"
        file.unlink()
        assert let_in() == ["fixed", "new-key"], "nor does a file that is just being replaced"
        file.write_text("")
        assert let_in() == ["fixed"], "an empty file lets nobody in"
    assert "Line 1" in caplog.text and "old-key" not in caplog.text and "emperor" not in caplog.text
    assert ring.asks
    for mode, told in ((0o600, 0), (0o604, 1)):
        caplog.clear()
        file.write_text(f"new-key infer\n# {mode}\n")
        file.chmod(mode)
        assert let_in() == ["fixed", "new-key"]
        assert len([line for line in caplog.messages if "can be read by others" in line and "chmod 600" in line]) == told


async def test_an_emptied_file_does_not_open_the_server(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("")
    async with http(FakeClient(words(["a"])), api_key_file=str(file)) as front:
        assert (await front.get("/v1/models", headers={"authorization": "Bearer "})).status_code == 401


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b c", "Line 1 of the file of API keys FILE must be a key"),
        ("\n\nsesame king", "Line 3 of the file of API keys FILE has an unknown scope. Scopes are infer, metrics, admin."),
        ("sesame infer,", "unknown scope"),
        ("sesame\nsesame admin", "Line 2 of the file of API keys FILE repeats a key"),
        ("ses,ame", "Line 1 of the file of API keys FILE: An API key must be one word"),
        ("sesame\u0007", "one word"),
        ("a\u2028infer\r\nb\x0cadmin\r\n\r\nsesame king", "Line 4 of the file of API keys FILE has an unknown scope"),
        ("open\nsesame\udcff", "Line 2 of the file of API keys FILE is not UTF-8 text"),
    ],
)
def test_mistakes_in_the_file_are_told_without_the_key(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "keys"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        read_key_file(file)
    assert message.replace("FILE", repr(str(file))) in caught.value.message and "sesame" not in caught.value.message


def test_a_key_is_nowhere_to_be_read() -> None:
    ring = KeyRing(("sesame",), None)
    assert "sesame" not in repr(vars(ring)) and "sesame" not in repr(ring.caller(b"sesame"))


@pytest.mark.parametrize(("file", "said"), [(None, "cannot be read"), ("a b c", "Line 1")])
def test_a_front_end_with_a_bad_file_does_not_start(tmp_path: Path, file: str | None, said: str) -> None:
    path = tmp_path / "keys"
    if file is not None:
        path.write_text(file)
    command = [sys.executable, "-m", "ernie_openai", "--port", "0", "--api-key-file", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2 and said in ended.stderr and "Traceback" not in ended.stderr


def test_keys_come_from_the_environment_as_in_fastdeploy() -> None:
    environment = {**os.environ, ENVIRONMENT_VARIABLE: "bad key"}
    command = [sys.executable, "-m", "ernie_openai", "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert ended.returncode == 2 and "one word" in ended.stderr and "bad key" not in ended.stderr


PREFLIGHT = {"origin": "https://chat.example", "access-control-request-method": "POST", "access-control-request-headers": "authorization"}


async def test_pages_of_others_may_not_ask_unless_their_origin_is_allowed() -> None:
    client = FakeClient(words(["a"]))
    async with http(client, api_keys=("k",)) as front:
        assert (await front.options(CHAT, headers=PREFLIGHT)).status_code == 401
        answer = await front.get("/health", headers={"origin": "https://chat.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]
    async with http(client, api_keys=("k",), allowed_origins=("https://chat.example",)) as front:
        allowed = await front.options(CHAT, headers=PREFLIGHT)
        assert allowed.status_code == 200 and allowed.headers["access-control-allow-origin"] == "https://chat.example"
        assert "access-control-allow-credentials" not in allowed.headers
        assert (await front.options(CHAT, headers={**PREFLIGHT, "origin": "https://evil.example"})).status_code == 400
        refused = await front.post(CHAT, json=HELLO, headers={"origin": "https://chat.example"})
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "https://chat.example", (
            "the page may read why"
        )


@pytest.mark.parametrize("given", [None, "abc-1.2_3:x", "x" * 128])
async def test_every_answer_has_an_id_and_repeats_a_proper_one(given: str | None) -> None:
    async with http(FakeClient(words(["a"]), [RuntimeError()])) as front:
        requests: list[tuple[str, str, Any]] = [
            ("POST", CHAT, HELLO),
            ("POST", CHAT, HELLO),
            ("GET", "/nope", None),
            ("GET", "/health", None),
        ]
        answers = [await front.request(m, p, json=b, headers={"x-request-id": given} if given else {}) for m, p, b in requests]
    assert [answer.status_code for answer in answers] == [200, 500, 404, 200]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert ids == [given] * 4 if given else len(set(ids)) == 4
    assert all(answer.headers["x-content-type-options"] == "nosniff" for answer in answers)


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "<script>", "a\tb", "é"])
async def test_an_id_that_could_break_a_log_line_is_not_repeated(given: str) -> None:
    async with http(FakeClient(words(["a"]))) as front:
        answer = await front.get("/health", headers={"x-request-id": given.encode()})
    assert answer.headers["x-request-id"] != given and len(answer.headers["x-request-id"]) == 32
