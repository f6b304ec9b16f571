"""From events to outputs: text, stop strings, usage, log-probabilities, what the engine is told, and that nothing is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_backend.errors import EngineError, from_wire
from ernie_backend.text.answer_format import AnswerFormat
from ernie_backend.text.tokenizer import Tokenizer
from ernie_backend.triton_adapter.post_context import PostContext
from ernie_backend.triton_adapter.postprocess import PostOutputs, Postprocessor
from ernie_backend.triton_adapter.seal import Seal

KEY = "0123456789abcdef" * 2
EOS = 2
SEAL = Seal(b"a secret")


class RecordingRelay:
    """Hears what postprocess tells the engine."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.heard: list[tuple[Any, ...]] = []
        self.closed = False

    def consumed(self, num_responses: int) -> None:
        self.heard.append(("consumed", num_responses))

    def cancelled(self, key: str) -> None:
        self.heard.append(("cancelled", key))

    def stopped(self, key: str, index: int) -> None:
        self.heard.append(("stopped", key, index))

    def ended(self, reason: str) -> None:
        self.heard.append(("ended", reason))

    def close(self) -> None:
        self.closed = True


class Stream:
    """Plays the engine towards one postprocessor."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.relays: list[RecordingRelay] = []
        self.postprocessor = Postprocessor(tokenizer, self._connect, SEAL)
        self.context = PostContext(num_prompt_tokens=5, end_token_ids=(EOS,))
        self._started: set[tuple[str, int]] = set()

    def _connect(self, path: str) -> RecordingRelay:
        self.relays.append(RecordingRelay(path))
        return self.relays[-1]

    def send(
        self, ids: list[int], finish: str | None = None, *, key: str = KEY, index: int = 0, cancelled: bool = False, **changed: Any
    ) -> PostOutputs:
        first = (key, index) not in self._started
        self._started.add((key, index))
        event = {
            "key": key,
            "index": index,
            "finish_reason": finish,
            "cached_tokens": 0,
            "error": None,
            "logprobs": None,
            "final": finish is not None,
            "post": self.context.to_json_object() if first else None,
            "relay": "a path" if first else None,
            **changed,
        }
        if event["post"] is not None:
            event.setdefault("seal", SEAL.of_first_response(key, event["relay"], event["post"]))
        return self.postprocessor.process(json.dumps(event).encode(), ids, cancelled=cancelled)

    @property
    def heard(self) -> list[tuple[Any, ...]]:
        return [message for relay in self.relays for message in relay.heard]


@pytest.fixture
def stream(tokenizer: Tokenizer) -> Stream:
    return Stream(tokenizer)


def usage(outputs: PostOutputs) -> dict[str, Any]:
    return json.loads(outputs.usage)


class TestText:
    def test_a_streamed_answer(self, stream: Stream, tokenizer: Tokenizer) -> None:
        ids = tokenizer.encode_text(" hello 😀 world")
        outputs = [stream.send([token], cached_tokens=3) for token in ids] + [stream.send([EOS], "stop")]
        assert "".join(output.text_output for output in outputs) == " hello 😀 world"
        assert [token for output in outputs for token in output.token_ids] == [*ids, EOS]
        assert [output.finish_reason for output in outputs] == [""] * len(ids) + ["stop"]
        assert usage(outputs[0]) | {"prompt_tokens": 5, "completion_tokens": 1, "cached_tokens": 3} == usage(outputs[0])
        assert usage(outputs[-1])["completion_tokens"] == len(ids) + 1
        assert all((o.reasoning_output, o.tool_calls, o.logprobs, o.error, o.index) == ("", "", "", "", 0) for o in outputs)

    def test_a_character_cut_off_by_the_end(self, stream: Stream, tokenizer: Tokenizer) -> None:
        outputs = stream.send(tokenizer.encode_text("a😀")[:-1], "length")
        assert (outputs.text_output, outputs.finish_reason) == ("a�", "length")

    def test_echo_comes_first_and_once(self, stream: Stream, tokenizer: Tokenizer) -> None:
        stream.context = replace(stream.context, echo="prompt:")
        assert stream.send(tokenizer.encode_text("a")).text_output == "prompt:a"
        assert stream.send(tokenizer.encode_text("b")).text_output == "b"

    @pytest.mark.parametrize(
        ("skip", "include", "text"), [(True, False, "a"), (True, True, "a"), (False, False, "a"), (False, True, "a</s>")]
    )
    def test_the_end_token_shows_only_when_asked_for(
        self, stream: Stream, tokenizer: Tokenizer, skip: bool, include: bool, text: str
    ) -> None:
        stream.context = replace(stream.context, skip_special_tokens=skip, include_stop=include)
        assert stream.send([*tokenizer.encode_text("a"), EOS], "stop").text_output == text

    def test_a_stop_token_that_is_a_word_is_hidden_too(self, stream: Stream, tokenizer: Tokenizer) -> None:
        ids = tokenizer.encode_text("yes no")
        stream.context = replace(stream.context, end_token_ids=(ids[-1],))
        assert stream.send(ids, "stop").text_output == tokenizer.decode(ids[:-1])
        assert stream.send(ids, "length", key="b" * 32).text_output == "yes no", "it ended for another reason"

    def test_prompt_ids_once_per_choice(self, stream: Stream) -> None:
        stream.context = replace(stream.context, prompt_token_ids=(7, 8))
        assert usage(stream.send([5]))["prompt_token_ids"] == [7, 8]
        assert "prompt_token_ids" not in usage(stream.send([5]))
        assert usage(stream.send([5], index=1))["prompt_token_ids"] == [7, 8]


class TestStopStrings:
    def test_cut_reported_swallowed_and_ended(self, stream: Stream, tokenizer: Tokenizer) -> None:
        stream.context = replace(stream.context, stop=("STOP",))
        one, two = tokenizer.encode_text("a ST"), tokenizer.encode_text("OP more")
        first = stream.send(one)
        assert first.text_output == "a "
        cut = stream.send(two)
        assert (cut.text_output, cut.finish_reason) == ("", "")
        assert tokenizer.decode([*one, *cut.token_ids]).endswith("STOP")
        swallowed = stream.send(tokenizer.encode_text("even more"))
        assert (swallowed.text_output, swallowed.token_ids) == ("", ())
        last = stream.send([], "abort")
        assert (last.text_output, last.finish_reason) == ("", "stop")
        assert usage(last)["completion_tokens"] == len(one) + len(cut.token_ids), "tokens behind the stop string do not count"
        assert stream.heard == [
            ("consumed", 1),
            ("stopped", KEY, 0),
            ("consumed", 1),
            ("stopped", KEY, 0),
            ("consumed", 1),
            ("consumed", 1),
        ]

    def test_a_match_in_the_last_response(self, stream: Stream, tokenizer: Tokenizer) -> None:
        stream.context = replace(stream.context, stop=("STOP",))
        outputs = stream.send(tokenizer.encode_text("a STOP b"), "length")
        assert (outputs.text_output, outputs.finish_reason) == ("a ", "stop")
        assert stream.heard == [("consumed", 1)], "the engine is done anyway"

    def test_held_back_text_comes_with_the_end(self, stream: Stream, tokenizer: Tokenizer) -> None:
        stream.context = replace(stream.context, stop=("STOP",))
        assert stream.send(tokenizer.encode_text("a ST")).text_output == "a "
        last = stream.send([EOS], "stop")
        assert (last.text_output, last.finish_reason) == ("ST", "stop")

    @settings(deadline=None, max_examples=60)
    @given(data=st.data(), include=st.booleans())
    def test_streamed_in_any_split_equals_unstreamed(self, tokenizer: Tokenizer, data: st.DataObject, include: bool) -> None:
        text = data.draw(st.lists(st.sampled_from(["hello", " a", "ST", "OP", "STOP", "😀", "\n"]), min_size=1, max_size=8).map("".join))
        ids = tokenizer.encode_text(text)
        context = PostContext(num_prompt_tokens=1, stop=("STOP", "a\n", "😀"), include_stop=include, logprobs=True)
        one = Stream(tokenizer)
        one.context = context
        whole = one.send(ids, "length", logprobs=[[-1.0, [], []]] * len(ids))
        many = Stream(tokenizer)
        many.context = context
        outputs, at = [], 0
        while at < len(ids):
            size = data.draw(st.integers(1, 3))
            part = ids[at : at + size]
            outputs.append(many.send(part, logprobs=[[-1.0, [], []]] * len(part)))
            at += size
        outputs.append(many.send([], "abort" if whole.finish_reason == "stop" else "length"))
        assert "".join(o.text_output for o in outputs) == whole.text_output
        assert tuple(token for o in outputs for token in o.token_ids) == whole.token_ids
        assert [entry for o in outputs for entry in json.loads(o.logprobs)] == json.loads(whole.logprobs)
        assert (outputs[-1].finish_reason, outputs[-1].usage) == (whole.finish_reason, whole.usage)


class TestThoughtAndCalls:
    def test_each_part_has_its_output(self, stream: Stream, tokenizer: Tokenizer) -> None:
        stream.context = replace(stream.context, answer_format=AnswerFormat(True, True, True, begins_in="thought", begins_fresh=True))
        text = 'hm\n</think>\n\n<response>\nyes\n</response>\n\n<tool_call>\n{"name":"f","arguments":{"c":"北京"}}\n</tool_call>\n'
        ids = tokenizer.encode_template(text)
        outputs = [stream.send([token]) for token in ids] + [stream.send([EOS], "stop")]
        assert "".join(o.reasoning_output for o in outputs) == "hm"
        assert "".join(o.text_output for o in outputs) == "yes"
        deltas = [delta for o in outputs if o.tool_calls for delta in json.loads(o.tool_calls)]
        assert [delta["function"] for delta in deltas] == [{"name": "f", "arguments": ""}, {"arguments": '{"c": "北京"}'}]
        assert deltas[0]["id"].startswith("chatcmpl-tool-") and deltas[0]["type"] == "function"
        assert outputs[-1].finish_reason == "tool_calls"
        thought = tokenizer.encode_template("hm\n</think>")
        assert usage(outputs[-1]) == usage(outputs[-1]) | {"completion_tokens": len(ids) + 1, "reasoning_tokens": len(thought)}

    def test_an_answer_that_is_not_streamed_has_whole_calls(self, stream: Stream, tokenizer: Tokenizer) -> None:
        stream.context = replace(stream.context, answer_format=AnswerFormat(calls=True), streamed=False)
        calls = '<tool_call>{"name": "f", "arguments": {"c": "北京"}}</tool_call>\n<tool_call>{"name": "g"}</tool_call>'
        output = stream.send(tokenizer.encode_template(calls), "stop")
        found = json.loads(output.tool_calls)
        ids = [call.pop("id") for call in found]
        assert len(set(ids)) == 2 and all(id.startswith("chatcmpl-tool-") for id in ids)
        assert found == [
            {"index": 0, "type": "function", "function": {"name": "f", "arguments": '{"c": "北京"}'}},
            {"index": 1, "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ]
        assert output.finish_reason == "tool_calls"
        assert stream.send(tokenizer.encode_text("hi"), "stop", index=1).tool_calls == "", "nothing is called"

    @pytest.mark.parametrize(
        ("text", "finish", "expected"),
        [
            ('</think><tool_call>{"name": "f"}</tool_call>', "length", "length"),
            ('</think><tool_call>{"name": "f"', "length", "length"),
            ("</think>yes", "stop", "stop"),
            ('</think><tool_call>{"name": "f"}</tool_call>', "error", "error"),
        ],
    )
    def test_why_it_ended(self, stream: Stream, tokenizer: Tokenizer, text: str, finish: str, expected: str) -> None:
        stream.context = replace(stream.context, answer_format=AnswerFormat(True, True, True, begins_in="thought"))
        assert stream.send(tokenizer.encode_template(text), finish).finish_reason == expected
        told = [message for message in stream.heard if message[0] == "ended"]
        assert told == ([("ended", expected)] if finish == "stop" else []), "the rest the engine knows itself"

    def test_nothing_is_told_of_an_answer_that_cannot_call(self, stream: Stream, tokenizer: Tokenizer) -> None:
        stream.send(tokenizer.encode_text("hi"), "stop")
        assert stream.heard == [("consumed", 1)]

    def test_one_call_stops_the_engine(self, stream: Stream, tokenizer: Tokenizer) -> None:
        stream.context = replace(stream.context, answer_format=AnswerFormat(calls=True, one_call=True))
        ids = tokenizer.encode_template('<tool_call>{"name": "f"}</tool_call><tool_call>{"name": "g"}</tool_call>')
        first = stream.send(ids)
        assert stream.heard == [("stopped", KEY, 0), ("consumed", 1)] and len(first.token_ids) < len(ids) / 2
        last = stream.send([5], "abort")
        assert (last.text_output, last.tool_calls, last.finish_reason) == ("", "", "tool_calls")


class TestLogprobs:
    def test_one_entry_per_token(self, stream: Stream, tokenizer: Tokenizer) -> None:
        stream.context = replace(stream.context, logprobs=True)
        (token,) = tokenizer.encode_text("a")
        part = tokenizer.encode_text("😀")[0]
        outputs = stream.send([token, part], logprobs=[[-0.5, [token, part], [-0.5, -2.0]], [-1.5, [], []]])
        a = {"token": "a", "token_id": token, "logprob": -0.5, "bytes": [97]}
        b = {"token": "�", "token_id": part, "logprob": -1.5, "bytes": [0xF0]}
        assert json.loads(outputs.logprobs) == [{**a, "top_logprobs": [a, {**b, "logprob": -2.0}]}, {**b, "top_logprobs": []}]

    def test_none_unless_asked_for(self, stream: Stream) -> None:
        assert stream.send([5], logprobs=[[-0.5, [], []]]).logprobs == ""


class TestManyAtOnce:
    def test_choices_do_not_mix_and_responses_count_per_request(self, stream: Stream, tokenizer: Tokenizer) -> None:
        parts = tokenizer.encode_text("😀")
        for part in parts[:-1]:
            for index in (0, 1):
                assert stream.send([part], index=index).text_output == ""
        assert len(stream.postprocessor) == 2
        first = stream.send([parts[-1]], "stop", index=1, final=False)
        last = stream.send([parts[-1]], "stop", index=0)
        assert [(o.index, o.text_output, o.finish_reason) for o in (first, last)] == [(1, "😀", "stop"), (0, "😀", "stop")]
        assert stream.heard == [("consumed", 1)] * (2 * len(parts))
        assert len(stream.postprocessor) == 0

    def test_the_last_ones_are_acknowledged_though_they_are_few(self, stream: Stream) -> None:
        stream.postprocessor._acknowledge_every = 4
        for _ in range(5):
            stream.send([5])
        assert stream.heard == [("consumed", 4)]
        stream.send([5], key="f" * 32)
        stream.send([5], "stop")
        assert stream.heard == [("consumed", 4)], "the other one is under way"
        stream.send([5], "stop", key="f" * 32)
        assert stream.heard == [("consumed", 4)] * 2
        stream.send([5], "stop", key="e" * 32)
        assert stream.heard == [("consumed", 4), ("consumed", 4), ("consumed", 1)]

    def test_nothing_is_kept_of_many_requests(self, stream: Stream) -> None:
        for i in range(50):
            key = f"{i:032x}"
            stream.send([5], key=key)
            stream.send([5], "stop" if i % 2 else "abort", key=key, cancelled=i % 3 == 0)
        assert len(stream.postprocessor) == 0


class TestTroubles:
    def test_a_client_that_left(self, stream: Stream) -> None:
        stream.send([5])
        stream.send([5], cancelled=True)
        assert stream.heard[1:] == [("cancelled", KEY), ("consumed", 1)]
        stream.send([], "abort", cancelled=True)
        assert stream.heard[3:] == [("consumed", 1)] and len(stream.postprocessor) == 0

    def test_an_engine_error_passes_through(self, stream: Stream) -> None:
        wire = EngineError("The engine failed.").to_wire()
        outputs = stream.send([], "error", error=wire)
        assert (outputs.finish_reason, outputs.error) == ("error", wire)
        assert len(stream.postprocessor) == 0

    def test_an_engine_error_without_words(self, stream: Stream) -> None:
        assert isinstance(from_wire(stream.send([], "error").error), EngineError)

    def test_its_own_failure_is_an_output_and_ends_the_request(self, stream: Stream) -> None:
        stream.context = replace(stream.context, logprobs=True)
        stream.send([5], logprobs=[[-1.0, [], []]])
        broken = stream.send([5], logprobs=[["one value only"]])
        assert broken.finish_reason == "error"
        assert from_wire(broken.error).http_status == 500
        assert stream.heard[1:] == [("cancelled", KEY), ("consumed", 1)]
        after = stream.send([5], logprobs=[[-1.0, [], []]])
        assert (after.finish_reason, after.text_output) == ("", ""), "said once"
        stream.send([], "abort")
        assert len(stream.postprocessor) == 0

    def test_another_request_goes_on(self, stream: Stream, tokenizer: Tokenizer) -> None:
        stream.send([5], cached_tokens="not a number")
        assert stream.send(tokenizer.encode_text("fine"), key="f" * 32).text_output == "fine"

    @pytest.mark.parametrize("event", [b"", b"\xff", b"{", b"[]", b"{}", b'{"key": 5}', b'{"key": "x", "index": "y", "post": null}'])
    def test_an_event_that_is_none(self, stream: Stream, event: bytes) -> None:
        outputs = stream.postprocessor.process(event, [])
        assert (outputs.finish_reason, outputs.index) == ("error", 0)

    @pytest.mark.parametrize("seal", ["", None, "0" * 32])
    def test_a_first_response_that_the_engine_has_not_sealed(self, stream: Stream, seal: str | None) -> None:
        stream.send([5])
        outputs = stream.send([5], key="d" * 32, relay="/somewhere/else", seal=seal)
        assert outputs.finish_reason == "error" and len(stream.postprocessor) == 1
        assert [relay.path for relay in stream.relays] == ["a path"]

    def test_a_choice_that_never_began(self, stream: Stream) -> None:
        stream.send([5])
        outputs = stream.send([5], key="c" * 32, post=None)
        assert outputs.finish_reason == "error"
        assert ("cancelled", "c" * 32) in stream.heard
        stream.send([], "abort", key="c" * 32, post=None)
        stream.send([], "stop")
        assert len(stream.postprocessor) == 0


class TestRelay:
    def test_one_for_all_requests_until_the_engine_has_another(self, stream: Stream) -> None:
        stream.send([5], key="a" * 32)
        stream.send([5], key="b" * 32)
        assert [relay.path for relay in stream.relays] == ["a path"]
        stream.send([5], key="c" * 32, relay="another")
        assert [(relay.path, relay.closed) for relay in stream.relays] == [("a path", True), ("another", False)]

    def test_close(self, stream: Stream) -> None:
        stream.send([5])
        stream.postprocessor.close()
        assert stream.relays[0].closed and len(stream.postprocessor) == 0


def test_what_an_abort_found_is_told_if_the_engine_says_so(tokenizer: Tokenizer) -> None:
    stream = Stream(tokenizer)
    event = {"key": KEY, "aborted": ["cmpl-1"], "seal": SEAL.of_aborted(KEY, ["cmpl-1"])}
    outputs = stream.postprocessor.process(json.dumps(event).encode(), ())
    assert (outputs.text_output, outputs.finish_reason, outputs.error) == ('["cmpl-1"]', "stop", "")
    forged = stream.postprocessor.process(json.dumps(event | {"aborted": ["cmpl-2"]}).encode(), ())
    assert forged.finish_reason == "error" and not forged.text_output and not len(stream.postprocessor)


def test_requests_that_never_came_further_than_preprocess(tokenizer: Tokenizer) -> None:
    stream = Stream(tokenizer)
    said = stream.postprocessor.process(json.dumps({"key": KEY, "waiting": True}).encode(), ())
    assert said == PostOutputs()
    why = EngineError("No.").to_wire()
    event = {"key": KEY, "refused": why, "seal": SEAL.of_refusal(KEY, why)}
    outputs = stream.postprocessor.process(json.dumps(event).encode(), ())
    assert (outputs.finish_reason, outputs.error) == ("error", why)
    forged = stream.postprocessor.process(json.dumps(event | {"refused": "anything"}).encode(), ())
    assert forged.finish_reason == "error" and forged.error not in ("anything", why)
    assert not stream.relays and not len(stream.postprocessor)


def test_an_aborted_answer_says_by_whom(tokenizer: Tokenizer) -> None:
    stream = Stream(tokenizer)
    stream.send([10])
    told = EngineError("Ended by somebody.").to_wire()
    outputs = stream.send([], "abort", error=told, final=True)
    assert (outputs.finish_reason, outputs.error) == ("abort", told)
