"""Tries out what users want an answer to follow, in a helper process with hard limits; knows no tokens and no engine."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import Any

from ..abort_signal import NEVER, AbortSignal
from ..errors import EngineError, InvalidRequestError
from .grammar import Body
from .helper_process import HelperProcess

CPU_SECONDS = 0.5
"""A schema of 100,000 characters takes some 0.05 s. What takes longer is as large in the engine as it is slow."""
MEMORY_BYTES = 2**30
"""Of the address space, of which the helper takes 60 MB."""
REMEMBERED = 64


class GrammarProcess:
    """For one thread, but for `known`. The helper starts with the first question."""

    def __init__(self, cpu_seconds: float = CPU_SECONDS) -> None:
        self._cpu_seconds = cpu_seconds
        self._helper = HelperProcess("grammar_worker", {"cpu_seconds": cpu_seconds, "memory_bytes": MEMORY_BYTES})
        self._known: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, body: Body) -> dict[str, Any] | None:
        """What `compiled` would return, if it was tried out of late; at once, and from any thread."""
        line = _line(body)
        with self._lock:
            if line in self._known:
                self._known.move_to_end(line)
            return self._known.get(line)

    def compiled(self, body: Body, signal: AbortSignal = NEVER) -> dict[str, Any]:
        """One of llguidance's grammars, which compiles. `InvalidRequestError` naming `body.place` if it does not within the limits;
        `RequestAbortedError` if `signal` is set, which ends the helper at work."""
        found = self.known(body)
        if found is not None:
            return found
        found = self._try_out(_line(body), body.place, signal)
        with self._lock:
            self._known[_line(body)] = found
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return found

    def close(self) -> None:
        self._helper.close()

    def _try_out(self, line: str, place: str, signal: AbortSignal) -> dict[str, Any]:
        answer = self._ask(line, signal)
        if answer is None and not self._helper.ran_out_of_time:
            answer = self._ask(line, signal)  # its memory ran out, or it died from outside: a fresh one decides
        if answer is None and self._helper.ran_out_of_time:
            raise InvalidRequestError(f"{place} does not compile within {self._cpu_seconds:g} s of CPU time: make it simpler.", param=place)
        if answer is None:
            raise InvalidRequestError(f"{place} does not compile within the memory that it may use: make it simpler.", param=place)
        if "error" in answer:
            raise InvalidRequestError(f"{place} cannot be followed: {answer['error'].rstrip('.')}.", param=place)
        return json.loads(answer["grammar"])

    def _ask(self, line: str, signal: AbortSignal) -> dict[str, str] | None:
        signal.check()
        if not self._helper.is_running:
            self._start()
        answer = self._helper.ask(line, signal)
        if answer is None:
            signal.check()  # or it died of itself
        return answer

    def _start(self) -> None:
        if self._helper.start() is None:
            raise EngineError("The server cannot compile grammars; its log says why.")


def _line(body: Body) -> str:
    return json.dumps({"kind": body.kind, "value": body.value})
