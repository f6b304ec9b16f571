"""Finds the first stop string in a growing text; knows no tokens.

The stop string that is complete first wins; of those complete at the same character, the longest. So the outcome does not depend on how
the text was cut into pushes, and nothing has to wait for a stop string that may still come.
"""

from __future__ import annotations

from collections import deque


class StopStringMatcher:
    """For one answer. An Aho-Corasick automaton: one look-up per character, however many stop strings there are."""

    def __init__(self, stop: tuple[str, ...], include_stop: bool = False) -> None:
        self._include_stop = include_stop
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]
        """By state: length of the longest end of the text that begins a stop string."""
        self._match = [0]
        """By state: length of the longest stop string that the text ends with; 0: none."""
        for text in stop:
            self._insert(text)
        self._fallback = self._link()
        self._state = 0
        self._held = ""
        """Read, not yet emitted: as long as `_depth` of the state."""
        self._stopped = False

    def push(self, text: str, final: bool = False, *, may_stop: bool = True) -> tuple[str, bool]:
        """(text that may be shown, whether a stop string was found). After that nothing more is shown. `final`: nothing follows.
        `may_stop`: false for text that completes no stop string, though it may begin one."""
        if self._stopped:
            return "", True
        if len(self._next) == 1:
            return text, False
        for position, character in enumerate(text, 1):
            self._state = state = self._step(self._state, character)
            if self._match[state] and may_stop:
                self._stopped = True
                shown = self._held + text[:position]
                return (shown if self._include_stop else shown[: -self._match[state]]), True
        shown = self._held + text
        waiting = 0 if final else self._depth[self._state]
        self._held = shown[len(shown) - waiting :]
        return shown[: len(shown) - waiting], False

    def _step(self, state: int, character: str) -> int:
        while state and character not in self._next[state]:
            state = self._fallback[state]
        return self._next[state].get(character, 0)

    def _insert(self, text: str) -> None:
        state = 0
        for character in text:
            following = self._next[state].get(character)
            if following is None:
                following = self._next[state][character] = len(self._next)
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._match.append(0)
            state = following
        self._match[state] = len(text)

    def _link(self) -> list[int]:
        """By state: the state of its text's longest proper end that is known; breadth first, so that shorter texts are done before."""
        fallback = [0] * len(self._next)
        self._fallback = fallback
        waiting = deque(self._next[0].values())
        while waiting:
            state = waiting.popleft()
            for character, child in self._next[state].items():
                fallback[child] = self._step(fallback[state], character)
                self._match[child] = self._match[child] or self._match[fallback[child]]
                waiting.append(child)
        return fallback
