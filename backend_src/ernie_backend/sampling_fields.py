"""Reads sampling fields from a user's JSON: types, ranges and defaults in one table; knows no tokenizer and no engine.

Preprocess reads every face's fields with it: OpenAI's, which the front end passes on unread, and those of KServe clients (numbers may come
as strings there, as genai-perf sends them). Every refusal is an `InvalidRequestError` that names the field, the value and the rule.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import InvalidRequestError, json_kind
from .number_text import number_of
from .protocol import MAX_CHOICES, MAX_LOGPROBS

MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 1024
MAX_SEED = 2**63 - 1
LEAST_TEMPERATURE = 1e-5
"""Below it sampling is greedy in effect, and logits divided by it leave float32."""
MAX_BIASES = 1024
_INTEGER = re.compile(r"[+-]?[0-9]{1,24}")
"""As text. Longer ones take quadratic time to read and are out of range anyway."""
MAX_BAD_WORDS = 1024


@dataclass(frozen=True)
class SamplingFields:
    """What a user asked for. `None` means 'not given': the checkpoint's generation_config or the server's default fills it in."""

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    bad_words: tuple[str, ...] = ()
    bad_words_token_ids: tuple[tuple[int, ...], ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    reasoning_max_tokens: int | None = None
    """0: no thought at all."""
    response_max_tokens: int | None = None
    """Of the answer behind the thought; of all of it where there is none."""
    guided: tuple[str, Any] | None = None
    """What the answer must follow: (field, its value)."""
    logprobs: int | None = None
    n: int = 1
    echo: bool = False
    return_token_ids: bool = False
    timings: bool = False
    """Tell with the last token how long what took."""


def parse_sampling_params(given: Mapping[str, Any]) -> SamplingFields:
    """The checked fields of `given`; a field that is `null` counts as not given. Raises `InvalidRequestError` on the first fault."""
    unknown = sorted(set(given) - set(_READERS))
    if unknown:
        raise InvalidRequestError(
            f"Unknown sampling field {unknown[0][:80]!r}. Known fields: {', '.join(sorted(_READERS))}.", param=unknown[0]
        )
    values: dict[str, Any] = {}
    completion_tokens = given.get("max_completion_tokens")
    if completion_tokens is not None:
        newer = _integer(0, 2**31 - 1)("max_completion_tokens", completion_tokens)
        if newer:  # it wins over max_tokens, whose size then says nothing; FastDeploy's clients send 0 for "not given"
            if given.get("max_tokens") is not None:
                _integer()("max_tokens", given["max_tokens"])
            given = {**given, "max_tokens": newer}
    for name, value in given.items():
        if value is None or name == "max_completion_tokens":
            continue
        target, read = _READERS[name]
        if name != target and given.get(target) is not None:
            raise InvalidRequestError(f"Give only one of {name!r} and {target!r}.", param=name)
        found = read(name, value)
        if target == "guided" and values.get("guided") is not None and found is not None:
            raise InvalidRequestError(f"Give only one kind of guided decoding, not {values['guided'][0]} and {name}.", param=name)
        values[target] = found if found is not None else values.get(target)
    fields = SamplingFields(**values)
    if fields.max_tokens is not None and fields.min_tokens > fields.max_tokens:
        raise InvalidRequestError(f"min_tokens ({fields.min_tokens}) must not exceed max_tokens ({fields.max_tokens}).", param="min_tokens")
    return fields


def _refuse(name: str, rule: str, value: Any) -> InvalidRequestError:
    shown = json.dumps(value, ensure_ascii=False) if isinstance(value, (str, int, float, bool)) else json_kind(value)
    return InvalidRequestError(f"{name} must be {rule}, got {shown[:80]}.", param=name)


def _number(low: float, high: float, *, exclusive_low: bool = False):
    rule = f"a number {'above' if exclusive_low else 'from'} {low:g} to {high:g}"

    def read(name: str, value: Any) -> float:
        if isinstance(value, str):
            value = given if (given := number_of(value)) is not None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _refuse(name, rule, value)
        try:
            number = float(value)
        except OverflowError:
            raise _refuse(name, rule, "a number beyond 1e308") from None
        if not math.isfinite(number) or not low <= number <= high or (exclusive_low and number == low):
            raise _refuse(name, rule, value)
        return number

    return read


def _integer(low: float = -math.inf, high: float = math.inf):
    rule = "an integer" if low == -math.inf else f"an integer from {low} to {high}"

    def read(name: str, value: Any) -> int:
        if isinstance(value, str) and _INTEGER.fullmatch(value):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _refuse(name, rule, value)
        return value

    return read


def _boolean(name: str, value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise _refuse(name, "true or false", value)
    return value


def _guided(name: str, value: Any) -> tuple[str, Any] | None:
    """Unread but for its kind (`triton_adapter.guided_input` knows more); None: it asks for nothing."""
    kinds: dict[str, tuple[type | tuple[type, ...], str]] = {
        "response_format": (dict, "an object with a type"),
        "guided_json": ((dict, str), "a JSON Schema, as an object or as its JSON"),
        "guided_regex": (str, "a regular expression"),
        "guided_choice": (list, "a list of strings"),
        "guided_grammar": (str, "a grammar in EBNF"),
        "structural_tag": ((dict, str), "an object with structures and triggers, or its JSON"),
    }
    kind, rule = kinds[name]
    if not isinstance(value, kind):
        raise _refuse(name, rule, value)
    asks_nothing = isinstance(value, dict) and {key: part for key, part in value.items() if part is not None} == {"type": "text"}
    return None if asks_nothing and name == "response_format" else (name, value)


def _temperature(name: str, value: Any) -> float:
    number = _number(0, 100)(name, value)
    return number if number >= LEAST_TEMPERATURE else 0.0


def _top_k(name: str, value: Any) -> int:
    return max(0, _integer(-1, 2**31 - 1)(name, value))  # −1 means "off" for vLLM's users


def _logprobs(name: str, value: Any) -> int | None:
    if isinstance(value, bool):  # chat: true switches them on, top_logprobs gives their number
        return 0 if value else None
    return _integer(0, MAX_LOGPROBS)(name, value)


def _stop(name: str, value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise _refuse(name, "a string or a list of strings", value)
    if len(texts) > MAX_STOP_STRINGS:
        raise InvalidRequestError(f"{name} takes at most {MAX_STOP_STRINGS} strings, got {len(texts)}.", param=name)
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise _refuse(name if text is value else f"{name}[{i}]", "a string that is not empty", text)
        if len(text) > MAX_STOP_CHARACTERS:
            raise InvalidRequestError(f"A string in {name} may have at most {MAX_STOP_CHARACTERS} characters, got {len(text)}.", param=name)
    return tuple(texts)


def _strings(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _refuse(name, "a list of strings", value)
    if len(value) > MAX_BAD_WORDS:
        raise InvalidRequestError(f"{name} takes at most {MAX_BAD_WORDS} entries, got {len(value)}.", param=name)
    for i, text in enumerate(value):
        if not isinstance(text, str) or not text:
            raise _refuse(f"{name}[{i}]", "a string that is not empty", text)
    return tuple(value)


def _token_ids(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise _refuse(name, f"a list of at most {MAX_BAD_WORDS} token ids", value)
    if len(value) > MAX_BAD_WORDS:
        raise InvalidRequestError(f"{name} takes at most {MAX_BAD_WORDS} token ids, got {len(value)}.", param=name)
    return tuple(_integer(0, 2**31 - 1)(f"{name}[{i}]", token) for i, token in enumerate(value))


def _bad_words_token_ids(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    """FastDeploy: a flat list, each id a word of its own; transformers: a list of lists."""
    if isinstance(value, list) and value and all(isinstance(word, list) and word for word in value):
        if len(value) > MAX_BAD_WORDS:
            raise InvalidRequestError(f"{name} takes at most {MAX_BAD_WORDS} words, got {len(value)}.", param=name)
        return tuple(_token_ids(f"{name}[{i}]", word) for i, word in enumerate(value))
    return tuple((token,) for token in _token_ids(name, value))


def _logit_bias(name: str, value: Any) -> tuple[tuple[int, float], ...]:
    if not isinstance(value, dict):
        raise _refuse(name, "an object of token ids and biases", value)
    if len(value) > MAX_BIASES:
        raise InvalidRequestError(f"{name} takes at most {MAX_BIASES} biases, got {len(value)}.", param=name)
    token, bias = _integer(0, 2**31 - 1), _number(-100, 100)
    biases = [(token(f"{name}.{key[:24]}", key), bias(f"{name}.{key[:24]}", number)) for key, number in value.items()]
    if len({token_id for token_id, _ in biases}) < len(biases):
        raise InvalidRequestError(f"{name} names a token id twice.", param=name)
    return tuple(biases)


_READERS: dict[str, tuple[str, Any]] = {
    "max_tokens": ("max_tokens", _integer(1, 2**31 - 1)),
    "max_completion_tokens": ("max_tokens", _integer(0, 2**31 - 1)),  # OpenAI's newer name wins over max_tokens
    "min_tokens": ("min_tokens", _integer(0, 2**31 - 1)),
    "min_length": ("min_tokens", _integer(0, 2**31 - 1)),  # genai-perf
    "temperature": ("temperature", _temperature),
    "top_p": ("top_p", _number(0, 1)),
    "top_k": ("top_k", _top_k),
    "min_p": ("min_p", _number(0, 1)),
    "repetition_penalty": ("repetition_penalty", _number(0.01, 100)),
    "frequency_penalty": ("frequency_penalty", _number(-2, 2)),
    "presence_penalty": ("presence_penalty", _number(-2, 2)),
    "logit_bias": ("logit_bias", _logit_bias),
    "bad_words": ("bad_words", _strings),
    "bad_words_token_ids": ("bad_words_token_ids", _bad_words_token_ids),
    "seed": ("seed", _integer(0, MAX_SEED)),
    "stop": ("stop", _stop),
    "stop_token_ids": ("stop_token_ids", _token_ids),
    "include_stop_str_in_output": ("include_stop_str_in_output", _boolean),
    "ignore_eos": ("ignore_eos", _boolean),
    "skip_special_tokens": ("skip_special_tokens", _boolean),
    "reasoning_max_tokens": ("reasoning_max_tokens", _integer(0, 2**31 - 1)),
    "response_max_tokens": ("response_max_tokens", _integer(1, 2**31 - 1)),
    **dict.fromkeys(("response_format", "guided_json", "guided_regex", "guided_choice"), ("guided", _guided)),
    **dict.fromkeys(("guided_grammar", "structural_tag"), ("guided", _guided)),
    "logprobs": ("logprobs", _logprobs),
    "n": ("n", _integer(1, MAX_CHOICES)),
    "echo": ("echo", _boolean),
    "return_token_ids": ("return_token_ids", _boolean),
    "timings": ("timings", _boolean),
}
