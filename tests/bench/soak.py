"""`python -m tests.bench.soak --requests 20000`: many short requests, with hang-ups, slow readers and bad ones among them; what is left.

A real server around a clock, both faces, every answer compared to what it must be. At the end no block, no state and no file of a request
may be left, and no process may have grown since the first tenth. Exit code 0 iff all of that holds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
from tqdm import tqdm
from tritonclient.grpc import service_pb2_grpc

from ernie_backend.benchmark.load_client import ensemble_request
from ernie_backend.benchmark.process_usage import usage_of
from ernie_backend.cli.__main__ import main as cli
from tests.e2e.clock import ClockServer, clock_server
from tests.e2e.observe import wait_until_idle

CONCURRENCY = 48
MOST_TOKENS = 64
CANCELLED_TOKENS = 4000
SETTLED = 0.1
"""After so many of the requests everything that is allocated once has been."""
MAY_GROW_BYTES, MAY_GROW_SHARE = 6 * 2**20, 0.04
MAY_GROW_FILES = 8
SAMPLE_SECONDS = 1.0

KINDS = {"grpc": 25, "http stream": 25, "http whole": 10, "http slow": 5, "grpc cancel": 12, "http cancel": 12, "bad": 11}
"""Kind → how many in a hundred."""
BAD: tuple[tuple[str, Any, int], ...] = (
    ("/v1/completions", {"prompt": "x", "max_tokens": -1}, 400),
    ("/v1/completions", {"prompt": "x", "temperature": "hot"}, 400),
    ("/v1/completions", {"prompt": [], "max_tokens": 1}, 400),
    ("/v1/completions", {"prompt": "x" * 40_000, "max_tokens": 1}, 400),
    ("/v1/chat/completions", {"messages": "hello"}, 400),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "n": 0}, 400),
    ("/v1/chat/completions", b'{"messages": [', 400),
    ("/v1/nothing", {}, 404),
)
"""Path, body, status."""


@dataclass
class Sample:
    """One look at the server's processes."""

    done: int
    resident_bytes: dict[str, int]
    files: int
    """Open in all of them."""


@dataclass
class Report:
    kinds: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    seconds: float = 0.0

    def grown(self) -> dict[str, tuple[int, int, bool]]:
        """Process → (bytes once settled, bytes at the end, whether that is too much more)."""
        total = self.kinds.total()
        settled = [sample for sample in self.samples if sample.done >= SETTLED * total]
        found = {}
        for name, last in self.samples[-1].resident_bytes.items():
            first = max(sample.resident_bytes.get(name, 0) for sample in settled[: max(1, len(settled) // 10)])
            found[name] = (first, last, last - first > max(MAY_GROW_BYTES, MAY_GROW_SHARE * first))
        return found

    def files_left(self) -> int:
        """Open at the end and not at the beginning."""
        return self.samples[-1].files - self.samples[0].files

    @property
    def passed(self) -> bool:
        return not self.failures and not any(grew for _, _, grew in self.grown().values()) and self.files_left() <= MAY_GROW_FILES


class Soak:
    """One run against a server that is there."""

    def __init__(self, clock: ClockServer, seed: int) -> None:
        self.clock = clock
        self.rng = random.Random(seed)
        self.report = Report()

    async def run(self, requests: int, progress: Callable[[int], Any]) -> Report:
        begin = time.monotonic()
        self._sample()
        todo = iter(self.rng.choices(list(KINDS), weights=list(KINDS.values()), k=requests))
        self.channels = [grpc.aio.insecure_channel(self.clock.server.triton_grpc) for _ in range(4)]
        self.stubs = [service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in self.channels]
        async with aiohttp.ClientSession(self.clock.server.openai_url, connector=aiohttp.TCPConnector(limit=0)) as self.http:
            sampler = asyncio.ensure_future(self._sample_on())
            await asyncio.gather(*(self._user(todo, progress) for _ in range(CONCURRENCY)))
            sampler.cancel()
        for channel in self.channels:
            await channel.close()
        self.report.seconds = time.monotonic() - begin
        return self.report

    async def _user(self, todo: Any, progress: Callable[[int], Any]) -> None:
        for kind in todo:
            if self.clock.server.process.poll() is not None:
                return
            try:
                await asyncio.wait_for(getattr(self, f"_{kind.replace(' ', '_')}")(), 120)
            except Exception as error:
                self.report.failures.append(f"{kind}: {type(error).__name__}: {error}"[:300])
            self.report.kinds[kind] += 1
            progress(1)

    async def _sample_on(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            self._sample()

    def _sample(self) -> None:
        self.report.samples.append(sample(self.clock, self.report.kinds.total()))

    # the kinds ----------------------------------------------------------------------------------------------------------------------

    def _call(self, tokens: int) -> Any:
        prompt = self.rng.choices(range(1000, 1900), k=self.rng.randrange(1, 200))
        request = ensemble_request(prompt, {"max_tokens": tokens, "ignore_eos": True})
        return self.rng.choice(self.stubs).ModelStreamInfer(iter([request]))

    async def _grpc(self) -> None:
        tokens = self.rng.randrange(1, MOST_TOKENS)
        ids, finish = bytearray(), b""
        async for reply in self._call(tokens):
            assert not reply.error_message, reply.error_message
            for output, raw in zip(reply.infer_response.outputs, reply.infer_response.raw_output_contents, strict=True):
                if output.name == "token_ids":
                    ids += raw
                elif output.name == "finish_reason":
                    finish += raw[4:]
        table = self.clock.token_ids
        expected = b"".join(table[i % len(table)].to_bytes(4, "little") for i in range(tokens))
        assert bytes(ids) == expected and finish == b"length", (len(ids) // 4, tokens, finish)

    async def _grpc_cancel(self) -> None:
        call = self._call(CANCELLED_TOKENS)
        leaves_after = self.rng.randrange(0, 6)
        with contextlib.suppress(asyncio.CancelledError):
            while leaves_after and await call.read() is not grpc.aio.EOF:
                leaves_after -= 1
        call.cancel()

    def _body(self, tokens: int, stream: bool) -> dict[str, Any]:
        return {"prompt": f"{self.rng.random()} " * self.rng.randrange(1, 20), "max_tokens": tokens, "ignore_eos": True, "stream": stream}

    async def _http_stream(self, pause: float = 0.0) -> None:
        tokens = self.rng.randrange(1, MOST_TOKENS)
        text, finish, done = "", None, False
        async with self.http.post("/v1/completions", json=self._body(tokens, True)) as response:
            assert response.status == 200, await response.text()
            async for line in response.content:
                if line.startswith(b"data: {"):
                    (choice,) = json.loads(line[6:])["choices"]
                    text += choice["text"]
                    finish = choice["finish_reason"] or finish
                    await asyncio.sleep(pause)
                done = done or line.startswith(b"data: [DONE]")
        assert text == self.clock.text(tokens) and finish == "length" and done, (len(text), tokens, finish, done)

    async def _http_slow(self) -> None:
        await self._http_stream(pause=0.05)

    async def _http_whole(self) -> None:
        tokens = self.rng.randrange(1, MOST_TOKENS)
        async with self.http.post("/v1/completions", json=self._body(tokens, False)) as response:
            answer = await response.json()
        assert response.status == 200 and answer["choices"][0]["text"] == self.clock.text(tokens), answer
        assert answer["usage"]["completion_tokens"] == tokens

    async def _http_cancel(self) -> None:
        leaves_after = self.rng.randrange(0, 6)
        async with self.http.post("/v1/completions", json=self._body(CANCELLED_TOKENS, True)) as response:
            async for _ in response.content:
                leaves_after -= 1
                if leaves_after <= 0:
                    break
            response.close()

    async def _bad(self) -> None:
        path, body, status = self.rng.choice(BAD)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.http.post(path, data=data, headers={"content-type": "application/json"}) as response:
            answer = await response.json()
        assert response.status == status and set(answer) == {"error"}, (path, response.status, answer)


def sample(clock: ClockServer, done: int) -> Sample:
    usage = usage_of(clock.server.process.pid)
    files = sum(len(os.listdir(f"/proc/{each.pid}/fd")) for each in usage.values())
    return Sample(done, {name: each.resident_bytes for name, each in usage.items()}, files)


def soak(clock: ClockServer, requests: int, seed: int = 0, progress: Callable[[int], Any] = lambda _: None) -> Report:
    """Run it, wait until the server is idle (raises if it never is), and look once more."""
    report = asyncio.run(Soak(clock, seed).run(requests, progress))
    if clock.server.process.poll() is not None or len(report.failures) > requests / 10:
        report.failures.append(
            "The server has failed, and says:\n" + "".join(line for line in clock.server.log if "Triton is not available" not in line)
        )
        return report
    wait_until_idle(clock.server, seconds=60)
    report.samples.append(sample(clock, requests))
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step-ms", type=float, default=2.0)
    parser.add_argument("--out", metavar="FILE", help="write the memory of every process, second by second, as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ernie-soak-") as name:
        model = Path(name) / "model"
        assert cli(["random-checkpoint", "--like", "ERNIE-4.5-0.3B", "--no-weights", "--out", str(model)]) == 0
        (Path(name) / "repository").mkdir()
        flags = {"max_num_seqs": 32, "max_model_len": 8192}
        with clock_server(Path(name) / "repository", model, args.step_ms / 1e3, **flags) as clock, tqdm(total=args.requests) as bar:
            report = soak(clock, args.requests, args.seed, bar.update)
            show(args.requests, report)
            if args.out:
                Path(args.out).write_text(json.dumps([asdict(each) for each in report.samples], indent=1) + "\n", encoding="utf-8")
    return 0 if report.passed else 1


def show(requests: int, report: Report) -> None:
    print(f"{requests} requests in {report.seconds:.0f} s: " + ", ".join(f"{n} {kind}" for kind, n in sorted(report.kinds.items())))
    print(f"{'process':>16} {'settled MB':>11} {'end MB':>8}")
    for process, (first, last, grew) in report.grown().items():
        print(f"{process:>16} {first / 1e6:11.1f} {last / 1e6:8.1f} {'GREW' if grew else 'flat'}")
    print(f"files left open: {report.files_left()}; blocks, sequences and stream states: none")
    for failure in (*report.failures[:10], *report.failures[10:][-1:]):
        print(f"failed: {failure}")
    print(f"{len(report.failures)} failures · {'PASSED' if report.passed else 'FAILED'}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
