"""Which parts an answer has and how it begins: the parsers by their names, and which of them a chat template calls for. Parses nothing."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import NO_PARSER, PARSERS, parser_name
from .markers import END_RESPONSE, END_THINK, RESPONSE, THINK, TOOL_CALL, LastMarker

VL, VL_THINKING, X1 = PARSERS
THINKS_BY_DEFAULT = (VL, VL_THINKING)
"""Their templates leave the thought out unless told otherwise; FastDeploy tells them."""
CLOSE_THOUGHT = "\n</think>\n\n"
"""Ends a thought as the models themselves do."""


@dataclass(frozen=True)
class AnswerFormat:
    """How to read an answer. What is switched off is text."""

    thought: bool = False
    """`</think>` ends a thought."""
    response: bool = False
    """`<response>` and `</response>` enclose what is said."""
    calls: bool = False
    """`<tool_call>` begins a call."""
    one_call: bool = False
    """The answer ends with its first call."""
    begins_in: str = "content"
    """Where the prompt has left off: `thought`, `response` or `content`."""
    begins_fresh: bool = False
    """That part begins with the answer: newlines before its text belong to the format."""

    @property
    def is_plain(self) -> bool:
        """Whether no marker means anything."""
        return not (self.thought or self.response or self.calls)


PLAIN = AnswerFormat()


@dataclass(frozen=True)
class Parsers:
    """A model's two parsers, each one of `PARSERS` or `none`."""

    reasoning: str = NO_PARSER
    tool_call: str = NO_PARSER

    def answer_format(self, last: LastMarker | None, *, asks_anew: bool, calls: bool, one_call: bool) -> AnswerFormat:
        """The format behind a prompt whose last marker is `last`. `calls`: the request offers tools.

        `asks_anew`: it is a rendered conversation that an answer begins behind. Without a marker it leaves the model to think (as in
        FastDeploy); a raw prompt and an answer that was begun in the conversation are continued.
        """
        thought = self.reasoning != NO_PARSER
        response = X1 in (self.reasoning, self.tool_call)
        calls = calls and self.tool_call != NO_PARSER
        if not (thought or response or calls):
            return PLAIN
        begins_in = "content"
        if thought and (asks_anew if last is None else last.name == THINK):
            begins_in = "thought"
        elif response and last is not None and last.name == RESPONSE:
            begins_in = "response"
        fresh = begins_in == "thought" if last is None else last.is_fresh
        return AnswerFormat(thought, response, calls, one_call, begins_in, fresh)


def choose_parsers(template: str, *, reasoning: str | None, tool_call: str | None) -> Parsers:
    """As configured (`EngineConfig`), else by what the template writes: ChatML or `<response>` is x1; a thought with tools is that of
    VL-Thinking, one without is VL's."""
    found = NO_PARSER
    if THINK in template or END_THINK in template:
        chatml = "<|im_start|>" in template or RESPONSE in template or END_RESPONSE in template
        found = X1 if chatml else VL_THINKING if "<tool_list>" in template or TOOL_CALL in template else VL
    return Parsers(
        found if reasoning is None else parser_name(reasoning),
        (found if found != VL else NO_PARSER) if tool_call is None else parser_name(tool_call),
    )
