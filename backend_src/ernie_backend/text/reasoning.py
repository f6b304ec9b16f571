"""Newlines at the edges of a thought and of a response, which belong to the format and not to the text; knows no tokens and no markers.

Of a thought, those before it and those at its end are left out, also where it breaks off; of a response, those before it and the last one
before its end marker. Everything else is untouched. So newlines wait until it is clear what follows them.
"""

from __future__ import annotations


class EdgeTrimmer:
    """For one part of an answer. What it gives, put together, is the part's text without its edges."""

    def __init__(self, *, trims_start: bool, trailing: int | None) -> None:
        """`trailing`: how many newlines before the end marker go at most; None: all."""
        self._led_in_by = "\n" if trims_start else ""
        self._trailing = trailing
        self._waiting = 0

    def push(self, text: str) -> str:
        if self._led_in_by:
            text = text.lstrip(self._led_in_by)
            if not text:
                return ""
            self._led_in_by = ""
        body = text.rstrip("\n")
        if not body:
            self._waiting += len(text)
            return self._release(self._waiting - self._may_go())
        given = "\n" * self._waiting + body
        self._waiting = len(text) - len(body)
        return given + self._release(self._waiting - self._may_go())

    def skip(self, characters: str) -> None:
        """What follows is led in by such characters, which belong to the format."""
        self._led_in_by = characters

    def flush(self) -> str:
        """The part goes on, or is content that breaks off: the newlines that wait belong to it."""
        return self._release(self._waiting)

    def end(self) -> None:
        """The end marker came: the newlines that wait go."""
        self._waiting = 0

    def _may_go(self) -> int:
        return self._waiting if self._trailing is None else min(self._waiting, self._trailing)

    def _release(self, count: int) -> str:
        self._waiting -= count
        return "\n" * count
