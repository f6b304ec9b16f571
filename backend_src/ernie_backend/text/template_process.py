"""Keeps the helper process that renders one template: starts it, asks it, replaces it when a limit ended it; knows no messages."""

from __future__ import annotations

import json
from typing import Any

from ..errors import ConfigError, EngineError, InvalidRequestError
from .helper_process import HelperProcess

MEMORY_BYTES = 2**30
"""Address space of the helper. Python with jinja takes 30 MB, a conversation of 5 MB some 60 MB more."""
MAX_CHARACTERS = 2**24


class TemplateProcess:
    """Renders `source` again and again. Not for several threads at once."""

    def __init__(self, source: str, cpu_seconds: float) -> None:
        """Starts the helper and compiles the template. `ConfigError` if it does not compile."""
        self._cpu_seconds = cpu_seconds
        settings = {"source": source, "cpu_seconds": cpu_seconds, "memory_bytes": MEMORY_BYTES, "max_characters": MAX_CHARACTERS}
        self._helper = HelperProcess("template_worker", settings)
        self.variables: frozenset[str] = frozenset()
        """Names that the template reads and does not set itself."""
        self._start()

    def render(self, variables: dict[str, Any]) -> str:
        """The rendered text. `InvalidRequestError` with the template's words if it refuses, fails or runs into a limit."""
        line = json.dumps(variables)
        answer = self._ask(line)
        if answer is None and not self._helper.ran_out_of_time:
            answer = self._ask(line)  # the helper had died before, from outside; a fresh one decides
        if answer is None:
            if self._helper.ran_out_of_time:
                raise InvalidRequestError(
                    f"The chat template did not finish within {self._cpu_seconds:g} s of CPU time for these messages.", param="messages"
                )
            raise EngineError("The chat template's process ended while it rendered these messages. Try again.")
        return answer

    def close(self) -> None:
        """End the helper and wait for it."""
        self._helper.close()

    def _start(self) -> None:
        answer = self._helper.start()
        if answer is not None and "error" not in answer:
            self.variables = frozenset(answer["text"].split("\n"))
            return
        looped = self._helper.ran_out_of_time
        self.close()
        if answer is not None:
            raise ConfigError(f"The chat template does not compile: {answer['error'].rstrip('.')}.", param="chat_template")
        if looped:
            raise ConfigError("The chat template does not compile in time.", param="chat_template")
        raise ConfigError("The helper process for chat templates does not start; its own message stands above.", param="chat_template")

    def _ask(self, line: str) -> str | None:
        """The rendered text; None if the helper died over it."""
        if not self._helper.is_running:
            self._start()
        answer = self._helper.ask(line)
        if answer is None:
            return None
        if "error" in answer:
            raise InvalidRequestError(f"The chat template refuses these messages: {answer['error'][:500]}", param="messages")
        return answer["text"]
