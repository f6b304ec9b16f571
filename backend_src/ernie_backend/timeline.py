"""When each request came, began, said its first token and ended, as far as the engine sees it; knows no Triton and no blocks.

Written on the engine's thread only. All times are seconds of CLOCK_MONOTONIC, which the processes of one machine share: preprocess's moment
of arrival can be held against the engine's.
"""

from __future__ import annotations

import time
from dataclasses import replace

from .core.outputs import StepOutput
from .errors import from_wire
from .metrics import Histogram
from .protocol import FinishReason, GenerateEvent, GenerateRequest, Timings

_FIRST_TOKEN_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.2, 0.5, 1, 5)
_REQUEST_SECONDS = (0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
_SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class _Choice:
    __slots__ = ("first_token_at", "last_token_at", "num_tokens", "started_at")

    def __init__(self) -> None:
        self.started_at: float | None = None
        self.first_token_at: float | None = None
        self.last_token_at: float | None = None
        self.num_tokens = 0


class _Request:
    __slots__ = ("arrived_at", "choices", "num_prompt_tokens", "num_unfinished", "queued_at")

    def __init__(self, request: GenerateRequest, now: float) -> None:
        self.arrived_at = request.arrived_at or now
        self.queued_at = now
        self.num_prompt_tokens = len(request.prompt_token_ids)
        self.choices = [_Choice() for _ in range(request.n)]
        self.num_unfinished = request.n


class Timeline:
    """The requests under way, and the histograms that they leave behind."""

    def __init__(self) -> None:
        self._requests: dict[str, _Request] = {}
        self.choices_total = 0
        """Answers that were asked for: n per request."""
        self.rejected_total: dict[int, int] = {}
        """Requests that the engine never took up, by the HTTP status of their error."""
        self.time_to_first_token = Histogram(_FIRST_TOKEN_SECONDS)
        self.time_between_tokens = Histogram(_TOKEN_SECONDS)
        self.end_to_end = Histogram(_REQUEST_SECONDS)
        self.queue = Histogram(_REQUEST_SECONDS)
        self.prefill = Histogram(_REQUEST_SECONDS)
        self.decode = Histogram(_REQUEST_SECONDS)
        self.inference = Histogram(_REQUEST_SECONDS)
        self.prompt_tokens = Histogram(_TOKENS)
        self.generation_tokens = Histogram(_TOKENS)
        self.max_tokens = Histogram(_TOKENS)
        self.batch_size = Histogram(_SEQUENCES)

    def __len__(self) -> int:
        return len(self._requests)

    def arrived(self, request: GenerateRequest) -> None:
        """Before the engine decides whether it takes the request."""
        self._requests[request.key] = _Request(request, time.monotonic())
        self.choices_total += request.n
        self.max_tokens.observe(request.sampling.max_tokens, request.n)

    def noted(self, output: StepOutput, scheduled_at: float | None = None) -> StepOutput:
        """The output, with the timings of the answers that end in it. `scheduled_at`: when the step was that it tells of."""
        now = time.monotonic()
        requests = self._requests
        for key, index in output.started:
            if key in requests:
                requests[key].choices[index].started_at = now if scheduled_at is None else scheduled_at
        if output.batch_size:
            self.batch_size.observe(output.batch_size)
        gaps: dict[float, int] = {}  # last token's time → sequences: few different ones, so that no token needs a search for its bucket
        ended = False
        for event in output.events:  # hundreds a step: the hot loop, 0.15 µs a token
            if event.finish_reason is not None:
                ended = True
            request = requests.get(event.key)
            if request is None or not event.token_ids:
                continue
            choice = request.choices[event.index]
            last = choice.last_token_at
            if last is None:
                choice.first_token_at = now
                self.time_to_first_token.observe(now - request.arrived_at)
            else:
                gaps[last] = gaps.get(last, 0) + 1
            choice.last_token_at = now
            choice.num_tokens += len(event.token_ids)
        for last, count in gaps.items():
            self.time_between_tokens.observe(now - last, count)
        if not ended:
            return output
        return replace(output, events=tuple(self._ended(event, now) if event.finish_reason else event for event in output.events))

    def _ended(self, event: GenerateEvent, now: float) -> GenerateEvent:
        request = self._requests.get(event.key)
        if request is None:
            return event
        choice = request.choices[event.index]
        request.num_unfinished -= 1
        if not request.num_unfinished:
            del self._requests[event.key]
        if choice.started_at is None and event.finish_reason is FinishReason.ERROR:
            if event.index == 0:
                status = from_wire(event.error or "").http_status
                self.rejected_total[status] = self.rejected_total.get(status, 0) + 1
            return event
        self._observe(request, choice, now)
        timings = Timings(request.arrived_at, request.queued_at, choice.started_at, choice.first_token_at, now)
        return event._replace(timings=timings)

    def _observe(self, request: _Request, choice: _Choice, now: float) -> None:
        started, first = choice.started_at, choice.first_token_at
        self.end_to_end.observe(now - request.arrived_at)
        self.queue.observe((now if started is None else started) - request.queued_at)
        if started is None:
            return
        self.inference.observe(now - started)
        self.prefill.observe((now if first is None else first) - started)
        if first is None:
            return
        self.decode.observe(now - first)
        self.prompt_tokens.observe(request.num_prompt_tokens)
        self.generation_tokens.observe(choice.num_tokens)
