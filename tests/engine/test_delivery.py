"""The window, merging, order and the final flag."""

from __future__ import annotations

import threading
import time

import pytest

import ernie_backend.delivery as delivery_module
from ernie_backend.core.outputs import StepOutput
from ernie_backend.delivery import Delivery, Response
from ernie_backend.protocol import FinishReason, GenerateEvent


class Sink:
    """Remembers responses; `gate` can hold the delivery thread inside `send`."""

    def __init__(self) -> None:
        self.responses: list[Response] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.broken = False

    def send(self, response: Response) -> None:
        self.entered.set()
        assert self.gate.wait(60)
        if self.broken:
            raise RuntimeError("closed")
        self.responses.append(response)

    def ids(self, index: int = 0) -> list[int]:
        return [token for r in self.responses if r.index == index for token in r.token_ids]


class Harness:
    def __init__(self, window: int = 2) -> None:
        self.aborted: list[str] = []
        self.stopped: list[tuple[str, int]] = []
        self.delivery = Delivery(window, abort=self.aborted.append, stop=lambda key, index: self.stopped.append((key, index)))
        self.delivery.start()

    def push(self, *events: GenerateEvent) -> None:
        self.delivery.push(StepOutput(events))

    def close(self) -> None:
        self.delivery.close()
        assert not self.delivery._thread.is_alive()


def token(key: str, token_id: int, index: int = 0, last: FinishReason | None = None) -> GenerateEvent:
    return GenerateEvent(key, index, (token_id,), finish_reason=last)


def wait_for(condition, what: str) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"timed out: {what}"
        time.sleep(0.001)


def test_the_window_holds_tokens_back_and_merges_them() -> None:
    harness, sink = Harness(window=2), Sink()
    harness.delivery.register("k", sink, n=1, streamed=True)
    for i in range(6):
        harness.push(token("k", i))
        wait_for(lambda: harness.delivery._inbox.empty(), "inbox read")
        time.sleep(0.005)
    assert len(sink.responses) == 2, "two under way, the rest waits"
    harness.delivery.consumed(1)
    wait_for(lambda: len(sink.responses) == 3, "an acknowledgement opens the window")
    assert sink.responses[2].token_ids == (2, 3, 4, 5), "what waited leaves together"
    harness.push(token("k", 6), token("k", 7, last=FinishReason.STOP))
    wait_for(lambda: harness.delivery.num_streams == 0 and len(sink.responses) == 4, "the end")
    assert not harness.delivery.is_idle, "three are not acknowledged"
    harness.delivery.consumed(3)
    wait_for(lambda: harness.delivery.is_idle, "all acknowledged")
    harness.close()
    assert sink.ids() == list(range(8))
    assert [r.is_final for r in sink.responses] == [False, False, False, True], "the last response ignores the window"
    assert [r.is_first for r in sink.responses] == [True, False, False, False]
    assert harness.delivery.num_streams == 0


def test_tokens_that_come_while_sending_are_merged() -> None:
    harness, sink = Harness(window=100), Sink()
    sink.gate.clear()
    harness.delivery.register("k", sink, n=1, streamed=True)
    harness.push(token("k", 0))
    assert sink.entered.wait(60)
    for i in range(1, 50):
        harness.push(token("k", i))
    sink.gate.set()
    harness.close()
    assert sink.ids() == list(range(50)) and len(sink.responses) == 2


def test_first_tokens_go_first() -> None:
    harness = Harness(window=100)
    order: list[str] = []

    class Ordered(Sink):
        def send(self, response: Response) -> None:
            super().send(response)
            order.append(response.key)

    blocker = Ordered()
    harness.delivery.register("old", blocker, n=1, streamed=True)
    harness.push(token("old", 0))
    wait_for(lambda: order == ["old"], "first response")
    blocker.gate.clear()
    blocker.entered.clear()
    harness.push(token("old", 1))
    assert blocker.entered.wait(60)
    harness.delivery.register("new", Ordered(), n=1, streamed=True)
    harness.push(token("old", 2), token("new", 9))
    blocker.gate.set()
    harness.close()
    assert order == ["old", "old", "new", "old"]


def test_an_unstreamed_answer_is_one_response_per_choice() -> None:
    harness, sink = Harness(window=1), Sink()
    harness.delivery.register("k", sink, n=2, streamed=False)
    for i in range(5):
        harness.push(token("k", i, 0), token("k", 10 + i, 1))
    harness.push(token("k", 5, 1, FinishReason.LENGTH), token("k", 15, 0, FinishReason.STOP))
    harness.close()
    assert sorted((r.index, len(r.token_ids), r.is_first) for r in sink.responses) == [(0, 6, True), (1, 6, True)]
    assert [r.is_final for r in sink.responses] == [False, True]


def test_the_stop_watch_ends_an_unstreamed_choice() -> None:
    harness, sink = Harness(), Sink()
    harness.delivery.register("k", sink, n=1, streamed=False, stop_watch=lambda index, ids: 3 in ids)
    for i in range(3):
        harness.push(token("k", i))
    wait_for(lambda: harness.delivery._inbox.empty(), "inbox read")
    assert harness.stopped == []
    harness.push(token("k", 3))
    wait_for(lambda: harness.stopped == [("k", 0)], "stop")
    harness.push(GenerateEvent("k", 0, (), finish_reason=FinishReason.STOP))
    harness.close()
    assert sink.ids() == [0, 1, 2, 3] and sink.responses[-1].is_final


@pytest.mark.parametrize(("stream_interval_tokens", "responses"), [(None, 8576), (1, 32_768)])
def test_a_long_answer_has_few_responses_however_quiet_the_path(stream_interval_tokens: int | None, responses: int) -> None:
    """Whoever does not read it shall not fill tritonserver's memory. Every token leaves by itself if that was asked for."""
    delivery, sink, ids = Delivery(1, abort=print, stop=print, stream_interval_tokens=stream_interval_tokens), Sink(), range(32_768)
    delivery.register("k", sink, n=1, streamed=True)
    delivery._read_inbox()
    for i in ids:
        delivery._take(StepOutput((token("k", i, last=FinishReason.LENGTH if i == ids[-1] else None),)))
        while (choice := delivery._next()) is not None:
            delivery._send(choice)
            delivery._num_under_way = 0
    assert sink.ids() == list(ids) and sink.responses[-1].is_final
    assert len(sink.responses) == responses
    assert all(len(response.token_ids) == 1 for response in sink.responses[:2048])


@pytest.mark.parametrize("last", [None, FinishReason.STOP])
def test_a_broken_sink_aborts_its_request_only(caplog: pytest.LogCaptureFixture, last: FinishReason | None) -> None:
    """And the log says whose it was, also behind its last response."""
    harness, broken, sound = Harness(), Sink(), Sink()
    broken.broken = True
    harness.delivery.register("bad", broken, n=1, streamed=True, request_id="chatcmpl-7")
    harness.delivery.register("good", sound, n=1, streamed=True)
    harness.push(token("bad", 1, last=last), token("good", 1))
    harness.push(token("good", 2, last=FinishReason.STOP))
    harness.close()
    assert harness.aborted == ["bad"] and sound.ids() == [1, 2]
    (record,) = caplog.records
    assert record.request_id == "chatcmpl-7" and "bad" not in record.getMessage()  # type: ignore[attr-defined]


def test_events_of_unknown_keys_and_late_acknowledgements_are_harmless() -> None:
    harness, sink = Harness(), Sink()
    harness.push(token("nobody", 1))
    harness.delivery.consumed(5)
    harness.delivery.register("k", sink, n=1, streamed=True)
    harness.push(token("k", 1, last=FinishReason.STOP))
    harness.delivery.consumed(1)
    harness.close()
    assert sink.ids() == [1]


def test_choices_share_a_tight_window() -> None:
    harness, sink = Harness(window=1), Sink()
    harness.delivery.register("k", sink, n=4, streamed=True)
    for round_number in range(40):
        harness.push(*(token("k", round_number, index) for index in range(4)))
        harness.delivery.consumed(1)
        wait_for(lambda: harness.delivery._inbox.empty(), "inbox read")
        time.sleep(0.002)
    counts = [sum(r.index == index for r in sink.responses) for index in range(4)]
    assert min(counts) >= max(counts) - 1 > 0, counts
    harness.push(*(token("k", 99, index, FinishReason.STOP) for index in range(4)))
    harness.close()
    assert all(sink.ids(index) == [*range(40), 99] for index in range(4))


def test_a_silent_stream_sends_a_heartbeat_and_a_whole_answer_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "HEARTBEAT_SECONDS", 0.02)
    harness, streamed, whole = Harness(window=2), Sink(), Sink()
    harness.delivery.register("s", streamed, n=1, streamed=True)
    harness.delivery.register("w", whole, n=1, streamed=False)
    wait_for(lambda: streamed.responses, "heartbeat")
    assert streamed.responses[0].token_ids == () and streamed.responses[0].is_first
    wait_for(lambda: len(streamed.responses) > 3, "one after another, whatever the window says: a busy path must not hide a hang-up")
    harness.push(token("s", 1, last=FinishReason.STOP), token("w", 1, last=FinishReason.STOP))
    harness.close()
    assert streamed.ids() == [1] and not streamed.responses[1].is_first and [r.token_ids for r in whole.responses] == [(1,)]


def test_a_first_token_behind_a_heartbeat_is_still_urgent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "HEARTBEAT_SECONDS", 0.02)
    harness, talker, queued = Harness(window=1), Sink(), Sink()
    harness.delivery.register("queued", queued, n=1, streamed=True)
    wait_for(lambda: queued.responses, "heartbeat")
    monkeypatch.setattr(delivery_module, "HEARTBEAT_SECONDS", 60.0)
    harness.delivery.register("talker", talker, n=1, streamed=True)
    harness.push(token("talker", 0))
    wait_for(lambda: talker.ids() == [0], "its own first token")
    harness.push(token("talker", 1))
    harness.push(token("queued", 5))
    wait_for(lambda: queued.ids() == [5], "the window is shut, and the first token passes it")
    assert talker.ids() == [0], "later tokens wait"
    harness.close()


def test_a_few_heartbeats_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(delivery_module, "HEARTBEAT_PAUSE_SECONDS", 60.0)
    harness, sink = Harness(window=2), Sink()
    for i in range(3 * delivery_module.HEARTBEATS_AT_ONCE):
        harness.delivery.register(f"k{i}", sink, n=1, streamed=True)
    wait_for(lambda: sink.responses, "heartbeats")
    time.sleep(0.05)
    assert len(sink.responses) == delivery_module.HEARTBEATS_AT_ONCE
    harness.close()


def test_streams_take_turns_when_the_window_is_tight() -> None:
    harness, sink = Harness(window=1), Sink()
    for i in range(8):
        harness.delivery.register(f"k{i}", sink, n=1, streamed=True)
    for step in range(100):
        harness.push(*(token(f"k{i}", step) for i in range(8)))
        harness.delivery.consumed(1)
        wait_for(lambda: harness.delivery._inbox.empty(), "inbox read")
        time.sleep(0.001)
    counts = [sum(r.key == f"k{i}" for r in sink.responses) for i in range(8)]
    assert min(counts) >= max(counts) - 2 > 5, counts
    harness.push(*(token(f"k{i}", 100, last=FinishReason.STOP) for i in range(8)))
    harness.close()
    for i in range(8):
        assert [t for r in sink.responses if r.key == f"k{i}" for t in r.token_ids] == list(range(101))


def test_an_interval_cuts_pieces_of_one_size() -> None:
    sink = Sink()
    delivery = Delivery(1, abort=lambda key: None, stop=lambda key, index: None, stream_interval_tokens=4)
    delivery.start()
    delivery.register("k", sink, n=1, streamed=True)
    whole = Sink()
    delivery.register("whole", whole, n=1, streamed=False)
    delivery.push(StepOutput((token("k", 0), token("whole", 0))))
    wait_for(lambda: sink.responses, "the first token")
    for i in range(1, 30):
        delivery.push(StepOutput((token("k", i), token("whole", i))))
    wait_for(lambda: delivery._inbox.empty(), "inbox read")
    assert [len(r.token_ids) for r in sink.responses] == [1], "the window is shut, and what waits is not merged"
    delivery.push(StepOutput((token("k", 30, last=FinishReason.LENGTH), token("whole", 30, last=FinishReason.LENGTH))))
    for _ in range(6):
        delivery.consumed(1)
    delivery.close()
    assert [len(r.token_ids) for r in sink.responses] == [1, *[4] * 7, 2] and sink.ids() == list(range(31))
    assert [r.is_final for r in sink.responses] == [False] * 8 + [True]
    assert [len(r.token_ids) for r in whole.responses] == [31]


def test_what_comes_faster_than_the_path_can_carry_is_merged() -> None:
    """At one response in ten seconds: a burst leaves, and the rest waits, though the window is open."""
    sink = Sink()
    slow = {"max_responses_per_second": 0.1}
    delivery = Delivery(10_000, abort=lambda key: None, stop=lambda key, index: None, **slow)
    delivery.register("k", sink, n=1, streamed=True)
    delivery._turn()
    for i in range(300):
        delivery.push(StepOutput((token("k", i),)))
        delivery._turn()
    assert len(sink.responses) <= delivery_module.PACE_BURST + 2
    assert delivery._ring and not delivery._may_send
    delivery.push(StepOutput((token("k", 300, last=FinishReason.STOP),)))
    delivery._turn()
    assert sink.ids() == list(range(301)) and sink.responses[-1].is_final, "the last one does not wait"


def test_an_impossible_event_ends_its_request_only() -> None:
    harness, bad, good = Harness(), Sink(), Sink()
    harness.delivery.register("bad", bad, n=1, streamed=True)
    harness.delivery.register("good", good, n=1, streamed=True)
    harness.push(token("bad", 1, index=7), token("good", 1))
    harness.push(token("good", 2, last=FinishReason.STOP))
    harness.close()
    assert harness.aborted == ["bad"] and good.ids() == [1, 2]


def test_lost_acknowledgements_are_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "STALL_SECONDS", 0.05)
    monkeypatch.setattr(delivery_module, "HEARTBEAT_SECONDS", 0.05)
    harness, sink = Harness(window=1), Sink()
    harness.delivery.register("k", sink, n=1, streamed=True)
    harness.push(token("k", 0))
    wait_for(lambda: sink.responses, "first response")
    harness.push(token("k", 1))
    wait_for(lambda: sink.ids() == [0, 1], "the stream goes on without acknowledgements")
    harness.push(token("k", 2, last=FinishReason.STOP))
    wait_for(lambda: harness.delivery.is_idle, "nor are they waited for in the end")
    harness.close()
