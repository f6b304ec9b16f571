"""One client process of a load test: streams that ask a running server again and again; keeps times and counts, and reads no answer.

Per response it costs the machine as little as it can: on gRPC the length of one raw tensor, on HTTP the beginning of a line.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import json
import random
import resource
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

PROMPT_IDS = range(1000, 5000)
"""Ordinary tokens of every ERNIE-4.5 vocabulary and of the demo model's, whose 5,120 end in control tokens. Enough that no two random
prompts begin alike: four of them can be 10^14 things."""
_READY_SECONDS = 60.0
"""To connect, ask once and wait for the other processes."""
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # else channels share one connection
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True)
class Job:
    """What one process does."""

    protocol: str
    """`grpc`: the ensemble; `http`: /v1/completions of the OpenAI front end."""
    address: str
    """host:port"""
    streams: int
    requests: int
    """Of each stream, one after another."""
    prompt: int
    """Tokens; random ids, so that no prefix is found again."""
    tokens: int
    """Of every answer."""
    seed: int
    token_texts: tuple[str, ...] = ()
    """What the server answers, token by token and over again, if that is known: then each response's tokens are counted on HTTP, too, by
    its text. Without characters that JSON escapes."""


@dataclass
class Answer:
    """One request as its client saw it; seconds of the machine's monotonic clock, which all processes share."""

    start: float
    times: list[float] = field(default_factory=list)
    """When each response with tokens came."""
    tokens: list[float] = field(default_factory=list)
    """How many each brought (HTTP without known texts: of the whole answer's, in equal parts)."""
    error: str | None = None
    """Why it does not count."""
    prompt: Sequence[int] = ()


@dataclass
class ClientResult:
    """What one process has to tell."""

    answers: list[Answer]
    cpu_seconds: float = 0.0
    """Between the barrier and the last answer."""
    peak_bytes: int = 0


class _Client(Protocol):
    async def answer(self, prompt: Sequence[int], tokens: int, answer: Answer) -> None:
        """Ask, and write down what comes; raises if the connection fails."""
        ...

    async def close(self) -> None: ...


class GrpcClient:
    """One connection; one ModelStreamInfer stream for each request, as the front end has it."""

    def __init__(self, address: str) -> None:
        import grpc
        from tritonclient.grpc import service_pb2_grpc

        self._channel = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def answer(self, prompt: Sequence[int], tokens: int, answer: Answer) -> None:
        import grpc

        call = self._stub.ModelStreamInfer(iter([ensemble_request(prompt, _sampling(tokens))]))
        try:
            await self._read(call, answer)
        except grpc.aio.AioRpcError as error:  # whose own text takes four lines
            answer.error = f"{error.code().name}: {error.details()}"

    async def _read(self, call: Any, answer: Answer) -> None:
        async for reply in call:
            now = time.monotonic()
            if reply.error_message:
                answer.error = reply.error_message
            for output, raw in zip(reply.infer_response.outputs, reply.infer_response.raw_output_contents, strict=False):
                if output.name == "token_ids" and raw:
                    answer.times.append(now)
                    answer.tokens.append(len(raw) // 4)
                elif output.name == "error" and len(raw) > 4:
                    answer.error = raw[4:].decode()

    async def close(self) -> None:
        await self._channel.close()


def ensemble_request(prompt: Sequence[int], sampling: Mapping[str, Any]) -> Any:
    """The ModelInferRequest of a streamed answer."""
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferRequest(model_name="ernie")
    inputs = {"chat": {"prompt_token_ids": list(prompt)}, "sampling_parameters": dict(sampling)}
    for name, value in inputs.items():
        data = json.dumps(value).encode()
        message.inputs.add(name=name, datatype="BYTES", shape=[1])
        message.raw_input_contents.append(struct.pack("<I", len(data)) + data)
    message.inputs.add(name="stream", datatype="BOOL", shape=[1])
    message.raw_input_contents.append(b"\x01")
    return message


class HttpClient:
    """One connection for each stream, kept open."""

    def __init__(self, address: str, token_texts: Sequence[str] = ()) -> None:
        import aiohttp

        self._ends = list(itertools.accumulate(map(len, token_texts)))
        self._url = f"http://{address}/v1/completions"
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(None))

    async def answer(self, prompt: Sequence[int], tokens: int, answer: Answer) -> None:
        body = {"prompt": list(prompt), "stream": True, "stream_options": {"include_usage": True}, **_sampling(tokens)}
        async with self._session.post(self._url, json=body) as response:
            if response.status != 200:
                answer.error = f"status {response.status}: {(await response.text())[:300]}"
                return
            total, characters = 0, 0
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                if b'"usage":{' in line:
                    total = json.loads(line[6:])["usage"]["completion_tokens"]
                elif line.startswith(b'data: {"error"'):
                    answer.error = line[6:300].decode(errors="replace").strip()
                elif b'"finish_reason":null' in line:  # the chunk with the reason brings no token
                    answer.times.append(time.monotonic())
                    if self._ends:
                        begin = line.index(b'"text":"') + 8
                        before, characters = characters, characters + line.index(b'"', begin) - begin
                        answer.tokens.append(self._tokens_in(characters) - self._tokens_in(before))
        if total and not self._ends:
            answer.times = answer.times or [time.monotonic()]  # tokens without text, such as half a character, come without a chunk
            answer.tokens = [total / len(answer.times)] * len(answer.times)

    def _tokens_in(self, characters: int) -> int:
        rounds, rest = divmod(characters, self._ends[-1])
        return rounds * len(self._ends) + bisect.bisect_right(self._ends, rest)

    async def close(self) -> None:
        await self._session.close()


def _sampling(tokens: int) -> dict[str, Any]:
    """Answers of exactly `tokens` tokens, sampled without truncation: a random model's greedy answer repeats one token for ever."""
    return {"max_tokens": tokens, "temperature": 1.0, "top_p": 1.0, "ignore_eos": True}


async def _ask(client: _Client, prompt: Sequence[int], tokens: int) -> Answer:
    """One request; whatever goes wrong stands in the answer."""
    answer = Answer(time.monotonic(), prompt=prompt)
    try:
        await client.answer(prompt, tokens, answer)
    except Exception as error:
        answer.error = f"{type(error).__name__}: {error}"
    if answer.error is None and round(sum(answer.tokens)) != tokens:
        answer.error = f"{sum(answer.tokens):.0f} tokens came instead of {tokens}"
    return answer


async def _run(job: Job, barrier: Any, done: Any) -> ClientResult:
    client: _Client = GrpcClient(job.address) if job.protocol == "grpc" else HttpClient(job.address, job.token_texts)
    rng = random.Random(job.seed)
    answers: list[Answer] = []

    async def stream(prompts: list[list[int]]) -> None:
        for prompt in prompts:
            answers.append(await _ask(client, prompt, job.tokens))
            with done.get_lock():
                done.value += 1

    try:
        first = await _ask(client, rng.choices(PROMPT_IDS, k=job.prompt), min(2, job.tokens))  # connects, outside the measurement
        if first.error is not None:
            barrier.abort()
            return ClientResult([first])
        prompts = [[rng.choices(PROMPT_IDS, k=job.prompt) for _ in range(job.requests)] for _ in range(job.streams)]
        await asyncio.to_thread(barrier.wait, _READY_SECONDS)
        cpu_before = time.process_time()
        await asyncio.gather(*map(stream, prompts))
        cpu_seconds = time.process_time() - cpu_before
    finally:
        await client.close()
    return ClientResult(answers, cpu_seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def run_client(job: Job, barrier: Any, done: Any, results: Any) -> None:
    """The process's main function: connect, wait for the others at `barrier`, count finished requests in `done`, put the answers."""
    try:
        results.put(asyncio.run(_run(job, barrier, done)))
    except threading.BrokenBarrierError:  # another process could not start, and says why
        results.put(ClientResult([]))
    except Exception as error:
        barrier.abort()
        results.put(ClientResult([Answer(time.monotonic(), error=f"{type(error).__name__}: {error}")]))
