"""A well-behaved client that streams the same answer over and over while others attack, and wants it whole each time."""

from __future__ import annotations

import threading

import openai

from ernie_backend.cli.background import RunningServer


class Bystander:
    """Use as a context manager; `check()` whenever the attack is over."""

    def __init__(self, server: RunningServer) -> None:
        self._client = openai.Client(base_url=f"{server.openai_url}/v1", api_key="null", max_retries=0, timeout=120)
        self._expected = self._ask()
        self._answers = 0
        self._faults: list[str] = []
        self._answered = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bystander", daemon=True)

    def __enter__(self) -> Bystander:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(120)
        self._client.close()

    def check(self) -> None:
        """One more answer has begun and ended since the call, and none was ever other than it should be."""
        with self._answered:
            wanted = self._answers + 2  # the one under way may have begun before
            assert self._answered.wait_for(lambda: self._faults or self._answers >= wanted, timeout=120), "the stream stands still"
            assert not self._faults

    def _ask(self) -> str:
        stream = self._client.completions.create(
            model="null", prompt="A quiet reader.", max_tokens=32, temperature=0, stream=True, extra_body={"ignore_eos": True}
        )
        return "".join(chunk.choices[0].text for chunk in stream)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                text = self._ask()
                fault = None if text == self._expected else f"another answer: {text[:80]!r}"
            except openai.OpenAIError as error:
                fault = repr(error)
            with self._answered:
                self._answers += 1
                self._faults += [fault] if fault else []
                self._answered.notify_all()
            if fault:
                return
