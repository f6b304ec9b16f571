"""Every refusal: its status, the field it names, and that the engine never heard of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ernie_backend.errors import (
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    OverloadedError,
    UnavailableError,
)

from .fakes import CHAT, COMPLETIONS, HELLO, FakeClient, http, words


def assert_error(response: Any, status: int, *, param: str | None, code: str, kind: str = "invalid_request_error", text: str = "") -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == (kind, param, code)
    assert text in error["message"]


CHAT_FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"temprature": 1}, "temprature", "Unknown field"),
    ({"temprature": None}, "temprature", "Unknown field"),
    ({"prompt": "x"}, "prompt", "Unknown field"),
    ({"model": 3}, "model", "string"),
    ({"model": "m" * 257}, "model", "must have at most 256 characters"),
    ({"stream": "yes"}, "stream", "boolean"),
    ({"n": 0}, "n", "greater than or equal to 1"),
    ({"n": 129}, "n", "n must be less than or equal to 128, got 129."),
    ({"n": 100_000}, "n", "n must be less than or equal to 128, got 100000."),
    ({"n": 10**30}, "n", "n must be less than or equal to 128, got 1000000"),
    ({"n": 1.5}, "n", "integer"),
    ({"n": True}, "n", "integer"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream is true"),
    ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage", "Unknown field"),
    ({"stream": True, "stream_options": {"usage": None}}, "stream_options.usage", "Unknown field"),
    ({"stream": True, "stream_options": True}, "stream_options", "must be"),
    ({"top_logprobs": 2}, "top_logprobs", "logprobs must be true"),
    ({"logprobs": True, "top_logprobs": -1}, "top_logprobs", "greater than or equal to 0"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
    ({"logprobs": 3}, "logprobs", "boolean"),
    ({"metadata": "x"}, "metadata", "dictionary"),
    ({"request_id": ""}, "request_id", "at least 1"),
    ({"request_id": "a\r\nb"}, "request_id", "match pattern"),
    ({"request_id": "x" * 257}, "request_id", "at most 256"),
    ({"max_streaming_response_tokens": 0}, "max_streaming_response_tokens", "greater than or equal to 1"),
    ({"return_token_ids": 1}, "return_token_ids", "boolean"),
]

NOT_YET: list[tuple[str, Any]] = [
    ("verbosity", "low"),
    ("chat_template", "{{ messages }}"),
    ("logits_processors_args", {"a": 1}),
    ("prompt_logprobs", 0),
    ("completion_token_ids", [1]),
    ("best_of", 2),
    ("best_of", True),
    ("priority", False),
    ("suffix", "end"),
]


@pytest.mark.parametrize(("fields", "param", "text"), CHAT_FAULTS, ids=[json.dumps(f)[:60] for f, _, _ in CHAT_FAULTS])
async def test_faulty_chat_fields(fields: dict[str, Any], param: str, text: str) -> None:
    client = FakeClient(words(["a"]))
    async with http(client) as front:
        assert_error(await front.post(CHAT, json=HELLO | fields), 400, param=param, code="invalid_value", text=text)
    assert client.requests == []


IN_METADATA: list[tuple[dict[str, Any], str, str]] = [
    ({"n": "2"}, "n", "metadata.n must be a valid integer"),
    ({"top_logprobs": 2}, "top_logprobs", "When using metadata.top_logprobs, logprobs must be true."),
    ({"stream_options": {}, "return_token_ids": 1}, "return_token_ids", "metadata.return_token_ids must be"),
]


@pytest.mark.parametrize(("fields", "name", "text"), IN_METADATA, ids=[name for _, name, _ in IN_METADATA])
async def test_a_parameter_in_metadata_is_named_where_it_stands(fields: dict[str, Any], name: str, text: str) -> None:
    async with http(FakeClient(words(["a"]))) as front:
        response = await front.post(CHAT, json=HELLO | {"metadata": fields})
    assert_error(response, 400, param=f"metadata.{name}", code="invalid_value", text=text)


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"metadata": {"min_tokens": 5}}, "metadata.min_tokens", "metadata.min_tokens (5) must not exceed max_tokens (3)."),
        ({"min_tokens": 5, "metadata": {"min_tokens": 1}}, "min_tokens", "min_tokens (5) must not exceed max_tokens (3)."),
        ({"min_tokens": 5}, "min_tokens", "min_tokens (5) must not exceed max_tokens (3)."),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_so_it_is_by_the_engines_errors(body: dict[str, Any], param: str, message: str, stream: bool) -> None:
    error = InvalidRequestError("min_tokens (5) must not exceed max_tokens (3).", param="min_tokens")
    async with http(FakeClient([error])) as front:
        response = await front.post(CHAT, json=HELLO | {"stream": stream} | body)
    assert_error(response, 400, param=param, code="invalid_value", text=message)


async def test_hashes_of_media_are_refused_with_their_reason() -> None:
    async with http(FakeClient(words(["a"]))) as front:
        assert_error(
            await front.post(CHAT, json=HELLO | {"mm_hashes": ["a"]}),
            400,
            param="mm_hashes",
            code="invalid_value",
            text="found again by its content",
        )


@pytest.mark.parametrize(("name", "value"), NOT_YET, ids=str)
async def test_fields_of_later_versions_are_named(name: str, value: Any) -> None:
    async with http(FakeClient(words(["a"]))) as front:
        assert_error(await front.post(CHAT, json=HELLO | {name: value}), 400, param=name, code="invalid_value", text="not supported yet")


@pytest.mark.parametrize(
    ("body", "param", "text"),
    [
        ({"prompt": ""}, "prompt", "non-empty string"),
        ({"prompt": []}, "prompt", "1 to 256 prompts"),
        ({"prompt": ["a", ""]}, "prompt[1]", "non-empty string"),
        ({"prompt": ["a"] * 257}, "prompt", "got 257"),
        ({"prompt": ["a", 1]}, "prompt[1]", "non-empty string"),
        ({"prompt": [None]}, "prompt[0]", "non-empty string"),
        ({"prompt_token_ids": []}, "prompt_token_ids", "1 to 256 prompts"),
        ({"prompt_token_ids": [1], "prompt": [[{}]]}, "prompt", "list of token ids"),
        ({"prompt_token_ids": [1], "prompt": [["a"]]}, "prompt", "list of token ids"),
        ({"prompt_token_ids": [1], "prompt": [True]}, "prompt", "list of token ids"),
        ({"prompt_token_ids": [1], "prompt": {}}, "prompt", "list of token ids"),
        ({"prompt_token_ids": "a"}, "prompt_token_ids", "texts go into prompt"),
        ({"prompt_token_ids": ["a"]}, "prompt_token_ids", "texts go into prompt"),
        ({"prompt_token_ids": [[1], "a"]}, "prompt_token_ids", "texts go into prompt"),
        ({"prompt": [[1], []]}, "prompt[1]", "non-empty"),
        ({"prompt": {"a": 1}}, "prompt", "list of strings"),
        ({"prompt": "a", "messages": []}, "messages", "Unknown field"),
        ({"prompt": "a", "logprobs": 21}, "logprobs", "less than or equal to 20"),
        ({"prompt": "a", "logprobs": True}, "logprobs", "integer"),
        ({"prompt": "a", "best_of": 2}, "best_of", "not supported yet"),
        ({"prompt": "a", "suffix": {"n": 2}}, "suffix", "not supported yet"),
    ],
)
async def test_faulty_completion_fields(body: dict[str, Any], param: str, text: str) -> None:
    client = FakeClient(words(["a"]))
    async with http(client) as front:
        assert_error(await front.post(COMPLETIONS, json=body), 400, param=param, code="invalid_value", text=text)
    assert client.requests == []


@pytest.mark.parametrize(("path", "param"), [(CHAT, "messages"), (COMPLETIONS, "prompt")])
async def test_what_is_missing_is_named(path: str, param: str) -> None:
    async with http(FakeClient(words(["a"]))) as front:
        assert_error(await front.post(path, json={}), 400, param=param, code="missing_required_parameter", text="required")


@pytest.mark.parametrize(
    ("raw", "param", "text"),
    [
        (b"", None, "not valid JSON"),
        (b"{", None, "not valid JSON"),
        (b'{"messages": [], }', None, "not valid JSON"),
        (b"[]", None, "must be a JSON object"),
        (b"null", None, "must be a JSON object"),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', None, "not valid UTF-8"),
        ('{"messages": []}'.encode("utf-16"), None, "not valid UTF-8"),
        (b'{"temperature": NaN}', "temperature", "temperature is NaN, but JSON's numbers are finite."),
        (b'{"tools": [{"a": [0, -Infinity]}]}', "tools[0].a[1]", "tools[0].a[1] is -Infinity"),
        (b'{"temperature": 1e999}', "temperature", "temperature is 1e999, but"),
        (b'{"seed": ' + b"9" * 5000 + b"}", None, "too many digits"),
        (b'{"n": 1, "n": 2}', "n", "'n' stands twice"),
        (b'{"messages": [{"role": "user", "role": "system"}]}', "role", "'role' stands twice"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "messages[0].content", "surrogate"),
        (b'{"messages": [], "a": {"\\ud800": 1}}', "a", "surrogate"),
        (b'{"\\ud800": 1}', None, "surrogate"),
        (b'{"\\ud800": NaN}', "?", "NaN"),
        (b'{"\\ud800": 1, "\\ud800": 2}', "?", "stands twice"),
        (b'{"a":' + b"[" * 900 + b'"\\ud800"' + b"]" * 900 + b"}", "a" + "[0]" * 33, "surrogate"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "a.a.a.a", "nested too deeply"),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_bodies_that_are_no_json_object(raw: bytes, param: str | None, text: str) -> None:
    client = FakeClient(words(["a"]))
    async with http(client) as front:
        response = await front.post(CHAT, content=raw, headers={"content-type": "application/json"})
    assert_error(response, 400, param=param, code="invalid_value", text=text)
    assert client.requests == []


async def test_an_escaped_surrogate_pair_is_a_character() -> None:
    client = FakeClient(words(["a"]))
    raw = json.dumps({"messages": [{"role": "user", "content": "😀"}]}, ensure_ascii=True)
    assert "\\ud83d" in raw
    async with http(client) as front:
        assert (await front.post(CHAT, content=raw)).status_code == 200
    assert "😀" in (client.requests[0].chat or "")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"content-type": "application/json; charset=UTF-8"}, 200),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "application/json; charset=gbk"}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ({"origin": "https://page.example"}, 415),
        ({"origin": "https://page.example", "content-type": "text/plain"}, 415),
        ({"origin": "https://page.example", "content-type": "application/json"}, 200),
    ],
)
async def test_content_types(headers: dict[str, str], status: int) -> None:
    async with http(FakeClient(words(["a"]))) as front:
        assert (await front.post(CHAT, content=json.dumps(HELLO), headers=headers)).status_code == status


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("size", [4096, 40_000])
async def test_a_body_beyond_the_limit(announced: bool, size: int) -> None:
    client = FakeClient(words(["a"]))
    body = json.dumps({"messages": [{"role": "user", "content": "x" * size}]}).encode()

    async def pieces() -> Any:
        for at in range(0, len(body), 500):
            yield body[at : at + 500]

    async with http(client, max_body_bytes=4096) as front:
        response = await front.post(CHAT, content=body if announced else pieces(), headers={"content-type": "application/json"})
    assert_error(response, 413, param=None, code="payload_too_large", text="4096 bytes")
    assert client.requests == []


async def test_a_body_at_the_limit_passes() -> None:
    body = json.dumps(HELLO).encode()
    async with http(FakeClient(words(["a"])), max_body_bytes=len(body)) as front:
        assert (await front.post(CHAT, content=body)).status_code == 200
        assert (await front.post(CHAT, content=body + b" ")).status_code == 413


ENGINE_ERRORS = [
    (InvalidRequestError("temperature must be a number from 0 to 100, got -1.", param="temperature"), 400, "temperature", "invalid_value"),
    (ContextLengthError("The prompt has 9000 tokens, the context 2048.", param="messages"), 400, "messages", "context_length_exceeded"),
    (OverloadedError("Too many requests wait."), 429, None, "overloaded"),
    (UnavailableError("Starting."), 503, None, "unavailable"),
    (EngineError("The step failed."), 500, None, "internal_error"),
    (RuntimeError("secret /path/of/ours"), 500, None, "internal_error"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("error", "status", "param", "code"), ENGINE_ERRORS, ids=[type(e[0]).__name__ for e in ENGINE_ERRORS])
async def test_an_error_before_the_first_byte_keeps_its_status(
    error: Exception, status: int, param: str | None, code: str, stream: bool
) -> None:
    async with http(FakeClient([error])) as front:
        response = await front.post(CHAT, json=HELLO | {"stream": stream})
    kind = {400: "invalid_request_error", 429: "overloaded_error"}.get(status, "server_error")
    assert_error(response, status, param=param, code=code, kind=kind)
    assert ("retry-after" in response.headers) == (status in (429, 503))
    assert "secret" not in response.text and "Traceback" not in response.text


@pytest.mark.parametrize(
    ("path", "body", "inner", "param"),
    [
        (CHAT, HELLO, "messages[0].role", "messages[0].role"),
        (CHAT, HELLO | {"prompt_token_ids": [9]}, "prompt_token_ids[0]", "prompt_token_ids[0]"),
        (COMPLETIONS, {"prompt": "x"}, "text_input", "prompt"),
        (COMPLETIONS, {"prompt": ["x"]}, "text_input", "prompt[0]"),
        (COMPLETIONS, {"prompt": [5, 6]}, "prompt_token_ids[1]", "prompt[1]"),
        (COMPLETIONS, {"prompt": [[5, 6]]}, "prompt_token_ids[1]", "prompt[0][1]"),
        (COMPLETIONS, {"prompt_token_ids": [5, 6]}, "prompt_token_ids[1]", "prompt_token_ids[1]"),
        (COMPLETIONS, {"prompt": "x"}, "temperature", "temperature"),
    ],
)
@pytest.mark.parametrize("kind", [InvalidRequestError, ContextLengthError])
async def test_errors_of_the_ensemble_name_the_users_field(
    kind: type[InvalidRequestError], path: str, body: dict[str, Any], inner: str, param: str
) -> None:
    async with http(FakeClient([kind(f"{inner} is wrong.", param=inner)])) as front:
        response = await front.post(path, json=body)
    assert_error(response, 400, param=param, code=str(kind.code), text=f"{param} is wrong.")


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("error", [EngineError("The step failed."), UnavailableError("Stopped.")])
async def test_an_answer_that_breaks_off_is_no_answer(error: Exception, path: str) -> None:
    async with http(FakeClient([*words(["a", "b"])[:1], error])) as front:
        response = await front.post(path, json=HELLO if path == CHAT else {"prompt": "x"})
    assert response.status_code >= 500 and "choices" not in response.json()


async def test_unknown_paths_and_methods() -> None:
    async with http(FakeClient(words(["a"]))) as front:
        assert_error(await front.get("/nope"), 404, param=None, code="not_found", text="/nope")
        wrong = await front.get(CHAT)
        assert_error(wrong, 405, param=None, code="method_not_allowed")
        assert wrong.headers["allow"] == "POST"
        assert set((await front.delete("/ping")).headers["allow"].split(", ")) == {"GET", "POST"}
        assert (await front.get("/docs")).status_code == 404
