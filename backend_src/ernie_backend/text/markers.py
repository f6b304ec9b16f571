"""Finds an answer's markers among its tokens: by id where the vocabulary has them, else by their spelling; gives them no meaning.

A marker that the vocabulary has counts only as that token: the same characters from other tokens are text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .detokenizer import Detokenizer
from .tokenizer import Tokenizer

THINK, END_THINK = "<think>", "</think>"
RESPONSE, END_RESPONSE = "<response>", "</response>"
TOOL_CALL, END_TOOL_CALL = "<tool_call>", "</tool_call>"
MARKERS = (THINK, END_THINK, RESPONSE, END_RESPONSE, TOOL_CALL, END_TOOL_CALL)

Piece = tuple[str, bool]
"""(text, whether it is a marker)."""


class MarkerReader:
    """For one answer. The pieces' texts, put together, are the answer; only a spelled marker's beginning at the end waits."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        """`skip_special_tokens` concerns all special tokens but `MARKERS`."""
        self._detokenizer = Detokenizer(tokenizer, skip_special_tokens)
        self._names = {token_id: name for name in MARKERS if (token_id := tokenizer.token_id(name)) is not None}
        self._spelled = tuple(name for name in MARKERS if tokenizer.token_id(name) is None)
        self._held = ""

    def push(self, token_id: int) -> list[Piece]:
        name = self._names.get(token_id)
        if name is None:
            return list(self._split(self._detokenizer.push((token_id,)), final=False))
        return [*self.finish(), (name, True)]

    def finish(self) -> list[Piece]:
        """What waits; nothing that belongs to it follows."""
        return list(self._split(self._detokenizer.push((), final=True), final=True))

    def _split(self, text: str, final: bool) -> Iterator[Piece]:
        text, self._held = self._held + text, ""
        start = 0
        at = text.find("<") if self._spelled else -1
        while at >= 0:
            name = next((name for name in self._spelled if text.startswith(name, at)), None)
            if name is not None:
                if at > start:
                    yield text[start:at], False
                yield name, True
                start = at + len(name)
                at = text.find("<", start)
            elif not final and any(name.startswith(text[at:]) for name in self._spelled):
                text, self._held = text[:at], text[at:]
                break
            else:
                at = text.find("<", at + 1)
        if start < len(text):
            yield text[start:], False


@dataclass(frozen=True)
class LastMarker:
    """How a prompt leaves off."""

    name: str
    is_fresh: bool
    """Only newlines follow it."""


def last_marker(token_ids: Sequence[int], tokenizer: Tokenizer) -> LastMarker | None:
    """The last marker of a prompt, None if it has none."""
    names = {token_id: name for name in MARKERS if (token_id := tokenizer.token_id(name)) is not None}
    place = next((i for i in range(len(token_ids) - 1, -1, -1) if token_ids[i] in names), -1)
    spelled = [name for name in MARKERS if tokenizer.token_id(name) is None]
    if place < 0 and not spelled:
        return None
    rest = tokenizer.decode(token_ids[place + 1 :], skip_special_tokens=False)
    name = names[token_ids[place]] if place >= 0 else None
    position, found = max(((rest.rfind(name), name) for name in spelled), default=(-1, ""))
    if position >= 0:
        name, rest = found, rest[position + len(found) :]
    return None if name is None else LastMarker(name, not rest.strip("\n"))
