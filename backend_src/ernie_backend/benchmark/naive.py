"""The peer that `bench path` is held against: a Triton LLM ensemble as it is usually written. Nothing of it serves anybody.

Three Python models; the engine sends one response per token from its own thread, postprocess turns each into text, and nobody acknowledges
anything. Its model is the same clock.
"""

from __future__ import annotations

import json
import threading
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .clock import PROMPT_KEY_IDS, log_answer


class NaivePreprocess:
    """`chat` and `sampling_parameters` → ids and their limit."""

    def __init__(self, pb_utils: Any) -> None:
        self._pb = pb_utils

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        chat, sampling = (
            json.loads(self._pb.get_input_tensor_by_name(request, name).as_numpy()[0]) for name in ("chat", "sampling_parameters")
        )
        ids = self._pb.Tensor("prompt_token_ids", np.array(chat["prompt_token_ids"], np.int32))
        limit = self._pb.Tensor("max_tokens", np.array([sampling["max_tokens"]], np.int32))
        return self._pb.InferenceResponse(output_tensors=[ids, limit])


@dataclass
class _Running:
    sender: Any
    key: tuple[int, ...]
    max_tokens: int
    due: array[float] = field(default_factory=lambda: array("d"))


class NaiveEngine:
    """Every step sends one response for each request, one after another."""

    def __init__(self, pb_utils: Any, *, token_ids: Sequence[int], step_seconds: float, log_path: str) -> None:
        self._pb = pb_utils
        self._token_ids = tuple(token_ids)
        self._step_seconds = step_seconds
        self._log = open(log_path, "ab")  # noqa: SIM115
        self._new: list[_Running] = []
        self._lock = threading.Condition()
        self._closing = False

    def initialize(self, _: dict[str, str]) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            ids = self._pb.get_input_tensor_by_name(request, "prompt_token_ids").as_numpy()
            limit = self._pb.get_input_tensor_by_name(request, "max_tokens").as_numpy()
            running = _Running(request.get_response_sender(), tuple(ids[:PROMPT_KEY_IDS].tolist()), int(limit[0]))
            with self._lock:
                self._new.append(running)
                self._lock.notify()

    def finalize(self) -> None:
        with self._lock:
            self._closing = True
            self._lock.notify()
        self._thread.join(5)
        self._log.close()

    def _run(self) -> None:
        running: list[_Running] = []
        free_at = 0.0
        while True:
            with self._lock:
                while not running and not self._new and not self._closing:
                    self._lock.wait()
                if self._closing:
                    return
                running += self._new
                self._new = []
            free_at = max(time.monotonic(), free_at) + self._step_seconds
            time.sleep(max(0.0, free_at - time.monotonic()))
            for each in running:
                self._send(each, free_at)
            running = [each for each in running if len(each.due) < each.max_tokens]

    def _send(self, each: _Running, due: float) -> None:
        token = self._token_ids[len(each.due) % len(self._token_ids)]
        each.due.append(due)
        response = self._pb.InferenceResponse(output_tensors=[self._pb.Tensor("new_token_ids", np.array([token], np.int32))])
        last = len(each.due) == each.max_tokens
        each.sender.send(response, flags=self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0)
        if last:
            log_answer(self._log, each.key, each.due)


class NaivePostprocess:
    """One token → its text."""

    def __init__(self, pb_utils: Any, texts: dict[int, str]) -> None:
        """`texts`: of the ids that the clock knows."""
        self._pb = pb_utils
        self._texts = {i: text.encode() for i, text in texts.items()}

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        ids = self._pb.get_input_tensor_by_name(request, "new_token_ids").as_numpy()
        text = b"".join(self._texts[i] for i in ids.tolist())
        outputs = [self._pb.Tensor("text_output", np.array([text], np.object_)), self._pb.Tensor("token_ids", ids)]
        return self._pb.InferenceResponse(output_tensors=outputs)
