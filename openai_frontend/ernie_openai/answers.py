"""From events to OpenAI's objects, whole or in chunks; knows neither HTTP nor the engine.

Both ways share every function but the last, so that the chunks of a streamed answer add up to the answer that is not streamed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import replace
from typing import Any, Protocol

from ernie_backend.protocol import Usage

from .client import AnswerEvent
from .convert import AnswerPlan


class AnswerStyle(Protocol):
    """What tells the two endpoints' objects apart. A choice's dictionaries lack nothing but `index` and `finish_reason`."""

    whole_object: str
    chunk_object: str

    def opening(self) -> dict[str, Any] | None:
        """The choice's first chunk, before any content; None where the endpoint has none."""
        ...

    def chunk(self, event: AnswerEvent, ids: dict[str, Any], logprobs: dict[str, Any] | None) -> dict[str, Any]: ...

    def whole(self, event: AnswerEvent, ids: dict[str, Any], logprobs: dict[str, Any] | None) -> dict[str, Any]: ...

    def logprobs(self, event: AnswerEvent, characters_before: int) -> dict[str, Any]: ...


class ChatStyle:
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def opening(self) -> dict[str, Any] | None:
        return {"delta": {"role": "assistant", "content": ""}, "logprobs": None}

    def chunk(self, event: AnswerEvent, ids: dict[str, Any], logprobs: dict[str, Any] | None) -> dict[str, Any]:
        # `content` stands in every delta: FastDeploy's documented clients read it without asking.
        delta: dict[str, Any] = {"content": event.text}
        if event.reasoning:
            delta["reasoning_content"] = event.reasoning
        if event.tool_calls:
            delta["tool_calls"] = _one_for_each_call(event.tool_calls)
        return {"delta": delta | ids, "logprobs": logprobs, **ids}

    def whole(self, event: AnswerEvent, ids: dict[str, Any], logprobs: dict[str, Any] | None) -> dict[str, Any]:
        # null: the answer ended inside its thought, or consists of calls
        content = event.text if event.text or not (event.reasoning or event.tool_calls) else None
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if event.reasoning:
            message["reasoning_content"] = event.reasoning
        if event.tool_calls:
            message["tool_calls"] = _whole_tool_calls(event.tool_calls)
        return {"message": message | ids, "logprobs": logprobs, **ids}

    def logprobs(self, event: AnswerEvent, characters_before: int) -> dict[str, Any]:
        content = [_logprob(item) | {"top_logprobs": [_logprob(top) for top in item["top_logprobs"]]} for item in event.logprobs]
        return {"content": content, "refusal": None}


class CompletionStyle:
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def opening(self) -> dict[str, Any] | None:
        return None

    def chunk(self, event: AnswerEvent, ids: dict[str, Any], logprobs: dict[str, Any] | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"text": event.text, "logprobs": logprobs, **ids}
        if event.reasoning:
            choice["reasoning_content"] = event.reasoning
        return choice

    whole = chunk

    def logprobs(self, event: AnswerEvent, characters_before: int) -> dict[str, Any]:
        offsets = []
        for item in event.logprobs:
            offsets.append(characters_before)
            characters_before += characters_begun(item)
        return {
            "tokens": [item["token"] for item in event.logprobs],
            "token_logprobs": [item["logprob"] for item in event.logprobs],
            # The chosen token last: where two ids spell the same, its number stands.
            "top_logprobs": [{t["token"]: t["logprob"] for t in (*item["top_logprobs"], item)} for item in event.logprobs],
            "text_offset": offsets,
        }


def characters_begun(item: dict[str, Any]) -> int:
    """How many characters of the text begin in a token: its bytes that are no UTF-8 continuation, however tokens cut characters."""
    return sum(byte & 0xC0 != 0x80 for byte in item["bytes"] or ())


def _logprob(item: dict[str, Any]) -> dict[str, Any]:
    return {"token": item["token"], "logprob": item["logprob"], "bytes": item["bytes"]}


def _one_for_each_call(deltas: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One delta for each call that a chunk speaks of: clients such as openai's tell of a call's arguments once for each, all joined."""
    joined: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        known = joined.setdefault(delta["index"], delta)
        if known is not delta:
            function, more = known.get("function") or {}, delta.get("function") or {}
            arguments = function.get("arguments", "") + more.get("arguments", "")
            joined[delta["index"]] = delta | known | {"function": more | function | {"arguments": arguments}}
    return list(joined.values())


def _whole_tool_calls(deltas: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Streaming deltas of several calls, put together call by call."""
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        call = calls.setdefault(delta["index"], {"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
        call["id"] = delta.get("id") or call["id"]
        for part, text in (delta.get("function") or {}).items():
            call["function"][part] += text or ""
    return [call for _, call in sorted(calls.items())]


def join_events(events: list[AnswerEvent]) -> AnswerEvent:
    """Consecutive events of one choice as one event."""
    if len(events) == 1:
        return events[0]
    return AnswerEvent(
        index=events[0].index,
        text="".join(event.text for event in events),
        reasoning="".join(event.reasoning for event in events),
        tool_calls=tuple(call for event in events for call in event.tool_calls),
        token_ids=tuple(token for event in events for token in event.token_ids),
        logprobs=tuple(item for event in events for item in event.logprobs),
        finish_reason=events[-1].finish_reason,
        usage=events[-1].usage,
        prompt_token_ids=events[0].prompt_token_ids,
        timings=events[-1].timings,
    )


async def hold_back(events: AsyncIterator[AnswerEvent], min_tokens: int) -> AsyncIterator[AnswerEvent]:
    """Joins events of a choice until they bring `min_tokens` tokens or the choice ends."""
    held: dict[int, list[AnswerEvent]] = {}
    async for event in events:
        of_choice = held.setdefault(event.index, [])
        of_choice.append(event)
        if event.finish_reason is not None or sum(len(e.token_ids) for e in of_choice) >= min_tokens:
            yield join_events(held.pop(event.index))


class UsageMeter:
    """Adds up the usage of choices and prompts."""

    def __init__(self, choices_per_prompt: int) -> None:
        self._choices_per_prompt = choices_per_prompt
        self._of_choice: dict[int, Usage] = {}
        self._timings: list[dict[str, float]] = []

    def note(self, event: AnswerEvent) -> None:
        self._of_choice[event.index] = event.usage
        if event.timings is not None:
            self._timings.append(event.timings)

    @property
    def timings(self) -> dict[str, float] | None:
        """How long what took, if the client asked; of several choices the counts add up, and of every time and rate the longest stands."""
        if not self._timings:
            return None
        return {name: (sum if name.endswith("_n") else max)(each[name] for each in self._timings) for name in self._timings[0]}

    def total(self) -> dict[str, Any]:
        """OpenAI's usage object, with FastDeploy's image and video counts. A prompt counts once, whatever `n`."""
        of_prompt: dict[int, Usage] = {}
        for index in sorted(self._of_choice):
            of_prompt.setdefault(index // self._choices_per_prompt, self._of_choice[index])
        prompt_tokens = sum(usage.prompt_tokens for usage in of_prompt.values())
        completion_tokens = sum(usage.completion_tokens for usage in self._of_choice.values())
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {
                "cached_tokens": sum(usage.cached_tokens for usage in of_prompt.values()),
                "image_tokens": sum(usage.image_tokens for usage in of_prompt.values()),
                "video_tokens": sum(usage.video_tokens for usage in of_prompt.values()),
            },
            "completion_tokens_details": {"reasoning_tokens": sum(usage.reasoning_tokens for usage in self._of_choice.values())},
        }


def _ids(plan: AnswerPlan, event: AnswerEvent) -> dict[str, Any]:
    if not plan.return_token_ids:
        return {}
    ids = {"completion_token_ids": list(event.token_ids)}
    return ids if event.prompt_token_ids is None else {"prompt_token_ids": list(event.prompt_token_ids)} | ids


async def whole_answer(plan: AnswerPlan, style: AnswerStyle, events: AsyncIterator[AnswerEvent], meter: UsageMeter) -> dict[str, Any]:
    """The answer as one object; `meter` is filled on the way."""
    of_choice: dict[int, list[AnswerEvent]] = {}
    async for event in events:
        meter.note(event)
        of_choice.setdefault(event.index, []).append(event)
    choices = []
    for index in sorted(of_choice):
        event = join_events(of_choice[index])
        logprobs = style.logprobs(event, 0) if plan.logprobs else None
        choices.append({"index": index, **style.whole(event, _ids(plan, event), logprobs), "finish_reason": event.finish_reason})
    answer = {
        "id": plan.id,
        "object": style.whole_object,
        "created": plan.created,
        "model": plan.model,
        "choices": choices,
        "usage": meter.total(),
        **_tier(plan),
    }
    return answer if meter.timings is None else answer | {"timings": meter.timings}


def _tier(plan: AnswerPlan) -> dict[str, Any]:
    return {} if plan.service_tier is None else {"service_tier": plan.service_tier}


class ChunkMaker:
    """Makes the chunks of one streamed answer, event by event."""

    def __init__(self, plan: AnswerPlan, style: AnswerStyle, meter: UsageMeter) -> None:
        self._plan = plan
        self._style = style
        self._meter = meter
        self._unfinished = len(plan.prompts) * plan.choices_per_prompt
        self._characters: dict[int, int] = {}  # choice → characters begun so far; its keys are the choices that were opened

    def chunks(self, event: AnswerEvent) -> Iterator[dict[str, Any]]:
        """What an event adds: an opening chunk if it is the choice's first, content if there is any, an end if it is the last."""
        plan, style = self._plan, self._style
        self._meter.note(event)
        if event.index not in self._characters:
            self._characters[event.index] = 0
            opening = style.opening()
            if opening is not None:
                yield self._chunk(event.index, opening)
        ids = _ids(plan, event)
        if event.text or event.reasoning or event.tool_calls or event.logprobs or (ids and (event.token_ids or event.prompt_token_ids)):
            logprobs = None
            if plan.logprobs:
                logprobs = style.logprobs(event, self._characters[event.index])
                self._characters[event.index] += sum(map(characters_begun, event.logprobs))
            yield self._chunk(event.index, style.chunk(event, ids, logprobs))
        if event.finish_reason is not None:
            nothing = AnswerEvent(event.index)
            last = self._chunk(event.index, style.chunk(nothing, {}, None), event.finish_reason)
            self._unfinished -= 1
            yield last | {"timings": self._meter.timings} if self._meter.timings and not self._unfinished else last

    def last(self) -> Iterator[dict[str, Any]]:
        """What follows when every choice has ended."""
        if self._plan.include_usage:
            yield self._envelope([], self._meter.total())

    def _chunk(self, index: int, choice: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        usage = self._meter.total() if self._plan.continuous_usage else None
        return self._envelope([{"index": index, **choice, "finish_reason": finish_reason}], usage)

    def _envelope(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        plan = self._plan
        chunk = {"id": plan.id, "object": self._style.chunk_object, "created": plan.created, "model": plan.model, "choices": choices}
        chunk |= _tier(plan)
        if plan.include_usage or plan.continuous_usage:
            chunk["usage"] = usage
        return chunk


def numbered(event: AnswerEvent, first_index: int) -> AnswerEvent:
    """The event with its choice's number in the whole answer."""
    return event if first_index == 0 else replace(event, index=event.index + first_index)
