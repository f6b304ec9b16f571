"""From an answer's token ids to what a client reads: thought, content and tool calls, up to a stop string. Knows no request and no finish.

One state machine for every format and both ways of answering: it works token by token, so that however the ids are cut into pushes, the
same comes out. Nothing is lost: whatever is no part of the format is content, a broken call with its markers included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .answer_format import AnswerFormat
from .detokenizer import Detokenizer
from .markers import END_RESPONSE, END_THINK, END_TOOL_CALL, RESPONSE, THINK, TOOL_CALL, MarkerReader
from .reasoning import EdgeTrimmer
from .stop_strings import StopStringMatcher
from .tokenizer import Tokenizer
from .tool_calls import CallScanner, CallState, parse_call

_WHITESPACE = " \t\r\n"


@dataclass(frozen=True)
class AnswerDelta:
    """What is new."""

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    """OpenAI's streaming deltas."""


@dataclass
class _Said:
    content: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)


class _Part(Enum):
    THOUGHT = "thought"
    CONTENT = "content"
    RESPONSE = "response"


class AnswerReader:
    """For one answer. Stop strings are looked for in the content only."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        answer_format: AnswerFormat,
        *,
        stop: tuple[str, ...] = (),
        include_stop: bool = False,
        min_tokens: int = 0,
        skip_special_tokens: bool = True,
    ) -> None:
        """`min_tokens`: no stop string counts that is shown to its end before so many ids. A call that breaks off is shown when it does:
        a stop string in it counts from then on, however early it was said."""
        self.stopped = False
        """A stop string was found, or the one call is complete: what follows is not shown."""
        self.num_calls = 0
        self.reasoning_tokens = 0
        """Ids of the thought, its end marker included."""
        self._format = answer_format
        self._matcher = StopStringMatcher(stop, include_stop)
        self._has_stop = bool(stop)
        self._tokens_before_stop = min_tokens
        self._plain = Detokenizer(tokenizer, skip_special_tokens)
        self._markers = MarkerReader(tokenizer, skip_special_tokens)
        self._part = _Part(answer_format.begins_in)
        self._trimmer = _trimmer_of(self._part, fresh=answer_format.begins_fresh)
        self._thought_is_empty = True
        self._call: CallScanner | None = None
        self._call_may_end = False
        """A call's object is complete, its end marker has not come yet."""
        self._said = _Said()

    def push(self, ids: Sequence[int], final: bool = False) -> tuple[AnswerDelta, int]:
        """(what the ids say, how many of them count: all, or those up to the one that completes a stop string). `final`: none follow."""
        if self._format.is_plain and not self._has_stop:
            return AnswerDelta(self._plain.push(ids, final)), len(ids)
        used = 0
        for token_id in ids:
            if self.stopped:
                break
            used += 1
            self._read(token_id)
        if final and not self.stopped:
            self._finish()
        said, self._said = self._said, _Said()
        return AnswerDelta(said.content, said.reasoning, tuple(said.tool_calls)), used

    def _read(self, token_id: int) -> None:
        self._tokens_before_stop -= 1
        if self._format.is_plain:
            self._show(self._plain.push((token_id,)))
            return
        self.reasoning_tokens += self._part is _Part.THOUGHT
        for text, is_marker in self._markers.push(token_id):
            self._take(text, is_marker)

    def _finish(self) -> None:
        if self._format.is_plain:
            self._show(self._plain.push((), final=True), final=True)
            return
        for text, is_marker in self._markers.finish():
            self._take(text, is_marker)
        if self._call is not None:
            self._give_up_call()
        if self._part is not _Part.THOUGHT:  # a thought ends here, closed or not: newlines at its end are no part of it
            self._emit(self._trimmer.flush())
        self._show("", final=True)

    # the state machine ---------------------------------------------------------------------------------------------------------

    def _take(self, text: str, is_marker: bool) -> None:
        if self.stopped:
            return
        if self._call is not None:
            self._take_in_call(self._call, text, is_marker)
        elif is_marker and self._is_structure(text):
            self._take_marker(text)
        else:
            self._take_text(text)

    def _is_structure(self, marker: str) -> bool:
        if self._part is _Part.THOUGHT:
            return marker == END_THINK or (marker == THINK and self._thought_is_empty)
        if marker == END_TOOL_CALL:
            return self._call_may_end
        if marker == TOOL_CALL:
            return self._format.calls
        return self._format.response and marker == (END_RESPONSE if self._part is _Part.RESPONSE else RESPONSE)

    def _take_marker(self, marker: str) -> None:
        if marker == TOOL_CALL:
            self._emit(self._trimmer.flush())
            self._call_may_end = False
            self._call = CallScanner()
        elif marker == END_TOOL_CALL:
            self._call_may_end = False
            self._trimmer.skip("\n")
        elif marker != THINK:  # the prompt has begun the thought, and the model begins it again
            self._trimmer.end()
            self._part = _Part.RESPONSE if marker == RESPONSE else _Part.CONTENT
            self._trimmer = _trimmer_of(self._part, fresh=True)

    def _take_text(self, text: str) -> None:
        self._call_may_end = self._call_may_end and not text.strip()
        self._thought_is_empty = self._thought_is_empty and not text.strip()
        self._emit(self._trimmer.push(text))

    def _take_in_call(self, call: CallScanner, text: str, is_marker: bool) -> None:
        if is_marker and not call.in_string:
            self._give_up_call()
            self._take(text, is_marker)
            return
        rest = call.push(text)
        if call.state is CallState.OPEN:
            return
        parsed = parse_call(call.text) if call.state is CallState.COMPLETE else None
        if parsed is None:
            self._give_up_call()
        else:
            self._call = None
            self._said.tool_calls += parsed.deltas(self.num_calls)
            self.num_calls += 1
            self._call_may_end = True
            self._trimmer.skip(_WHITESPACE)
            if self._format.one_call:
                self._show("", final=True)
                self.stopped = True
        if rest:
            self._take(rest, False)

    def _give_up_call(self) -> None:
        """It is no call, or ends too early: text like any other."""
        assert self._call is not None
        text, self._call = TOOL_CALL + self._call.text, None
        self._emit(self._trimmer.push(text))

    # what is shown -------------------------------------------------------------------------------------------------------------

    def _emit(self, text: str) -> None:
        if self._part is _Part.THOUGHT:
            self._said.reasoning += text
        else:
            self._show(text)

    def _show(self, text: str, final: bool = False) -> None:
        if self.stopped:
            return
        shown, stopped = self._matcher.push(text, final, may_stop=self._tokens_before_stop <= 0)
        self._said.content += shown
        self.stopped = stopped


def _trimmer_of(part: _Part, *, fresh: bool) -> EdgeTrimmer:
    trailing = {_Part.THOUGHT: None, _Part.CONTENT: 0, _Part.RESPONSE: 1}
    return EdgeTrimmer(trims_start=fresh, trailing=trailing[part])
