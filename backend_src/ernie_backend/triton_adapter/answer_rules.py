"""What an answer must keep to: its grammar, the budget of its thought and the bound of what follows, as fields of `SamplingParams`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import InvalidRequestError
from ..sampling_fields import SamplingFields
from ..text.answer_format import CLOSE_THOUGHT, AnswerFormat
from ..text.grammar import Body, answer_grammar, arguments_schema
from ..text.grammar_process import GrammarProcess
from ..text.markers import END_THINK
from ..text.tokenizer import Tokenizer
from .chat_input import ChatInput
from .guided_input import check_combination, read_guided


class AnswerRules:
    """Of one model. Not for several threads at once; `close` when done."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._grammars = GrammarProcess()
        self._closing_ids = tuple(tokenizer.encode_template(CLOSE_THOUGHT))

    def close(self) -> None:
        self._grammars.close()

    def read(self, fields: SamplingFields, chat: ChatInput, answer_format: AnswerFormat) -> dict[str, Any]:
        """`InvalidRequestError` naming the field that cannot be kept to."""
        rules: dict[str, Any] = {}
        grammar = self._grammar(fields, chat, answer_format)
        if grammar is not None:
            rules |= {"grammar": grammar, "grammar_field": _place_of(fields)}
        bounds = {name: bound for name in ("reasoning_max_tokens", "response_max_tokens") if (bound := getattr(fields, name))}
        if answer_format.begins_in == "thought" and (grammar is not None or bounds):
            rules |= bounds
            rules["thought_end_id"] = self._thought_end_id(next(iter(bounds)) if grammar is None else _place_of(fields))
            if fields.reasoning_max_tokens:
                rules["thought_closing_ids"] = self._closing_ids
        return rules

    def budget(self, max_tokens: int, share: float) -> dict[str, Any]:
        """Of a thought that may take this share of the answer; none if no token ends a thought."""
        token_id = self._tokenizer.token_id(END_THINK)
        if token_id is None:
            return {}
        return {
            "reasoning_max_tokens": max(1, int(max_tokens * share)),
            "thought_end_id": token_id,
            "thought_closing_ids": self._closing_ids,
        }

    def _grammar(self, fields: SamplingFields, chat: ChatInput, answer_format: AnswerFormat) -> str | None:
        body = read_guided(fields)
        must_call = chat.tool_choice.mode == "required"
        if body is None and not must_call:
            return None
        if body is not None and must_call:
            raise InvalidRequestError(
                f"{_place_of(fields)} cannot be combined with a tool_choice that demands a call: an answer is one or the other.",
                param=_place_of(fields),
            )
        check_combination(fields, _place_of(fields))
        said = None if body is None else self._grammars.compiled(body)
        return answer_grammar(said, self._callable_tools(chat), answer_format, self._tokenizer)

    def _callable_tools(self, chat: ChatInput) -> Sequence[dict[str, Any]]:
        """Those that may be called, their schemas known to compile."""
        tools = []
        for i, tool in enumerate(chat.tools):
            if chat.tool_choice.name in (None, tool["function"]["name"]):
                self._grammars.compiled(Body("json", arguments_schema(tool), f"tools[{i}].function.parameters"))
                tools.append(tool)
        return tools

    def _thought_end_id(self, place: str) -> int:
        token_id = self._tokenizer.token_id(END_THINK)
        if token_id is None:
            raise InvalidRequestError(
                f"{place} cannot be kept to while the model thinks: its vocabulary has no {END_THINK}. Set enable_thinking to false.",
                param=place,
            )
        return token_id


def _place_of(fields: SamplingFields) -> str:
    return "tool_choice" if fields.guided is None else fields.guided[0]
