"""GBNF and Lark as their users write them: which of the two a grammar is, and its characters by number."""

from __future__ import annotations

import json

import llguidance
import pytest

from ernie_backend.text.grammar_worker import llguidance_grammar


@pytest.mark.parametrize(
    ("grammar", "texts", "others"),
    [
        ('root ::= "a" | "b"', ["a", "b"], ["c"]),
        ('start: "a" | "b"', ["a", "b"], ["c"]),
        ('?start: list\n?list: item ("," item)*\n?item: /[a-z]+/', ["ab,c"], [","]),
        ('!start: "a"', ["a"], ["b"]),
        (r'root ::= "\u00e9" "\u4e2d" "\U0001f600"', ["é中😀"], ["e"]),
        (r"root ::= [^\u0000-\u001f\u0022\u00e9]+", ["中 a"], ["\n", '"', "é"]),
        (r"root ::= [\u00e0-\u00ff]", ["é"], ["a"]),
        (r'root ::= "\u0022" "\u005c" "\u0041"', ['"\\A'], ["A"]),
        (r'root ::= "\\u0041"', [r"\u0041"], ["A"]),
    ],
)
def test_what_follows_it(grammar: str, texts: list[str], others: list[str]) -> None:
    compiled = json.dumps({"grammars": [llguidance_grammar("ebnf", grammar)]})
    for text in texts + others:
        matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), compiled, log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        whole = matcher.try_consume_tokens(list(text.encode())) == len(text.encode()) and matcher.is_accepting()
        assert whole is (text in texts), text


@pytest.mark.parametrize("grammar", [r'root ::= "\ud800"', r'root ::= "\U00110000"'])
def test_what_is_no_character_is_an_error(grammar: str) -> None:
    assert llguidance.LLMatcher.validate_grammar(json.dumps({"grammars": [llguidance_grammar("ebnf", grammar)]}))
