"""64 streams of mixed lengths with random cancels, over gRPC and HTTP, through the real ensemble."""

from __future__ import annotations

import json
import random
import threading
import time
from dataclasses import dataclass, field

import httpx

from ernie_backend.cli.background import RunningServer
from tests.e2e.kserve import Stream
from tests.e2e.observe import metric, wait_for_metric, wait_until_idle

STREAMS = 64

LONG = 3900
"""Tokens: an answer of many seconds, that just fits into the context of 4,096."""


@dataclass
class Client:
    """One user: what they ask, on which face, and when they hang up."""

    number: int
    prompt: str
    sampling: dict[str, object]
    over_http: bool
    cancel_after: int | None
    """Responses after which they hang up; None: they stay."""
    text: str = ""
    finish: str = ""
    failure: BaseException | None = field(default=None, repr=False)

    def run(self, server: RunningServer) -> None:
        try:
            (self._http if self.over_http else self._grpc)(server)
        except BaseException as error:
            self.failure = error

    def _grpc(self, server: RunningServer) -> None:
        stream = Stream(server.triton_grpc, text_input=self.prompt, sampling_parameters=self.sampling)
        final, responses = False, 0
        while not final:
            outputs, final = stream.next()
            self.text += outputs["text_output"]
            self.finish = outputs["finish_reason"]
            responses += 1
            if responses == self.cancel_after:
                stream.cancel()
                return
        stream.client.stop_stream()

    def _http(self, server: RunningServer) -> None:
        body = {"prompt": self.prompt, "stream": True, **self.sampling}
        responses = 0
        with httpx.stream("POST", f"{server.openai_url}/v1/completions", json=body, timeout=120) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if not line.startswith("data: {"):
                    continue
                (choice,) = json.loads(line[6:])["choices"]
                self.text += choice["text"]
                self.finish = choice["finish_reason"] or self.finish
                responses += 1
                if responses == self.cancel_after:
                    return


def clients(seed: int) -> list[Client]:
    rng = random.Random(seed)
    made = []
    for number in range(STREAMS):
        sampling: dict[str, object] = {"max_tokens": rng.choice([1, 7, 40, 120]), "temperature": 0, "ignore_eos": True}
        if number % 3 == 0:
            sampling |= {"temperature": 0.9, "top_p": 0.9, "seed": number}
        leaves = rng.random() < 0.35
        if leaves:
            sampling["max_tokens"] = 1500
        prompt = "The same beginning. " * rng.choice([0, 5, 40]) + f"Stream {number}"
        made.append(Client(number, prompt, sampling, number % 2 == 0, rng.randrange(1, 20) if leaves else None))
    return made


def test_survivors_equal_their_lone_runs_and_nothing_is_left(server: RunningServer) -> None:
    wait_until_idle(server)
    crowd = clients(11)
    expected: dict[int, tuple[str, str]] = {}
    for client in crowd:
        if client.cancel_after is None:  # before the crowd, so that no block of the crowd can help them
            alone = Client(client.number, client.prompt, client.sampling, not client.over_http, None)
            alone.run(server)
            assert alone.failure is None, alone.failure
            expected[client.number] = (alone.text, alone.finish)
    threads = [threading.Thread(target=client.run, args=(server,)) for client in crowd]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(180)
    assert not [client for client in crowd if client.failure], [client.failure for client in crowd if client.failure]
    wait_until_idle(server)
    survivors = [client for client in crowd if client.cancel_after is None]
    assert len(survivors) > 30 and all(client.finish == "length" for client in survivors)
    for client in survivors:
        assert (client.text, client.finish) == expected[client.number], client


def test_a_client_that_leaves_frees_its_request(server: RunningServer) -> None:
    """Steps of this model take a few milliseconds, so that many pass while the news travels on a busy machine, but never all of
    the answer. How few they are, test_load.py counts with steps that take longer than the news."""
    for over_http in (False, True):
        wait_until_idle(server)
        before = metric(server, "ernie_generation_tokens_total")
        client = Client(0, "leave", {"max_tokens": LONG, "temperature": 0, "ignore_eos": True}, over_http, cancel_after=5)
        client.run(server)
        assert client.failure is None
        wait_until_idle(server)
        assert metric(server, "ernie_generation_tokens_total") - before < LONG


def test_a_client_that_leaves_the_queue_is_never_computed(server: RunningServer) -> None:
    wait_until_idle(server)
    before = metric(server, "ernie_generation_tokens_total")
    sampling = {"max_tokens": LONG, "temperature": 0, "ignore_eos": True}
    running = [Stream(server.triton_grpc, text_input=f"run {i}", sampling_parameters=sampling) for i in range(16)]
    try:
        for stream in running:
            stream.next()
        queued = Stream(server.triton_grpc, text_input="queued", sampling_parameters=sampling)
        wait_for_metric(server, "ernie_sequences_waiting", 1)
        assert metric(server, "ernie_sequences_running") == 16, "all seats are taken"
        queued.cancel()
        wait_for_metric(server, "ernie_sequences_waiting", 0)
        assert metric(server, "ernie_sequences_running") == 16, "it left the queue while they still were"
    finally:
        for stream in running:
            stream.cancel()
    wait_until_idle(server)
    assert metric(server, "ernie_generation_tokens_total") - before < 16 * LONG


def test_an_http_client_that_leaves_a_whole_answer(server: RunningServer) -> None:
    wait_until_idle(server)
    before = metric(server, "ernie_generation_tokens_total")
    body = {"prompt": "leave", "max_tokens": LONG, "temperature": 0, "ignore_eos": True}
    start = time.monotonic()
    try:
        httpx.post(f"{server.openai_url}/v1/completions", json=body, timeout=0.5)
    except httpx.ReadTimeout:
        pass
    else:
        raise AssertionError(f"{LONG} tokens came within {time.monotonic() - start:.2f} s: the test needs a slower model")
    wait_until_idle(server)
    assert metric(server, "ernie_generation_tokens_total") - before < LONG
