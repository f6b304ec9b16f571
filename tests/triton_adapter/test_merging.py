"""Whatever is merged on the way, and however the choices' tokens interleave, the same message comes out at the far end.

The real delivery, postprocess, the front end's backlog and its chunks, driven by hand. The oracle is a path that never merges.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_backend.core.outputs import StepOutput
from ernie_backend.delivery import Delivery, Response
from ernie_backend.protocol import FinishReason, GenerateEvent, TokenLogprobs, Usage
from ernie_backend.text.answer_format import PLAIN, AnswerFormat
from ernie_backend.text.tokenizer import Tokenizer
from ernie_backend.triton_adapter.post_context import PostContext
from ernie_backend.triton_adapter.postprocess import PostOutputs, Postprocessor
from ernie_backend.triton_adapter.seal import Seal
from ernie_openai.answers import ChatStyle, ChunkMaker, UsageMeter, join_events
from ernie_openai.client import AnswerEvent
from ernie_openai.convert import plan_chat
from ernie_openai.schemas import ChatRequest, parse_request
from ernie_openai.settings import FrontendSettings
from ernie_openai.terms import Terms

KEY = "ab" * 16
SEAL = Seal(b"a secret")
THINKING = AnswerFormat(thought=True, response=True, calls=True, begins_in="thought")
ANSWERS = {
    "plain": (PLAIN, (), ["a plain answer, nothing in it", "héllo 😀 wörld 你好", ""]),
    "stop": (PLAIN, ("STOP", "HALT!"), ["some text STOP never shown", "ST OP S TOP HALT?", "STO", "HALT!", "a HALTSTOP b"]),
    "thought": (THINKING, (), ["thinking hard\n</think>\n\n<response>\nthe answer 😀\n</response>", "only thoughts", "</think>x"]),
    "calls": (
        THINKING,
        (),
        [
            'why\n</think>\n\n<tool_call>\n{"name": "f", "arguments": {"city": "Köln", "n": [1, 2]}}\n</tool_call>\n'
            '<tool_call>{"name": "g", "arguments": {}}</tool_call>',
            '</think><tool_call>{"name": "broken", "arguments": {',
        ],
    ),
}


class Relay:
    def __init__(self, _: str) -> None:
        pass

    def consumed(self, num_responses: int) -> None: ...
    def cancelled(self, key: str) -> None: ...
    def stopped(self, key: str, index: int) -> None: ...
    def close(self) -> None: ...


class Path:
    """Delivery and postprocess on this thread; what comes out are the front end's events."""

    def __init__(self, tokenizer: Tokenizer, context: PostContext, n: int, window: int, interval: int | None) -> None:
        self.postprocessor = Postprocessor(tokenizer, Relay, SEAL)
        self.context = context
        self.delivery = Delivery(window, abort=self.never, stop=self.never, stream_interval_tokens=interval)
        self.delivery._next_watch = time.monotonic() + 3600  # heartbeats come when the test wants them, however slow the machine
        self.delivery.register(KEY, self, n=n, streamed=True)
        self.delivery._turn()
        self.events: list[AnswerEvent] = []

    @staticmethod
    def never(*arguments: object) -> None:
        raise AssertionError(arguments)

    def push(self, events: Iterable[GenerateEvent]) -> None:
        self.delivery.push(StepOutput(tuple(events)))
        self.delivery._read_inbox()

    def turns(self, count: int) -> None:
        while count and self.delivery._may_send:
            self.delivery._turn()
            count -= 1

    def acknowledge(self, count: int) -> None:
        self.delivery.consumed(count)
        self.delivery._read_inbox()

    def heartbeat(self) -> None:
        stream = self.delivery._streams.get(KEY)
        if stream is not None:
            self.delivery._send(next(choice for choice in stream.choices if not choice.is_sent))

    def send(self, response: Response) -> None:
        post = self.context.to_json_object() if response.is_first else None
        event = {
            "key": KEY,
            "index": response.index,
            "finish_reason": response.finish_reason.value if response.finish_reason else None,
            "cached_tokens": response.num_cached_tokens,
            "error": response.error,
            "logprobs": [[p.logprob, p.top_token_ids, p.top_logprobs] for p in response.logprobs] or None,
            "final": response.is_final,
            "post": post,
            "relay": "a path" if post else None,
            "seal": SEAL.of_first_response(KEY, "a path", post) if post else None,
        }
        self.events.append(as_event(self.postprocessor.process(json.dumps(event).encode(), response.token_ids)))


def as_event(outputs: PostOutputs) -> AnswerEvent:
    assert not outputs.error
    return AnswerEvent(
        index=outputs.index,
        text=outputs.text_output,
        reasoning=outputs.reasoning_output,
        tool_calls=tuple(json.loads(outputs.tool_calls or "[]")),
        token_ids=outputs.token_ids,
        logprobs=tuple(json.loads(outputs.logprobs or "[]")),
        finish_reason=outputs.finish_reason or None,
        usage=Usage(**json.loads(outputs.usage)) if outputs.usage else Usage(),
    )


def message_of(events: Iterable[AnswerEvent]) -> dict[int, dict[str, Any]]:
    """What a client adds up from the chunks, by choice; and the usage."""
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True, "logprobs": True, "return_token_ids": True}
    body |= {"stream_options": {"include_usage": True}, "n": 3}
    plan = plan_chat(parse_request(ChatRequest, body), FrontendSettings("", ""), Terms())
    maker = ChunkMaker(plan, ChatStyle(), UsageMeter(plan.choices_per_prompt))
    chunks = [chunk for event in events for chunk in maker.chunks(event)] + list(maker.last())
    total: dict[int, dict[str, Any]] = {-1: {"usage": chunks[-1]["usage"]}}
    for chunk in chunks:
        for choice in chunk["choices"]:
            empty = {"content": "", "reasoning": "", "calls": {}, "ids": [], "logprobs": [], "finish": None}
            so_far, delta = total.setdefault(choice["index"], empty), choice["delta"]
            assert so_far["finish"] is None, "nothing comes behind the end"
            so_far["content"] += delta["content"]
            so_far["reasoning"] += delta.get("reasoning_content", "")
            so_far["ids"] += delta.get("completion_token_ids", [])
            so_far["logprobs"] += (choice["logprobs"] or {}).get("content", [])
            so_far["finish"] = choice["finish_reason"]
            for call in delta.get("tool_calls", []):
                function = so_far["calls"].setdefault(call["index"], {"name": "", "arguments": ""})
                for part, text in call["function"].items():
                    function[part] += text
    return total


def tokens_of(tokenizer: Tokenizer, text: str) -> list[GenerateEvent]:
    """One event per token; the last one says why it ended."""
    ids = tokenizer.encode_template(text) or [5]
    events = [GenerateEvent(KEY, 0, (i,), (TokenLogprobs(-i / 7, (i, 5), (-i / 7, -9.0)),), None, 2) for i in ids]
    events[-1] = events[-1]._replace(finish_reason=FinishReason.LENGTH)
    return events


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_merging_changes_nothing(data: st.DataObject, tokenizer: Tokenizer) -> None:
    answer_format, stop, texts = ANSWERS[data.draw(st.sampled_from(sorted(ANSWERS)))]
    answers = [tokens_of(tokenizer, text) for text in data.draw(st.lists(st.sampled_from(texts), min_size=1, max_size=3))]
    context = PostContext(num_prompt_tokens=5, stop=stop, logprobs=True, answer_format=answer_format)

    unmerged = Path(tokenizer, context, len(answers), window=10**6, interval=None)
    for index, events in enumerate(answers):
        for event in events:
            unmerged.push([event._replace(index=index)])
            unmerged.turns(10)
    assert len(unmerged.events) == sum(map(len, answers)), "the oracle does not merge"

    interval = data.draw(st.one_of(st.none(), st.integers(1, 5)))
    path = Path(tokenizer, context, len(answers), data.draw(st.integers(1, 4)), interval)
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    waiting = [list(events) for events in answers]
    while any(waiting):
        step = [i for i, events in enumerate(waiting) if events and rng.random() < 0.7]
        path.push(waiting[index].pop(0)._replace(index=index) for index in step)
        path.turns(rng.randrange(4))
        path.acknowledge(rng.randrange(4))
        if rng.random() < 0.1:
            path.heartbeat()
    while KEY in path.delivery._streams:
        path.acknowledge(1)
        path.turns(5)
    if interval is not None:
        assert all(len(event.token_ids) <= interval for event in path.events)
    assert len(path.postprocessor) == 0

    held: list[AnswerEvent] = []  # as the backlog of a slow reader joins them
    joined: list[AnswerEvent] = []
    for event in path.events:
        held.append(event)
        if rng.random() < 0.5:
            joined += [join_events([e for e in held if e.index == index]) for index in dict.fromkeys(e.index for e in held)]
            held = []
    joined += [join_events([e for e in held if e.index == index]) for index in dict.fromkeys(e.index for e in held)]
    assert message_of(joined) == message_of(unmerged.events)
