"""The names of sampling fields: those that the front end writes and those that preprocess reads."""

from __future__ import annotations

import json

from ernie_backend.sampling_fields import parse_sampling_params
from ernie_openai.schemas import CompletionRequest, parse_request


def test_sampling_json_is_what_the_ensemble_parses() -> None:
    """The front end's names are the ones that preprocess reads; nothing else ties the two together."""

    every = {
        "n": 2,
        "max_tokens": 5,
        "max_completion_tokens": 6,
        "temperature": 0.7,
        "top_p": 0.9,
        "frequency_penalty": 0.1,
        "presence_penalty": -0.1,
        "logit_bias": {"5": -100},
        "seed": 1,
        "stop": ["明天"],
        "min_tokens": 2,
        "top_k": 20,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "bad_words": [" well"],
        "bad_words_token_ids": [1622],
        "stop_token_ids": [3],
        "include_stop_str_in_output": True,
        "ignore_eos": True,
        "skip_special_tokens": False,
        "return_token_ids": True,
        "echo": True,
        "logprobs": 3,
    }
    sampling = parse_request(CompletionRequest, every | {"prompt": "x"}).sampling()
    assert set(sampling) == set(every)
    fields = parse_sampling_params(json.loads(json.dumps(sampling)))
    assert (fields.n, fields.max_tokens, fields.stop, fields.logprobs, fields.echo) == (2, 6, ("明天",), 3, True)
