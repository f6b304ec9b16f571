"""What an answer must keep to: its grammar, the budget of its thought and the bound of what follows, as fields of `SamplingParams`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..abort_signal import NEVER, AbortSignal
from ..errors import InvalidRequestError
from ..sampling_fields import SamplingFields
from ..text.answer_format import CLOSE_THOUGHT, AnswerFormat
from ..text.grammar import Body, answer_grammar, arguments_schema, free_grammar
from ..text.grammar_process import GrammarProcess
from ..text.markers import END_THINK
from ..text.schema_check import check_end
from ..text.tokenizer import Tokenizer
from .chat_input import ChatInput
from .guided_input import check_combination, read_guided


@dataclass(frozen=True)
class AnswerWish:
    """What a request wants its answer to keep to, checked but for its grammars."""

    chat: ChatInput
    answer_format: AnswerFormat
    body: Body | None
    """What is to be said; None: anything, but where a call is demanded."""
    place: str
    """The field that says so."""

    @property
    def has_grammar(self) -> bool:
        return self.body is not None or self.chat.tool_choice.binds


class AnswerRules:
    """Of one model. `compiled` is for one thread, the rest for any; `close` when done."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._grammars = GrammarProcess()
        self._closing_ids = tuple(tokenizer.encode_template(CLOSE_THOUGHT))

    def close(self) -> None:
        self._grammars.close()

    def read(self, fields: SamplingFields, chat: ChatInput, answer_format: AnswerFormat) -> tuple[AnswerWish, dict[str, Any]]:
        """The wish, and all rules but its grammar. `InvalidRequestError` naming the field that cannot be kept to."""
        wish = AnswerWish(chat, answer_format, read_guided(fields), _place_of(fields))
        if wish.body is not None and chat.tool_choice.mode == "required":
            raise InvalidRequestError(
                f"{wish.place} cannot be combined with a tool_choice that demands a call: an answer is one or the other.", param=wish.place
            )
        if wish.has_grammar:
            check_combination(fields, wish.place)
            for i, tool in _callable_tools(chat):
                check_end(arguments_schema(tool), _parameters(i))
        rules: dict[str, Any] = {}
        bounds = {name: bound for name in ("reasoning_max_tokens", "response_max_tokens") if (bound := getattr(fields, name))}
        if answer_format.begins_in == "thought" and (wish.has_grammar or bounds):
            rules |= bounds
            rules["thought_end_id"] = self._thought_end_id(wish.place if wish.has_grammar else next(iter(bounds)))
            if fields.reasoning_max_tokens:
                rules["thought_closing_ids"] = self._closing_ids
        return wish, rules

    def known(self, wish: AnswerWish) -> dict[str, Any] | None:
        """What `compiled` would return, if that needs no compiling; at once."""
        return self._grammar(wish, self._grammars.known)

    def compiled(self, wish: AnswerWish, signal: AbortSignal = NEVER) -> dict[str, Any]:
        """The rules that are the wish's grammar. `InvalidRequestError` naming the field that does not compile, `RequestAbortedError` if
        `signal` is set."""
        rules = self._grammar(wish, lambda body: self._grammars.compiled(body, signal))
        assert rules is not None
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

    def _grammar(self, wish: AnswerWish, look_up: Callable[[Body], dict[str, Any] | None]) -> dict[str, Any] | None:
        """None if `look_up` does not have all of it."""
        if not wish.has_grammar:
            return {}
        said = None if wish.body is None else look_up(wish.body)
        tools = _callable_tools(wish.chat)
        schemas = [look_up(Body("json", arguments_schema(tool), _parameters(i))) for i, tool in tools]
        if (wish.body is not None and said is None) or None in schemas:
            return None
        callable_tools = [tool for _, tool in tools]
        if said is None and wish.chat.tool_choice.mode == "auto":
            grammar = free_grammar(callable_tools, wish.answer_format, self._tokenizer)
        else:
            grammar = answer_grammar(said, callable_tools, wish.answer_format, self._tokenizer)
        return {"grammar": grammar, "grammar_field": wish.place}

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


def _parameters(i: int) -> str:
    return f"tools[{i}].function.parameters"


def _callable_tools(chat: ChatInput) -> list[tuple[int, dict[str, Any]]]:
    """Those that may be called, with their places."""
    return [(i, tool) for i, tool in enumerate(chat.tools) if chat.tool_choice.allows(tool["function"]["name"])]
