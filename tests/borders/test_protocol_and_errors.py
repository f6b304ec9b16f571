"""What crosses Triton comes out as it went in."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ernie_backend.errors import (
    ContextLengthError,
    EngineError,
    ErnieError,
    InvalidRequestError,
    OverloadedError,
    RequestAbortedError,
    RequestTimeoutError,
    UnavailableError,
    from_wire,
)
from ernie_backend.protocol import GenerateRequest, SamplingParams


def test_a_request_survives_its_json() -> None:
    sampling = SamplingParams(
        max_tokens=5,
        seed=2**62,
        logit_bias=((3, -1.5),),
        bad_words_token_ids=((1, 2), (3,)),
        stop_token_ids=(9,),
        eos_token_ids=(2,),
        logprobs=3,
    )
    request = GenerateRequest("k" * 32, (1, 2, 3), sampling, n=2, stream=False, post={"echo": None, "x": [1]})
    assert GenerateRequest.from_json(request.to_json(), (1, 2, 3)) == request


@pytest.mark.parametrize(("field", "value"), [("temperature", 0.0), ("top_p", 0.0), ("top_k", 1)])
def test_greedy(field: str, value: float) -> None:
    assert SamplingParams(max_tokens=1, **{field: value}).greedy  # type: ignore[arg-type]
    assert not SamplingParams(max_tokens=1).greedy


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequestError("temperature must be a number from 0 to 100, got -1.", param="temperature"),
        InvalidRequestError("A (bracketed; odd) message (param: none)\nof two lines.", param="messages[0].content[1]"),
        InvalidRequestError("x", param="tools", code="unsupported"),
        ContextLengthError("too long", param="messages"),
        OverloadedError("later"),
        OverloadedError("later", retry_after_seconds=12),
        RequestTimeoutError("over", param="timeout"),
        RequestAbortedError("ended"),
        UnavailableError("down"),
        EngineError("ours"),
    ],
)
def test_an_error_survives_the_wire(error: ErnieError) -> None:
    back = from_wire(error.to_wire())
    assert back.retry_after_seconds == error.retry_after_seconds
    assert (back.message, back.param, back.code, back.type, back.http_status) == (
        error.message,
        error.param,
        error.code,
        error.type,
        error.http_status,
    )


@given(st.text(max_size=200), st.text(max_size=200))
@example("required property '\0'", "a\0b")
def test_no_param_or_message_breaks_the_wire_form(message: str, param: str) -> None:
    wire = InvalidRequestError(message, param=param).to_wire()
    assert "\0" not in wire, "Triton would cut it there"
    back = from_wire(wire)
    assert (back.message, back.http_status, back.code) == (message.replace("\0", "\\x00"), 400, "invalid_value")
    assert bool(back.param) == bool(param)


def test_foreign_text_becomes_an_engine_error_that_does_not_repeat_it() -> None:
    back = from_wire("in ensemble 'ernie', Failed to process: /usr/lib/python3: secret")
    assert isinstance(back, EngineError) and "secret" not in back.message


def test_triton_may_put_words_before_the_wire_form() -> None:
    back = from_wire("in ensemble 'ernie', " + InvalidRequestError("n must be ≥ 1.", param="n").to_wire())
    assert back.param == "n" and back.http_status == 400
