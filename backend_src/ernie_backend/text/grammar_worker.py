"""The helper process that tries out users' grammars: under hard limits; knows llguidance and nothing of requests.

Talks in lines of JSON. First in: {cpu_seconds, memory_bytes}, answered with {}; then {kind, value}, answered with {grammar}, one of
llguidance's grammars as JSON that is known to compile, or {error}. End of input ends it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark

from ..protocol import GRAMMAR_LIMITS
from .endless_grammar import without_text
from .grammar import choice_grammar, json_grammar, tags_grammar
from .limited import CpuLimit, limit_memory, send

MAX_ERROR_CHARACTERS = 300
ENDLESS = "it can produce no text, because each of its rules leads on to another without an end. Give one an alternative that ends"
MATCHES_NOTHING = "it can produce no text, because none matches it"


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


def is_valid(error: str) -> bool:
    return not error or error.startswith("WARNING")


def is_endless(grammar: str) -> bool:
    """Whether no text that ends follows the grammar, which compiles. False also where that cannot be told."""
    rest = without_text(grammar)
    if rest is None:
        return False
    matcher = _matcher({"lark_grammar": rest})
    return not matcher.is_error() and not matcher.is_accepting()


def matches_nothing(matcher: LLMatcher) -> bool:
    """Whether no byte may begin a text after its grammar, which speaks of no special tokens, and no text is none, too."""
    if matcher.is_accepting():
        return False
    matcher.compute_logit_bias()
    return matcher.get_error().startswith("NoExtensionBias")


def _matcher(grammar: dict[str, Any]) -> LLMatcher:
    return LLMatcher(LLTokenizer("byte"), json.dumps({"grammars": [grammar]}), limits=LLParserLimits(**GRAMMAR_LIMITS))


def error_of_use(kind: str, grammar: dict[str, Any]) -> str:
    """What is wrong with a grammar that is well-formed; empty: nothing. Makes what the engine will make of it, which no limit of
    llguidance's bounds: for a large `multipleOf` some 65 MB in a second."""
    matcher = _matcher(grammar)
    if kind == "ebnf":  # it may speak of tokens, which nobody knows here
        return ENDLESS if is_endless(grammar["lark_grammar"]) else ""
    if matcher.is_error():
        return matcher.get_error()
    return MATCHES_NOTHING if kind == "regex" and matches_nothing(matcher) else ""


def try_out(kind: str, value: Any) -> dict[str, str]:
    """{grammar} or {error}."""
    try:
        written = llguidance_grammar(kind, value)
        grammar = json.dumps(written)
        error = LLMatcher.validate_grammar(f'{{"grammars": [{grammar}]}}', limits=LLParserLimits(**GRAMMAR_LIMITS))
        if is_valid(error):
            error = error_of_use(kind, written)
    except Exception as raised:  # any_to_lark has exceptions of its own
        grammar, error = "", str(raised) or type(raised).__name__
    if not is_valid(error):
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
