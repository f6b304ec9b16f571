"""What the front end asks of an engine and what it hears back, as plain objects; knows neither gRPC nor OpenAI."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Protocol

from ernie_backend.protocol import Level, Usage

from .terms import Terms


@dataclass(frozen=True)
class EnsembleRequest:
    """One prompt for the ensemble. Exactly one of `text_input` and `chat` is given."""

    request_id: str
    """For the server's log; nothing is looked up by it."""
    sampling_parameters: str
    """JSON object."""
    num_choices: int
    prompt_field: str
    """Where the prompt stood in the user's request, for errors about it: `messages`, `prompt[2]`."""
    metadata_fields: frozenset[str] = frozenset()
    """Fields that the user gave in metadata, for errors about them."""
    text_input: str | None = None
    """A prompt without a template."""
    traceparent: str = ""
    """The W3C context that its spans belong to. Empty: it is not traced."""
    chat: str | None = None
    """JSON object: `messages` and what belongs to them, or `prompt_token_ids`."""
    answer_id: str = ""
    """The id of the answer, by which it can be aborted; several prompts may share one."""
    level: int = Level.DEFAULT
    terms: Terms = field(default_factory=Terms)


@dataclass(frozen=True)
class AnswerEvent:
    """What is new about one choice."""

    index: int
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    """OpenAI's streaming deltas: {index, id, type, function {name, arguments}}."""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[dict[str, Any], ...] = ()
    """{token, token_id, logprob, bytes, top_logprobs}, one per new token, when asked for."""
    finish_reason: str | None = None
    """stop, length or tool_calls, on the choice's last event."""
    usage: Usage = field(default_factory=Usage)
    """Of this choice, up to and including this event."""
    prompt_token_ids: tuple[int, ...] | None = None
    """On the choice's first event, when asked for."""
    timings: dict[str, float] | None = None
    """On the choice's last event, when asked for: how long what took."""


class EngineClient(Protocol):
    """The way to an engine. Every method may raise an `ErnieError`."""

    def generate(self, request: EnsembleRequest) -> AsyncGenerator[AnswerEvent, None]:
        """The events of one prompt, until each of its choices has finished. Closing the generator early cancels the work."""
        ...

    async def abort(self, tenant: str | None, answer_ids: tuple[str, ...] | None) -> tuple[str, ...]:
        """End the tenant's answers (None: everybody's) that go by one of the ids (None: all of them); the ids that named something under
        way."""
        ...

    async def is_ready(self) -> bool: ...

    async def metrics(self) -> bytes:
        """Prometheus text."""
        ...

    async def close(self) -> None: ...
