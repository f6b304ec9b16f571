"""From the engine's events to what a client reads: text, thought, tool calls, log-probabilities, usage. Knows no pb_utils.

Its state lies under the request's key, one entry per choice, from the choice's first event to the request's last one. It never raises:
whatever goes wrong becomes an output with finish reason `error`, and the engine hears that the request needs no more tokens.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import EngineError
from ..protocol import FinishReason, Usage
from ..text.answer import AnswerDelta, AnswerReader
from ..text.tokenizer import Tokenizer
from ..text.tool_calls import whole_calls
from ..tracing import Tracer
from .answer_timings import answer_timings
from .post_context import PostContext
from .seal import Seal, is_same

log = logging.getLogger(__name__)

_FAILED = EngineError("The server could not put this answer into words. Try again; if it happens again, see the server's log.")


class Relay(Protocol):
    """The way back to the engine (`relay.RelaySender`): never raises, never blocks for long."""

    def consumed(self, num_responses: int) -> None: ...
    def cancelled(self, key: str) -> None: ...
    def stopped(self, key: str, index: int) -> None: ...
    def ended(self, reason: str) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class PostOutputs:
    """One response's outputs as plain values; the JSON ones as text, empty when there is nothing to say."""

    index: int = 0
    text_output: str = ""
    reasoning_output: str = ""
    tool_calls: str = ""
    finish_reason: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: str = ""
    usage: str = ""
    error: str = ""
    """With finish reason `error`, or `abort` where there is more to say: an `ErnieError` in its wire form."""


@dataclass
class _Choice:
    context: PostContext
    reader: AnswerReader
    """Once it has stopped, what still comes is swallowed, but for the end."""
    num_tokens: int = 0
    cached_tokens: int = 0
    ended: bool = False
    """The finish reason was sent."""
    is_first: bool = True


@dataclass
class _Request:
    choices: dict[int, _Choice] = field(default_factory=dict)
    failed: bool = False
    request_id: str = ""
    traceparent: str = ""
    began_at: float = 0.0
    """CLOCK_MONOTONIC, seconds, if it is traced; so are the next."""
    busy_seconds: float = 0.0
    num_responses: int = 0


class Postprocessor:
    """One model's postprocessing, for one thread. `len()`: choices that it holds state of."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        connect: Callable[[str], Relay],
        seal: Seal,
        acknowledge_every: int = 1,
        tracer: Tracer | None = None,
    ) -> None:
        """`connect` opens the relay at a path that the engine names, and `seal` tells that it was the engine.

        `acknowledge_every`: so many responses are acknowledged together; fewer when no answer is under way any more.
        """
        self._acknowledge_every = acknowledge_every
        self._num_unacknowledged = 0
        self._tracer = tracer
        self._seal = seal
        self._tokenizer = tokenizer
        self._connect = connect
        self._requests: dict[str, _Request] = {}
        self._relay: Relay | None = None
        self._relay_path = ""

    def __len__(self) -> int:
        return sum(len(request.choices) for request in list(self._requests.values()))

    def close(self) -> None:
        """Forget everything and close the relay."""
        self._requests.clear()
        if self._relay is not None:
            self._relay.close()
            self._relay = None

    def process(self, event_json: bytes, token_ids: Sequence[int], *, cancelled: bool = False) -> PostOutputs:
        """The outputs for one engine response. `cancelled`: its client has gone. Never raises."""
        event: dict[str, Any] = {}
        began_at = time.monotonic() if self._tracer is not None else 0.0
        try:
            given = json.loads(event_json)
            if not isinstance(given, dict):
                raise TypeError("the event is no JSON object")
            event = given
            outputs = self._process(event, token_ids)
        except Exception:
            log.exception("An engine response could not be turned into outputs.", extra={"request_id": self._request_id(event)})
            outputs = self._fail(event)
        if self._tracer is not None:
            self._trace(self._tracer, event, began_at, outputs)
        self._report(event, cancelled)
        return outputs

    def _process(self, event: dict[str, Any], token_ids: Sequence[int]) -> PostOutputs:
        if "waiting" in event:  # preprocess still works on it
            return PostOutputs()
        if "refused" in event:
            return self._refused(event)
        if event.get("aborted") is not None:
            return self._aborted(event)
        if event["post"] is not None:
            self._begin(event)
        request = self._requests[event["key"]]
        choice = request.choices[event["index"]]
        if choice.ended or request.failed:
            return PostOutputs(index=event["index"])
        return self._answer(event, choice, list(token_ids))

    def _aborted(self, event: dict[str, Any]) -> PostOutputs:
        """The answer to a request that ended others: their ids as a JSON list."""
        if not is_same(event["seal"], self._seal.of_aborted(event["key"], event["aborted"])):
            raise PermissionError("an answer that the engine has not sealed")
        return PostOutputs(text_output=_dumps(event["aborted"]), finish_reason=FinishReason.STOP.value)

    def _refused(self, event: dict[str, Any]) -> PostOutputs:
        """The end of a request that never came further than preprocess, whose client has had a response already."""
        if not is_same(event["seal"], self._seal.of_refusal(event["key"], event["refused"])):
            raise PermissionError("a refusal that the engine has not sealed")
        return PostOutputs(finish_reason=FinishReason.ERROR.value, error=event["refused"])

    def _begin(self, event: dict[str, Any]) -> None:
        """A choice's first response: the engine's word, or nobody's."""
        expected = self._seal.of_first_response(event["key"], event["relay"], event["post"])
        if not is_same(event["seal"], expected):
            raise PermissionError("a first response that the engine has not sealed")
        self._open_relay(event["relay"])
        choice = self._new_choice(event["post"])
        request = self._requests.setdefault(event["key"], _Request())
        request.request_id, request.traceparent = choice.context.request_id, choice.context.traceparent
        request.choices[event["index"]] = choice

    def _answer(self, event: dict[str, Any], choice: _Choice, ids: list[int]) -> PostOutputs:
        context, reader = choice.context, choice.reader
        finish = event["finish_reason"]
        choice.cached_tokens = max(choice.cached_tokens, event["cached_tokens"])
        delta, ids = self._read(choice, ids, finish)
        choice.num_tokens += len(ids)
        if finish is not None:
            choice.ended = True
            counted_here = finish == FinishReason.STOP and context.answer_format.calls
            finish = _finish_reason(finish, reader)
            if counted_here and self._relay is not None:
                self._relay.ended(finish)
        outputs = PostOutputs(
            index=event["index"],
            text_output=(context.echo if choice.is_first else "") + delta.content,
            reasoning_output=delta.reasoning,
            tool_calls=_tool_calls(delta, context.streamed),
            finish_reason=finish or "",
            token_ids=tuple(ids),
            logprobs=self._logprobs(ids, event["logprobs"]) if context.logprobs else "",
            usage=_usage(choice, event.get("timings")),
            error=_error(finish, event["error"]),
        )
        choice.is_first = False
        return outputs

    def _read(self, choice: _Choice, ids: list[int], finish: str | None) -> tuple[AnswerDelta, list[int]]:
        """(what to show, the ids that count: up to the one that completes a stop string)."""
        context = choice.context
        hidden_end = finish == FinishReason.STOP and bool(ids) and ids[-1] in context.end_token_ids and not context.include_stop
        shown = ids[:-1] if hidden_end else ids
        delta, used = choice.reader.push(shown, finish is not None)
        return delta, ids[:used] if choice.reader.stopped else ids

    def _request_id(self, event: dict[str, Any]) -> str:
        request = self._requests.get(event.get("key", ""))
        return request.request_id if request is not None else ""

    def _trace(self, tracer: Tracer, event: dict[str, Any], began_at: float, outputs: PostOutputs) -> None:
        """One span for the request, from its first response to its last; most of that time it waits for the engine."""
        request = self._requests.get(event.get("key", ""))
        if request is None or not request.traceparent:
            return
        now = time.monotonic()
        request.began_at = request.began_at or began_at
        request.busy_seconds += now - began_at
        request.num_responses += 1
        if event.get("final") is True:
            attributes: dict[str, str | int | float] = {
                "ernie.request_id": request.request_id,
                "ernie.responses": request.num_responses,
                "ernie.busy_seconds": request.busy_seconds,
                "gen_ai.usage.output_tokens": sum(choice.num_tokens for choice in request.choices.values()),
            }
            error = outputs.error if outputs.finish_reason == FinishReason.ERROR else None
            tracer.record("postprocess", request.began_at, now, request.traceparent, attributes, error=error)

    def _report(self, event: dict[str, Any], cancelled: bool) -> None:
        """Tell the engine what became of its response; of a request that waits, it hears by itself."""
        if "waiting" in event or "refused" in event:
            return
        self._tell_of(event, cancelled)
        self._num_unacknowledged += 1
        if self._relay is not None and (self._num_unacknowledged >= self._acknowledge_every or not self._requests):
            self._relay.consumed(self._num_unacknowledged)
            self._num_unacknowledged = 0

    def _tell_of(self, event: dict[str, Any], cancelled: bool) -> None:
        """Whether anybody still waits for the request's tokens. It is forgotten behind its last response."""
        key = event.get("key")
        request = self._requests.get(key) if isinstance(key, str) else None
        if request is None or not isinstance(key, str):
            if self._relay is not None and isinstance(key, str) and key.isalnum():
                self._relay.cancelled(key)  # nobody could read its answer
            return
        final = event.get("final") is True
        if final:
            del self._requests[key]
        if self._relay is None:
            return
        choice = request.choices.get(event.get("index", 0))
        if not final and (cancelled or request.failed):
            self._relay.cancelled(key)
        elif not final and choice is not None and choice.reader.stopped and not choice.ended:
            self._relay.stopped(key, event["index"])

    def _fail(self, event: dict[str, Any]) -> PostOutputs:
        key = event.get("key")
        request = self._requests.get(key) if isinstance(key, str) else None
        already = request is not None and request.failed
        if request is not None:
            request.failed = True
        index = event.get("index")
        where = index if isinstance(index, int) else 0
        return (
            PostOutputs(index=where)
            if already
            else PostOutputs(index=where, finish_reason=FinishReason.ERROR.value, error=_FAILED.to_wire())
        )

    def _new_choice(self, post: dict[str, Any]) -> _Choice:
        context = PostContext.from_json_object(post)
        return _Choice(context, context.reader(self._tokenizer))

    def _open_relay(self, path: str) -> None:
        if path == self._relay_path and self._relay is not None:
            return
        if self._relay is not None:
            self._relay.close()  # the engine was loaded anew
        self._relay, self._relay_path = self._connect(path), path

    def _logprobs(self, ids: list[int], given: list[Any] | None) -> str:
        """One entry per id, as OpenAI spells them, with the token's id."""
        entries = []
        for token, (logprob, top_ids, top_logprobs) in zip(ids, given or (), strict=False):  # ids end earlier at a stop string
            top = [self._entry(*pair) for pair in zip(top_ids, top_logprobs, strict=True)]
            entries.append({**self._entry(token, logprob), "top_logprobs": top})
        return _dumps(entries)

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        return {
            "token": self._tokenizer.token_text(token),
            "token_id": token,
            "logprob": logprob,
            "bytes": list(self._tokenizer.token_bytes(token)),
        }


def _finish_reason(finish: str, reader: AnswerReader) -> str:
    """What the engine says, but for what only the text tells. An answer that was cut off stays so, whatever it called before."""
    if finish == FinishReason.STOP or reader.stopped:
        return (FinishReason.TOOL_CALLS if reader.num_calls else FinishReason.STOP).value
    return finish


def _tool_calls(delta: AnswerDelta, streamed: bool) -> str:
    """OpenAI's streaming deltas, or the whole calls of an answer that is not streamed."""
    if not delta.tool_calls:
        return ""
    return _dumps(delta.tool_calls if streamed else whole_calls(delta.tool_calls))


def _error(finish: str | None, told: str | None) -> str:
    if finish == FinishReason.ERROR:
        return told or _FAILED.to_wire()
    return (told or "") if finish == FinishReason.ABORT else ""


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _usage(choice: _Choice, times: Sequence[float | None] | None) -> str:
    usage = Usage(
        prompt_tokens=choice.context.num_prompt_tokens,
        completion_tokens=choice.num_tokens,
        cached_tokens=choice.cached_tokens,
        image_tokens=choice.context.num_image_tokens,
        video_tokens=choice.context.num_video_tokens,
        reasoning_tokens=choice.reader.reasoning_tokens,
    )
    fields = {name: getattr(usage, name) for name in Usage.__dataclass_fields__}
    if choice.is_first and choice.context.prompt_token_ids is not None:
        fields["prompt_token_ids"] = choice.context.prompt_token_ids
    if times is not None and choice.context.timings:
        fields["timings"] = answer_timings(
            times,
            num_prompt_tokens=usage.prompt_tokens,
            num_cached_tokens=usage.cached_tokens,
            num_tokens=usage.completion_tokens,
        )
    return json.dumps(fields, separators=(",", ":"))
