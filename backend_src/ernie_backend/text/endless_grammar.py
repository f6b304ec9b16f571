"""Rewrites a grammar so that a parser can tell whether any text follows it to an end; compiles nothing, and takes the syntax for checked.

With nothing in the place of everything that stands for text, a grammar lets the empty text pass if and only if some way through its rules
ends. `start: "a" start` has none: an answer would go on until its tokens are spent.
"""

from __future__ import annotations

import json
import re

_NOTHING = '""'
_BEYOND_US = re.compile(r"::|%if\b|%lark\b|~|\b(?:stop|suffix)\s*=")
"""Rules with parameters, grammars within grammars, negation, rules that end at a text of their own (`x[stop="a"]`): what they mean depends
on the text that would be replaced."""
_PART = re.compile(
    r"""
    (?P<comment>(?://|\#)[^\n]*)
    |(?P<text>"(?:\\.|[^"\\])*"i?(?:\s*\.\.\s*"(?:\\.|[^"\\])*")? | /(?:\\.|[^/\\])+/[a-z]* | <[^<>\s]+> | @[\w-]+)
    |(?P<inline>%(?:json|regex)\s*(?=\{))
    |(?P<directive>^[ \t]*%\w+[^\n]*)
    |(?P<head>^[ \t]*[!?]?(?P<name>[A-Za-z_][\w-]*)(?:\[[^\]\n]*\])?(?:\.-?\d+)?\s*:)
    |(?P<terminal>\b_*[A-Z]\w*)
    |(?P<word>[\w-]+)
    |(?P<sign>[\s\S])
    """,
    re.VERBOSE | re.MULTILINE,
)


def without_text(grammar: str) -> str | None:
    """A grammar in llguidance's Lark, with nothing in the place of its strings, expressions, schemas, special tokens and terminals. None:
    it is of a kind for which that would say nothing."""
    kept: list[str] = []
    position, in_terminal = 0, False
    while position < len(grammar):
        found = _PART.match(grammar, position)
        assert found is not None, "any sign is a part"
        position, kind = found.end(), found.lastgroup
        if kind == "inline":
            try:
                _, position = json.JSONDecoder().raw_decode(grammar, position)
            except (ValueError, RecursionError):
                return None
        if kind == "head":
            in_terminal = found["name"].strip("_")[:1].isupper()
        if kind in ("comment", "directive") or in_terminal:
            continue
        kept.append(f" {_NOTHING} " if kind in ("text", "inline", "terminal") else found[0])
    result = "".join(kept)
    return None if _BEYOND_US.search(result) else result
