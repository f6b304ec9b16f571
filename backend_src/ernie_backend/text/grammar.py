"""The grammar that an answer must follow: what is said (a schema, a regular expression, …) within what its format writes around it.

Writes llguidance's notation and compiles nothing; knows no request. A grammar speaks of the answer behind its thought.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from .answer_format import AnswerFormat
from .markers import END_RESPONSE, END_TOOL_CALL, RESPONSE, TOOL_CALL
from .schema_formats import without_unknown_formats
from .tokenizer import Tokenizer

WHITESPACE = r"(\n[ \t]{0,24}| )"
"""Between JSON's parts: nothing, a space, or a line break with an indent. More is of no use, and a model that begins with it may never
end."""
_ANY_TEXT = "TEXT: /(.|\\n)*/"


@dataclass(frozen=True)
class Body:
    """What is said. `kind`: json, regex, choice, ebnf or tags."""

    kind: str
    value: Any
    """A schema, an expression, a list of strings, a grammar in EBNF (GBNF or Lark), a list of `Tag`s."""
    place: str
    """The field that it comes from."""


def json_grammar(schema: dict[str, Any]) -> dict[str, Any]:
    """One of llguidance's grammars, of a checked schema. `x-guidance` is the server's to set."""
    return {"json_schema": {**without_unknown_formats(schema), "x-guidance": {"whitespace_pattern": WHITESPACE}}}


def choice_grammar(choices: Sequence[str]) -> dict[str, Any]:
    return {"lark_grammar": f"start: {' | '.join(map(_literal, choices))}"}


class Tag(TypedDict):
    """Once `trigger` has been said, it must become `begin`, JSON after `schema` and `end`: of one of the tags with this trigger."""

    trigger: str
    begin: str
    """Starts with the trigger."""
    schema: dict[str, Any]
    end: str


def tags_grammar(tags: Sequence[Tag]) -> dict[str, Any]:
    """Any text, with tags in it."""
    of_trigger: dict[str, list[int]] = {}
    rules = []
    for i, tag in enumerate(tags):
        of_trigger.setdefault(tag["trigger"], []).append(i)
        schema = json.dumps(json_grammar(tag["schema"])["json_schema"], ensure_ascii=False)
        before, behind = (_literal(text) if text else "" for text in (tag["begin"][len(tag["trigger"]) :], tag["end"]))
        rules.append(f"form_{i}: {before} %json {schema} {behind}")
    for i, (trigger, forms) in enumerate(of_trigger.items()):
        rules.append(f"seen_{i}[lazy]: TEXT {_literal(trigger)}")  # lazy: text ends with the first trigger in it
        rules.append(f"tag_{i}: seen_{i} ({' | '.join(f'form_{j}' for j in forms)})")
    start = f"start: ({' | '.join(f'tag_{i}' for i in range(len(of_trigger)))})* TEXT"
    return {"lark_grammar": "\n".join([start, *rules, _ANY_TEXT])}


def arguments_schema(tool: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", **tool["function"].get("parameters", {})}


def answer_grammar(
    body: dict[str, Any] | None,
    tools: Sequence[dict[str, Any]],
    answer_format: AnswerFormat,
    tokenizer: Tokenizer,
) -> str:
    """A grammar for the whole answer behind the thought: `body` (one of llguidance's grammars) within what the format writes around it,
    or calls of `tools`. At least one of the two must be there."""
    alternatives: list[str] = []
    rules, parts = _calls(tools, tokenizer) if tools else ([], [])
    if body is not None:
        alternatives.append("said")
        parts.append({**body, "name": "said_body"})
        opened = answer_format.begins_in == "response"
        before = "" if opened else f'{_marker(RESPONSE, tokenizer)} "\\n" '
        said = f"{before}@said_body EDGE {_marker(END_RESPONSE, tokenizer)} EDGE" if answer_format.response else "@said_body"
        rules.append(f"said: {said}")
    if tools:
        alternatives.append("call" if answer_format.one_call else "call (SEPARATOR call)* EDGE")
        rules.append(f"begin: {_marker(TOOL_CALL, tokenizer)}")
    leads_in = answer_format.begins_fresh or answer_format.begins_in == "thought" or bool(tools)
    start = f"start: {'LEAD ' if leads_in else ''}({' | '.join(alternatives)})"
    terminals = ["LEAD: /\\n{0,3}/", "EDGE: /\\n?/", "SEPARATOR: /\\n{1,2}/"]
    return _written([start, *rules, *terminals], parts)


def free_grammar(tools: Sequence[dict[str, Any]], answer_format: AnswerFormat, tokenizer: Tokenizer) -> str:
    """A grammar for an answer that may say anything, and in which every call is one of `tools`."""
    rules, parts = _calls(tools, tokenizer)
    opening = tokenizer.token_id(TOOL_CALL)
    if opening is None:  # then its spelling begins a call, and whatever is no text stands between texts
        ids = ",".join(map(str, sorted(tokenizer.control_ids)))
        rules += [f"other: TEXT? <[{ids}]>", f"begin[lazy]: TEXT {_literal(TOOL_CALL)}", "end: TEXT", _ANY_TEXT]
    else:
        rules += [f"other: <[^{opening}]>", f"begin: <[{opening}]>", 'end: ""']
    start = "start: other* (call | end)" if answer_format.one_call else "start: (other | call)* end"
    return _written([start, *rules], parts)


def _calls(tools: Sequence[dict[str, Any]], tokenizer: Tokenizer) -> tuple[list[str], list[dict[str, Any]]]:
    """(rules, parts) of `call`: behind `begin`, which the caller writes, a call of one of the tools."""
    rules, parts = [f"call: begin ({' | '.join(f'call_{i}' for i in range(len(tools)))})"], []
    for i, tool in enumerate(tools):
        name = json.dumps(tool["function"]["name"], ensure_ascii=False)
        before, behind = _literal(f'\n{{"name": {name}, "arguments": '), _literal("}\n")
        rules.append(f"call_{i}: {before} @arguments_{i} {behind} {_marker(END_TOOL_CALL, tokenizer)}")
        parts.append({**json_grammar(arguments_schema(tool)), "name": f"arguments_{i}"})
    return rules, parts


def _marker(name: str, tokenizer: Tokenizer) -> str:
    token_id = tokenizer.token_id(name)
    return _literal(name) if token_id is None else f"<[{token_id}]>"


def _written(rules: Sequence[str], parts: Sequence[dict[str, Any]]) -> str:
    return json.dumps({"grammars": [{"lark_grammar": "\n".join(rules)}, *parts]}, ensure_ascii=False)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
