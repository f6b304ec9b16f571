"""Requests that wait in preprocess for a picture or a grammar: how they are heard of, and how an abort and a hang-up reach them."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ernie_backend.abort_signal import aborted
from ernie_backend.engine import STOPPING
from ernie_backend.errors import InvalidRequestError, from_wire
from ernie_backend.protocol import SamplingParams
from ernie_backend.relay import RelayReceiver, RelaySender
from ernie_backend.triton_adapter import waiting, waiting_room
from ernie_backend.triton_adapter.engine import EngineModel
from ernie_backend.triton_adapter.preprocess_model import PreprocessModel
from ernie_backend.triton_adapter.request_terms import AbortRequest
from ernie_backend.triton_adapter.seal import Seal
from ernie_backend.triton_adapter.waiting import Pulse, Refusal
from tests.fakes.pb_utils import FakePbUtils, InferenceRequest, request
from tests.triton_adapter.test_engine_model import ARGS, events, model, pb_utils, sealed, tiny_folder, wait
from tests.triton_adapter.test_media_requests import refusal_in, word_of

__all__ = ["model", "pb_utils", "tiny_folder"]  # fixtures


class Ears:
    """Preprocess' end of its socket."""

    def __init__(self, folder: Path) -> None:
        self.heard: list[str] = []
        self.receiver = RelayReceiver(self, str(folder), "preprocess.sock")

    def cancelled(self, key: str) -> None:
        self.heard.append(key)


@pytest.fixture
def ears(tmp_path: Path) -> Iterator[Ears]:
    made = Ears(tmp_path)
    yield made
    made.receiver.close()


def word(said: Pulse | Refusal | AbortRequest, *, cancelled: bool = False) -> InferenceRequest:
    text = said.to_json()
    return request(request=Seal.of_server(ARGS).of_request(text, ()) + text, prompt_token_ids=[], cancelled=cancelled)


def pulse(ears: Ears, key: str, *, answer_id: str = "", tenant: str = "", is_shown: bool = False) -> Pulse:
    return Pulse(key, answer_id, tenant, ears.receiver.path, is_shown)


def told(each: InferenceRequest) -> Any:
    """Which ids an abort found."""
    wait(lambda: each.sender.is_closed, "the abort is answered")
    return events(each)[0]["aborted"]


class TestEngine:
    def test_a_pulse_is_not_seen_by_anybody(self, model: EngineModel, ears: Ears) -> None:
        each = word(pulse(ears, "a" * 32))
        model.execute([each])
        assert each.sender.is_closed and not each.sender.responses and not ears.heard

    def test_a_pulse_that_cannot_be_shown_ends_nothing(self, model: EngineModel, ears: Ears) -> None:
        shown, each = word(pulse(ears, "a" * 32, is_shown=True)), sealed("a" * 32)
        shown.sender.broken = True
        model.execute([shown, each])
        assert shown.sender.is_closed and not shown.sender.responses
        wait(lambda: each.sender.is_closed, "it is answered")
        assert each.sender.responses[0].error() is None

    def test_a_pulse_of_a_client_that_has_gone(self, model: EngineModel, ears: Ears) -> None:
        model.execute([word(pulse(ears, "a" * 32)), word(pulse(ears, "a" * 32), cancelled=True)])
        wait(lambda: ears.heard == ["a" * 32], "preprocess is told")

    def test_a_process_that_does_not_read_holds_nobody_up(self, model: EngineModel, tmp_path: Path) -> None:
        """More words than its queue takes: those that find no room are said again with the next pulse."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
            deaf.bind(str(tmp_path / "deaf.sock"))
            said = [Pulse(f"{i:032x}", "", "", str(tmp_path / "deaf.sock"), False) for i in range(256)]
            words = [word(each, cancelled=True) for each in said]
            at_work = threading.Thread(target=model.execute, args=(words,), daemon=True)
            at_work.start()
            at_work.join(60)  # waiting a second for each would take 240
            assert not at_work.is_alive() and all(each.sender.is_closed for each in words)
            assert deaf.recv(256).decode() == f"cancelled {said[0].key}"

    def test_processes_that_come_and_go_leave_no_open_files(self, model: EngineModel, tmp_path: Path) -> None:
        """Each has a socket of its own, under another path."""
        before = len(os.listdir("/proc/self/fd"))
        for number in range(20):
            (tmp_path / str(number)).mkdir()
            there = Ears(tmp_path / str(number))
            model.execute([word(pulse(there, f"{number:032x}"), cancelled=True)])
            wait(lambda there=there: there.heard, "preprocess is told")  # type: ignore[misc]
            there.receiver.close()
        assert len(os.listdir("/proc/self/fd")) <= before  # what earlier tests left may be closed meanwhile

    def test_whoever_is_not_heard_of_any_more_is_not_counted(self, pb_utils: FakePbUtils, monkeypatch: pytest.MonkeyPatch) -> None:
        waiters = waiting.WaitingRequests(pb_utils, Seal.of_server(ARGS))
        each = word(Pulse("a" * 32, "", "", "/nowhere", False))
        waiters.hear(Pulse("a" * 32, "", "", "/nowhere", False), each, each.get_response_sender())
        assert len(waiters) == 1
        monkeypatch.setattr(waiting, "FORGET_SECONDS", -1.0)
        assert len(waiters) == 0

    def test_an_abort_finds_those_that_wait(self, model: EngineModel, ears: Ears) -> None:
        keys = [letter * 32 for letter in "abc"]
        names = [("cmpl-1", "t"), ("cmpl-2", "t"), ("cmpl-1", "other")]
        pulses = [pulse(ears, key, answer_id=name, tenant=tenant) for key, (name, tenant) in zip(keys, names, strict=True)]
        first, second = word(AbortRequest("t", ("cmpl-1", "cmpl-9"))), word(AbortRequest("t", None))
        model.execute([*map(word, pulses), first])
        assert told(first) == ["cmpl-1"]
        wait(lambda: ears.heard == keys[:1], "preprocess is told")
        runs_on = [sealed(key, answer_id=name, tenant=tenant) for key, (name, tenant) in zip(keys, names, strict=True)]
        model.execute(runs_on)
        assert refusal_in(runs_on[0].sender.responses[0]).code == "request_aborted", "it was on its way"
        wait(lambda: all(each.sender.is_closed for each in runs_on), "the others are answered")
        assert all(events(each)[-1]["finish_reason"] in ("stop", "length") for each in runs_on[1:])
        model.execute([second])
        assert told(second) == []

    def test_one_that_comes_through_when_nobody_waits(self, model: EngineModel, ears: Ears) -> None:
        each = sealed("a" * 32)
        each.cancelled = True
        model.execute([word(pulse(ears, "a" * 32)), each])
        assert each.sender.is_closed and each.sender.responses[0].error() is not None

    @pytest.mark.parametrize("is_shown", [False, True])
    def test_a_refusal(self, model: EngineModel, ears: Ears, is_shown: bool) -> None:
        """As an error, or in words of the answer where postprocess may still be at work on a pulse."""
        shown, last = word(pulse(ears, "a" * 32, is_shown=is_shown)), word(Refusal("a" * 32, InvalidRequestError("No.").to_wire()))
        gone = word(AbortRequest("", None))
        model.execute([shown, last, gone])
        assert told(gone) == []
        assert [json.loads(r.value("event")) for r in shown.sender.responses] == [{"key": "a" * 32, "waiting": True}] * is_shown
        if is_shown:
            (event,) = events(last)
            assert event["seal"] == Seal.of_server(ARGS).of_refusal("a" * 32, event["refused"]) and "No." in event["refused"]
        else:
            error = last.sender.responses[0].error()
            assert error is not None and from_wire(error.message()).message == "No."

    def test_one_that_is_not_heard_of_any_more(self, model: EngineModel, ears: Ears, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(waiting, "FORGET_SECONDS", 0.0)
        each = word(AbortRequest("", None))
        model.execute([word(pulse(ears, "a" * 32)), each])
        assert told(each) == []

    def test_those_that_wait_hear_that_the_server_stops(self, model: EngineModel, ears: Ears) -> None:
        """They would be refused in the end: nobody waits for a slow picture before that."""
        key = "a" * 32
        model.execute([word(pulse(ears, key))])
        model._serving.engine.drain(60)
        wait(lambda: model._serving.engine.is_draining, "it refuses what is new")
        assert not model._is_idle()
        model.execute([word(pulse(ears, key))])
        wait(lambda: ears.heard == [key], "preprocess is told")
        last = word(Refusal(key, aborted().to_wire()))
        model.execute([last])
        assert refusal_in(last.sender.responses[0]).message == STOPPING.message
        assert model._is_idle()

    def test_an_abort_finds_what_compiles(self, model: EngineModel) -> None:
        """While both threads that could compile are busy; then nothing is compiled for it."""
        release, grammars = threading.Event(), model._serving.grammars
        for _ in range(2):
            grammars._pool.submit(release.wait, 30)
        each = sealed(
            "a" * 32, answer_id="cmpl-1", sampling=SamplingParams(max_tokens=4, grammar='{"grammars": [{"lark_grammar": "start: /a/"}]}')
        )
        other = word(AbortRequest("", ("cmpl-1",)))
        model.execute([each, other])
        assert told(other) == ["cmpl-1"]
        wait(lambda: each.sender.is_closed, "it is answered")
        assert events(each)[-1]["finish_reason"] == "abort" and "request_aborted" in events(each)[-1]["error"]
        release.set()
        grammars.close()
        assert not grammars._compiled


class TestPreprocess:
    @pytest.fixture
    def preprocess(self, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PreprocessModel]:
        file = tmp_path / "engine.json"
        file.write_text(json.dumps({"model": str(model_folder), "max_model_len": 64, "runtime_dir": str(tmp_path)}), encoding="utf-8")
        monkeypatch.setenv("ERNIE_CONFIG", str(file))
        monkeypatch.setattr(waiting_room, "PULSE_SECONDS", 0.1)
        made = PreprocessModel(FakePbUtils())
        made.initialize(ARGS)
        yield made
        made.finalize()

    def guided(self, regex: str, *, stream: bool = True) -> InferenceRequest:
        parameters = {"ernie_answer_id": "cmpl-1", "ernie_tenant": "t"}
        return request(text_input="a", stream=stream, sampling_parameters=json.dumps({"guided_regex": regex}), parameters=parameters)

    def stopped_helper(self, model: PreprocessModel) -> int:
        """Of grammars; it never answers."""
        each = self.guided("first")
        model.execute([each])
        wait(lambda: each.sender.is_closed, "a new grammar is tried out")
        assert model._preprocessor is not None
        process = model._preprocessor._rules._grammars._helper._process
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
        return process.pid

    @pytest.mark.parametrize("stream", [True, False])
    def test_a_grammar_that_compiles_is_heard_of_and_can_be_aborted(self, preprocess: PreprocessModel, stream: bool) -> None:
        self.stopped_helper(preprocess)
        each, behind, known = self.guided("second", stream=stream), self.guided("third"), self.guided("first")
        preprocess.execute([each, behind, known, request(text_input="a")])
        assert known.sender.is_closed, "nobody else is held up"
        wait(lambda: len(each.sender.responses) >= 3, "its pulses come")
        pulses = [word_of(response) for response in each.sender.responses[:3]]
        assert all(isinstance(said, Pulse) and (said.answer_id, said.tenant) == ("cmpl-1", "t") for said in pulses)
        assert [said.is_shown for said in pulses if isinstance(said, Pulse)] == [False, stream, stream]
        assert isinstance(pulses[0], Pulse)
        sender = RelaySender(pulses[0].socket_path)
        for _ in range(2):
            sender.cancelled(pulses[0].key)
        sender.close()
        wait(lambda: each.sender.is_closed, "it is answered at once")
        assert refusal_in(each.sender.responses[-1]).message == aborted().message
        wait(lambda: behind.sender.is_closed, "the next one is tried out by a fresh helper")
        assert not isinstance(word_of(behind.sender.responses[-1]), Refusal)

    def test_not_everybody_may_wait(self, preprocess: PreprocessModel, monkeypatch: pytest.MonkeyPatch) -> None:
        helper = self.stopped_helper(preprocess)
        monkeypatch.setattr(waiting_room, "MAX_WAITERS", 1)
        first, second = self.guided("second"), self.guided("third")
        preprocess.execute([first, second])
        error = second.sender.responses[0].error()
        assert error is not None and from_wire(error.message()).http_status == 429
        os.kill(helper, signal.SIGCONT)
        wait(lambda: first.sender.is_closed, "who was there is answered")
        again = self.guided("third")
        preprocess.execute([again])
        wait(lambda: again.sender.is_closed, "there is room again")
        assert not isinstance(word_of(again.sender.responses[-1]), Refusal)

    def test_one_whose_time_is_over(self, preprocess: PreprocessModel) -> None:
        self.stopped_helper(preprocess)
        each = self.guided("second")
        each.timeout_microseconds = 300_000
        preprocess.execute([each])
        wait(lambda: each.sender.is_closed, "it is answered, and the helper is ended")
        assert refusal_in(each.sender.responses[-1]).code == "timeout"

    def test_one_that_waits_for_its_turn(self, preprocess: PreprocessModel) -> None:
        helper = self.stopped_helper(preprocess)
        first, second = self.guided("second"), self.guided("third")
        preprocess.execute([first, second])
        said = word_of(second.sender.responses[0])
        assert isinstance(said, Pulse)
        sender = RelaySender(said.socket_path)
        sender.cancelled(said.key)
        sender.close()
        wait(lambda: second.sender.is_closed, "it is answered")
        assert not first.sender.is_closed
        os.kill(helper, signal.SIGCONT)
        wait(lambda: first.sender.is_closed, "the other one goes on")
        assert not isinstance(word_of(first.sender.responses[-1]), Refusal)

    def test_the_end_answers_what_waits(self, preprocess: PreprocessModel) -> None:
        helper = self.stopped_helper(preprocess)
        both = [self.guided("second"), self.guided("third")]
        preprocess.execute(both)
        threading.Timer(0.3, os.kill, (helper, signal.SIGCONT)).start()
        preprocess.finalize()
        assert all(each.sender.is_closed for each in both)
        assert refusal_in(both[1].sender.responses[-1]).http_status == 503
