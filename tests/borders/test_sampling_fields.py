"""Every sampling field: what passes, what is refused, and that the refusal names the field."""

from __future__ import annotations

import math

import pytest

from ernie_backend.errors import InvalidRequestError
from ernie_backend.sampling_fields import SamplingFields, parse_sampling_params


def test_nothing_given_is_all_defaults() -> None:
    assert parse_sampling_params({}) == SamplingFields()
    assert parse_sampling_params({"temperature": None, "stop": None}) == SamplingFields()


def test_numbers_may_come_as_strings() -> None:
    fields = parse_sampling_params({"temperature": "0.5", "max_tokens": "12", "ignore_eos": "true", "top_k": "-1"})
    assert (fields.temperature, fields.max_tokens, fields.ignore_eos, fields.top_k) == (0.5, 12, True, 0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"stop": "a"}, {"stop": ("a",)}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"max_tokens": 5, "max_completion_tokens": 7}, {"max_tokens": 7}),
        ({"max_completion_tokens": 7, "max_tokens": 5}, {"max_tokens": 7}),
        ({"max_tokens": 5, "max_completion_tokens": 0}, {"max_tokens": 5}),
        ({"max_completion_tokens": 0}, {}),
        *(({"max_tokens": older, "max_completion_tokens": 7}, {"max_tokens": 7}) for older in (0, -1, "-1", 2**40)),
        ({"temperature": 5e-324}, {"temperature": 0.0}),
        ({"min_length": 3}, {"min_tokens": 3}),
        ({"bad_words_token_ids": [5, 6]}, {"bad_words_token_ids": ((5,), (6,))}),
        ({"bad_words_token_ids": [[5, 6], [7]]}, {"bad_words_token_ids": ((5, 6), (7,))}),
        ({"logit_bias": {"17": -100, "4": 2.5}}, {"logit_bias": ((17, -100.0), (4, 2.5))}),
        ({"logprobs": True}, {"logprobs": 0}),
        ({"logprobs": False}, {"logprobs": None}),
        ({"logprobs": 20}, {"logprobs": 20}),
        ({"seed": 2**63 - 1}, {"seed": 2**63 - 1}),
        ({"top_p": 0}, {"top_p": 0.0}),
        ({"top_k": 40.0}, {"top_k": 40}),
    ],
)
def test_accepted(given: dict[str, object], expected: dict[str, object]) -> None:
    assert parse_sampling_params(given) == SamplingFields(**expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": -1}, "min_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**40}, "max_tokens"),
        ({"max_tokens": [1]}, "max_tokens"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 1e-44}, "repetition_penalty"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"presence_penalty": -2.1}, "presence_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"logit_bias": {"5": 1, "05": 2}}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"bad_words": "x"}, "bad_words"),
        ({"bad_words": ["a", ""]}, "bad_words[1]"),
        ({"bad_words": [5]}, "bad_words[0]"),
        ({"bad_words_token_ids": [-1]}, "bad_words_token_ids[0]"),
        ({"bad_words_token_ids": [[1]] * 1025}, "bad_words_token_ids"),
        ({"max_tokens": "0" * 30 + "5"}, "max_tokens"),
        ({"max_tokens": "x", "max_completion_tokens": 5}, "max_tokens"),
        ({"max_tokens": 0, "max_completion_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5, "max_completion_tokens": 5}, "max_tokens"),
        ({"max_tokens": " 5"}, "max_tokens"),
        ({"max_tokens": "1_000"}, "max_tokens"),
        ({"max_tokens": "５"}, "max_tokens"),
        ({"temperature": "1_0"}, "temperature"),
        ({"temperature": "１"}, "temperature"),
        ({"logit_bias": {" 5": 1}}, "logit_bias. 5"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": ""}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": "x" * 1025}, "stop"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids[0]"),
        ({"stop_token_ids": 5}, "stop_token_ids"),
        ({"logprobs": 21}, "logprobs"),
        ({"seed": -1}, "seed"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"ignore_eos": 1}, "ignore_eos"),
        ({"tempreature": 1}, "tempreature"),
    ],
)
def test_refused(given: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_sampling_params(given)
    assert caught.value.param == param and param.split("[")[0] in caught.value.message


@pytest.mark.parametrize("name", ["stop_token_ids", "bad_words_token_ids"])
def test_too_many_ids_are_counted(name: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"{name} takes at most 1024 token ids, got 1025"):
        parse_sampling_params({name: [1] * 1025})
