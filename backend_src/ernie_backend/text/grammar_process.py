"""Tries out what users want an answer to follow, in a helper process with hard limits; knows no tokens and no engine."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

from ..errors import EngineError, InvalidRequestError
from .grammar import Body
from .helper_process import HelperProcess

CPU_SECONDS = 1.0
"""A schema of 100,000 characters takes some 0.05 s."""
MEMORY_BYTES = 2**30
"""Of the address space, of which the helper takes 60 MB."""
REMEMBERED = 64


class GrammarProcess:
    """Not for several threads at once. The helper starts with the first question."""

    def __init__(self, cpu_seconds: float = CPU_SECONDS) -> None:
        self._cpu_seconds = cpu_seconds
        self._helper = HelperProcess("grammar_worker", {"cpu_seconds": cpu_seconds, "memory_bytes": MEMORY_BYTES})
        self._known: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def compiled(self, body: Body) -> dict[str, Any]:
        """One of llguidance's grammars, which compiles. `InvalidRequestError` naming `body.place` if it does not within the limits."""
        line = json.dumps({"kind": body.kind, "value": body.value})
        if line not in self._known:
            self._known[line] = self._try_out(line, body.place)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(line)
        return self._known[line]

    def close(self) -> None:
        self._helper.close()

    def _try_out(self, line: str, place: str) -> dict[str, Any]:
        answer = self._ask(line)
        if answer is None and not self._helper.ran_out_of_time:
            answer = self._ask(line)  # its memory ran out, or it died from outside: a fresh one decides
        if answer is None and self._helper.ran_out_of_time:
            raise InvalidRequestError(f"{place} does not compile within {self._cpu_seconds:g} s of CPU time: make it simpler.", param=place)
        if answer is None:
            raise InvalidRequestError(f"{place} does not compile within the memory that it may use: make it simpler.", param=place)
        if "error" in answer:
            raise InvalidRequestError(f"{place} cannot be followed: {answer['error'].rstrip('.')}.", param=place)
        return json.loads(answer["grammar"])

    def _ask(self, line: str) -> dict[str, str] | None:
        if not self._helper.is_running:
            self._start()
        return self._helper.ask(line)

    def _start(self) -> None:
        if self._helper.start() is None:
            raise EngineError("The server cannot compile grammars; its log says why.")
