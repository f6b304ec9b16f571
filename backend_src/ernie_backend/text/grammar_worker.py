"""The helper process that tries out users' grammars: under hard limits; knows llguidance and nothing of requests.

Talks in lines of JSON. First in: {cpu_seconds, memory_bytes}, answered with {}; then {kind, value}, answered with {grammar}, one of
llguidance's grammars as JSON that is known to compile, or {error}. End of input ends it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import gbnf_to_lark

from ..protocol import GRAMMAR_LIMITS
from .endless_grammar import without_text
from .grammar import choice_grammar, json_grammar, tags_grammar
from .limited import CpuLimit, limit_memory, send

MAX_ERROR_CHARACTERS = 300
ENDLESS = "it can produce no text, because each of its rules leads on to another without an end. Give one an alternative that ends"
MATCHES_NOTHING = "it can produce no text, because none matches it"
LARGEST_BOUND = 1e17
"""Of a number's bounds; llguidance counts in 64 bits, and has no expression for 10^18 and more."""
_LARK = re.compile(r"(?m)^\s*(?:%llguidance\b|[?!]?start\s*:(?!:))")
"""What GBNF, whose rules are written with `::=`, has no line of."""
_CODE = re.compile(r"(?s)\\(?:u(?P<four>[0-9a-fA-F]{4})|U(?P<eight>[0-9a-fA-F]{8})|.)")


def _bounds(found: re.Match[str]) -> str:
    """Which bounds to change: those that are too large, else all that are there."""
    given = [(name, float(found[side])) for side, name in (("min", "minimum"), ("max", "maximum")) if found[side]]
    large = [name for name, bound in given if abs(bound) > LARGEST_BOUND]
    names = " and ".join(f"{name} (or exclusive{name.capitalize()})" for name in large or [name for name, _ in given])
    return f"no grammar can be made of a number's {names}. Take it away, or keep it between -10^17 and 10^17"


_REWORDINGS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (
        re.compile(r"Failed to generate regex for \w+ range: min=(?:None|Some\((?P<min>[^)]*)\)), max=(?:None|Some\((?P<max>[^)]*)\))"),
        _bounds,
    ),
    (
        re.compile(r"oneOf constraints are not supported\. Enable 'coerce_one_of' option to approximate oneOf with anyOf"),
        lambda _: "oneOf is possible only where no value can fit two of its schemas, which is not plain here. Use anyOf",
    ),
)
"""llguidance's words that tell a user nothing, or to do what only a programmer can."""


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
    return {"lark_grammar": value if _LARK.search(value) else gbnf_to_lark(_CODE.sub(_character, value))}


def _character(escape: re.Match[str]) -> str:
    """In the place of GBNF's `\\u00e9` and `\\U0001f600`, of which gbnf_to_lark loses the zeros."""
    digits = escape["four"] or escape["eight"]
    code = int(digits, 16) if digits else -1
    if not 0 <= code <= sys.maxunicode or 0xD800 <= code < 0xE000:
        return escape[0]
    return chr(code) if code >= 0x80 else f"\\x{code:02x}"


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


def in_users_words(error: str) -> str:
    """llguidance's error, in one line."""
    error = " ".join(error.replace("<non-verbose/>", "").split())
    for pattern, words in _REWORDINGS:
        error = pattern.sub(words, error)
    return error


def try_out(kind: str, value: Any) -> dict[str, str]:
    """{grammar} or {error}."""
    try:
        written = llguidance_grammar(kind, value)
        grammar = json.dumps(written)
        error = LLMatcher.validate_grammar(f'{{"grammars": [{grammar}]}}', limits=LLParserLimits(**GRAMMAR_LIMITS))
        if is_valid(error):
            error = error_of_use(kind, written)
    except Exception as raised:  # gbnf_to_lark has exceptions of its own
        grammar, error = "", str(raised) or type(raised).__name__
    if not is_valid(error):
        return {"error": in_users_words(error)[:MAX_ERROR_CHARACTERS]}
    return {"grammar": grammar}


def main() -> None:
    settings = json.loads(sys.stdin.readline())
    limit_memory(settings["memory_bytes"])
    send({})
    for line in sys.stdin:
        with CpuLimit(settings["cpu_seconds"]):
            answer = try_out(**json.loads(line))
        send(answer)
