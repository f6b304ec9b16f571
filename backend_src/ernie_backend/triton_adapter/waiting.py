"""What preprocess tells the engine of requests that it still loads or compiles something for, and what the engine makes of that.

Triton tells a step that its request was cancelled only when it schedules it, and preprocess' step is under way. So preprocess sends pulses,
each of which is a step of the engine's: the engine hears of the hang-up and tells preprocess, past Triton. An abort finds such requests by
them, too. A pulse takes a request's place between preprocess and engine, as an abort does.
"""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from ..abort_signal import aborted
from ..errors import ErnieError, from_wire
from ..relay import RelaySender
from .seal import Seal
from .tensors import error_response, ids_tensor, text_tensor

log = logging.getLogger(__name__)

FORGET_SECONDS = 30.0
"""A request that has not been heard of for so long waits no more: the process that worked on it was killed. Pulses come every second, and
every four when 500 requests wait."""

_PULSE, _REFUSAL = '{"pulse":', '{"refusal":'


@dataclass(frozen=True)
class Pulse:
    """The request is still worked on."""

    key: str
    answer_id: str
    tenant: str
    socket_path: str
    """Where its process hears that it is cancelled."""
    is_shown: bool
    """The client gets an empty response: Triton's HTTP face learns only by writing that nobody reads."""

    def to_json(self) -> str:
        return f"{_PULSE}{json.dumps(asdict(self), separators=(',', ':'))}}}"


@dataclass(frozen=True)
class Refusal:
    """The request ends here, with an error in its wire form."""

    key: str
    error: str

    def to_json(self) -> str:
        return f"{_REFUSAL}{json.dumps(asdict(self), separators=(',', ':'))}}}"


def read_word(text: str) -> Pulse | Refusal | None:
    """None if the text is another request's."""
    if text.startswith(_PULSE):
        return Pulse(**json.loads(text)["pulse"])
    return Refusal(**json.loads(text)["refusal"]) if text.startswith(_REFUSAL) else None


@dataclass
class _Waiting:
    pulse: Pulse
    heard_at: float
    was_shown: bool = False
    """Of one of its pulses: postprocess may still be at work on that, and Triton 2.51 loses count if a step fails meanwhile."""
    ended_by: ErnieError | None = None
    """It will not run, and this is what it is told."""


class WaitingRequests:
    """The engine's list of them, for the thread that hears of requests (`len()`: for any)."""

    def __init__(self, pb_utils: Any, seal: Seal) -> None:
        self._pb = pb_utils
        self._seal = seal
        self._requests: OrderedDict[str, _Waiting] = OrderedDict()
        """The one last heard of stands last."""

    def __len__(self) -> int:
        now = time.monotonic()
        return sum(now - waiting.heard_at < FORGET_SECONDS for waiting in list(self._requests.values()))

    def hear(self, word: Pulse | Refusal, request: Any, sender: Any, *, stopping: ErnieError | None = None) -> None:
        """Answers it. `stopping`: nothing runs any more that has not begun, and this is why."""
        if isinstance(word, Refusal):
            self._refuse(word.key, sender, from_wire(word.error))
            return
        now = time.monotonic()
        waiting = self._requests.setdefault(word.key, _Waiting(word, now))
        waiting.heard_at = now
        self._requests.move_to_end(word.key)
        self._forget(now)
        waiting.ended_by = waiting.ended_by or stopping
        if waiting.ended_by is not None or request.is_cancelled():
            self._cancel(word)
        if word.is_shown:
            waiting.was_shown = True
            self._show(word.key, sender)
        else:
            sender.send(flags=self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def may_run(self, key: str, request: Any, sender: Any) -> bool:
        """It has come through. False if it was aborted meanwhile, or nobody waits for it any more: then it is answered."""
        waiting = self._requests.get(key)
        if waiting is None:
            return True
        if waiting.ended_by is not None or request.is_cancelled():
            self._refuse(key, sender, aborted())
            return False
        del self._requests[key]
        return True

    def abort(self, tenant: str | None, answer_ids: Collection[str] | None) -> tuple[str, ...]:
        """End the tenant's (None: everybody's) that go by one of the ids (None: all); the ids that named something. None of them will run,
        however far it has come."""
        self._forget(time.monotonic())
        found = []
        for waiting in self._requests.values():
            pulse = waiting.pulse
            if tenant in (None, pulse.tenant) and (answer_ids is None or pulse.answer_id in answer_ids):
                waiting.ended_by = aborted()
                self._cancel(pulse)
                found.append(pulse.answer_id)
        return tuple(dict.fromkeys(found))

    def _show(self, key: str, sender: Any) -> None:
        final = self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        try:
            sender.send(self._response({"key": key, "waiting": True}), flags=final)
        except Exception:  # no shared memory left, as a rule; an error would end the request
            log.warning("A pulse could not be shown.", exc_info=True)
            sender.send(flags=final)

    def _cancel(self, pulse: Pulse) -> None:
        # Not waiting for a process that does not read: no other request would get in. What is lost is said again at the next pulse. And not
        # kept: where no supervisor names its folder, each new process has its socket elsewhere.
        sender = RelaySender(pulse.socket_path, patience_seconds=0.0)
        sender.cancelled(pulse.key)
        sender.close()

    def _forget(self, now: float) -> None:
        while self._requests:
            key, waiting = next(iter(self._requests.items()))
            if now - waiting.heard_at < FORGET_SECONDS:
                return
            del self._requests[key]

    def _refuse(self, key: str, sender: Any, error: ErnieError) -> None:
        waiting = self._requests.pop(key, None)
        if waiting is not None and waiting.ended_by is not None:
            error = waiting.ended_by
        final = self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        if waiting is None or not waiting.was_shown:
            sender.send(error_response(self._pb, error), flags=final)
            return
        told = error.to_wire()
        sender.send(self._response({"key": key, "refused": told, "seal": self._seal.of_refusal(key, told)}), flags=final)

    def _response(self, event: dict[str, Any]) -> Any:
        text = json.dumps(event, separators=(",", ":"))
        return self._pb.InferenceResponse(output_tensors=[ids_tensor(self._pb, "new_token_ids", ()), text_tensor(self._pb, "event", text)])
