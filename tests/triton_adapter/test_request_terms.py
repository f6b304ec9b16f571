"""Time limits, levels and aborts as Triton parameters: what is read, what is refused, and the way of an abort through all three steps."""

from __future__ import annotations

from typing import Any

import pytest

from ernie_backend.errors import InvalidRequestError
from ernie_backend.protocol import Level
from ernie_backend.triton_adapter.request_terms import AbortRequest, read_abort, read_terms


@pytest.mark.parametrize(
    ("parameters", "told", "level", "deadline"),
    [
        ({}, 0, Level.DEFAULT, None),
        ({}, 2_500_000, Level.DEFAULT, 102.5),  # gRPC: Triton tells the time limit apart from the parameters
        ({"timeout": 500_000}, 0, Level.DEFAULT, 100.5),  # /generate: it is one
        ({"timeout": "500000"}, 0, Level.DEFAULT, 100.5),
        ({"priority": 0}, 0, Level.DEFAULT, None),
        ({"priority": 1}, 0, Level.PRIORITY, None),
        ({"ernie_priority": 3, "priority": 1}, 0, Level.FLEX, None),
    ],
)
def test_terms(parameters: dict[str, Any], told: int, level: Level, deadline: float | None) -> None:
    terms = read_terms(parameters, told, now=100.0)
    assert (terms.level, terms.deadline) == (level, deadline)


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"timeout": -1}, "timeout"),
        ({"timeout": 1.5}, "timeout"),
        ({"timeout": 10**19}, "timeout"),
        ({"timeout": "9" * 5000}, "timeout"),
        ({"priority": 4}, "priority"),
        ({"priority": True}, "priority"),
        ({"ernie_priority": "high"}, "ernie_priority"),
    ],
)
def test_terms_that_cannot_be_meant(parameters: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_terms(parameters, 0, now=0.0)
    assert caught.value.param == param


def test_aborts() -> None:
    assert read_abort({"ernie_answer_id": "x"}) is None
    some = read_abort({"ernie_abort": '{"ids": ["a", "b"]}', "ernie_tenant": "t"})
    everything = read_abort({"ernie_abort": '{"ids": null}'})
    assert some == AbortRequest("t", ("a", "b")) and everything == AbortRequest("", None)
    for each in (some, everything):
        assert each is not None and AbortRequest.from_json(each.to_json()) == each
    assert AbortRequest.from_json('{"key":"k"}') is None


@pytest.mark.parametrize("given", ["[]", "{", '{"ids": "a"}', '{"ids": [1]}', "5"])
def test_faulty_aborts(given: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_abort({"ernie_abort": given})
    assert caught.value.param == "ernie_abort"
