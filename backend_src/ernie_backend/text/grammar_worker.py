"""The helper process that tries out users' grammars: under hard limits; knows llguidance and nothing of requests.

Talks in lines of JSON. First in: {cpu_seconds, memory_bytes}, answered with {}; then {kind, value}, answered with {grammar}, one of
llguidance's grammars as JSON that is known to compile, or {error}. End of input ends it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from llguidance import LLMatcher, LLParserLimits
from llguidance.gbnf_to_lark import any_to_lark

from ..protocol import GRAMMAR_LIMITS
from .grammar import choice_grammar, json_grammar, tags_grammar
from .limited import CpuLimit, limit_memory, send

MAX_ERROR_CHARACTERS = 300


def llguidance_grammar(kind: str, value: Any) -> dict[str, Any]:
    """One of llguidance's grammars, not tried yet. `ValueError` if it cannot be written."""
    if kind == "json":
        return json_grammar(value)
    if kind == "choice":
        return choice_grammar(value)
    if kind == "tags":
        return tags_grammar(value)
    if kind == "regex":
        return json.loads(LLMatcher.grammar_from_regex(value))["grammars"][0]
    return {"lark_grammar": any_to_lark(value)}


def try_out(kind: str, value: Any) -> dict[str, str]:
    """{grammar} or {error}."""
    try:
        grammar = json.dumps(llguidance_grammar(kind, value))
        error = LLMatcher.validate_grammar(f'{{"grammars": [{grammar}]}}', limits=LLParserLimits(**GRAMMAR_LIMITS))
    except Exception as raised:  # any_to_lark has exceptions of its own
        grammar, error = "", str(raised) or type(raised).__name__
    if error and not error.startswith("WARNING"):
        return {"error": " ".join(error.replace("<non-verbose/>", "").split())[:MAX_ERROR_CHARACTERS]}
    return {"grammar": grammar}


def main() -> None:
    settings = json.loads(sys.stdin.readline())
    limit_memory(settings["memory_bytes"])
    send({})
    for line in sys.stdin:
        with CpuLimit(settings["cpu_seconds"]):
            answer = try_out(**json.loads(line))
        send(answer)
