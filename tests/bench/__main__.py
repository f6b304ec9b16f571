"""`make bench`: our whole path (HTTP front end, ensemble, engine) against transformers on this machine's CPU, in one run.

A random checkpoint of the 0.3B shape in bfloat16; prompts of 64 ids, 64 tokens each, greedy. One stream, then eight at once; transformers
answers the same eight one after another (its `generate`, float32 and bfloat16). The two sides take turns and the median of the rounds
counts, so that a noisy neighbour hits both.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.server import running_server

PROMPT_TOKENS = 64
ANSWER_TOKENS = 64
STREAMS = 8


class Peer:
    """The transformers process."""

    def __init__(self, model: Path) -> None:
        command = [sys.executable, "-m", "tests.bench.transformers_peer", str(model)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._read()

    def run(self, dtype: str, prompts: list[list[int]], max_tokens: int = ANSWER_TOKENS) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"dtype": dtype, "prompts": prompts, "max_tokens": max_tokens}) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the transformers process ended")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def ours(url: str, prompts: list[list[int]], max_tokens: int = ANSWER_TOKENS) -> tuple[float, list[int]]:
    """Tokens per second of all prompts at once, streamed over HTTP, and the first answer's ids."""
    answers: list[list[int]] = [[] for _ in prompts]

    def one(i: int) -> None:
        body = {
            "prompt": prompts[i],
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "return_token_ids": True,
        }
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=600) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    for choice in json.loads(line[6:])["choices"]:
                        answers[i].extend(choice.get("completion_token_ids") or [])

    start = time.perf_counter()
    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    assert all(len(answer) == max_tokens for answer in answers), [len(answer) for answer in answers]
    return max_tokens * len(prompts) / seconds, answers[0]


def measure(model: Path, rounds: int) -> dict[str, float]:
    rng = random.Random(0)
    results: dict[str, list[float]] = {}

    def fresh(count: int) -> list[list[int]]:
        """New prompts every time: a prefix hit would flatter us."""
        return [[rng.randrange(1000, 90_000) for _ in range(PROMPT_TOKENS)] for _ in range(count)]

    with running_server(model, max_model_len=512, max_num_seqs=STREAMS) as server:
        peer = Peer(model)
        try:
            for dtype in ("float32", "bfloat16"):  # warm-up of both sides
                peer.run(dtype, fresh(1), 4)
            ours(server.openai_url, fresh(STREAMS), 4)
            for number in range(rounds):
                for streams in (1, STREAMS):
                    prompts = fresh(streams)
                    rates: dict[str, float] = {}
                    rates["ours"], first = ours(server.openai_url, prompts)
                    for dtype in ("bfloat16", "float32"):
                        answer = peer.run(dtype, prompts)
                        rates[dtype] = answer["tokens"] / answer["seconds"]
                    same = sum(a == b for a, b in zip(first, answer["first"], strict=True))
                    shown = ", ".join(f"{name} {rate:.1f} tok/s" for name, rate in rates.items())
                    print(f"round {number + 1}, {streams} streams: {shown}; {same}/{ANSWER_TOKENS} greedy tokens as float32", flush=True)
                    for name, rate in rates.items():
                        results.setdefault(f"{name} {streams}", []).append(rate)
        finally:
            peer.close()
    return {name: statistics.median(values) for name, values in results.items()}


def table(medians: dict[str, float]) -> str:
    lines = [
        "| streams | ernie-triton | transformers float32 | transformers bfloat16 | ratio to the better | goal |",
        "|---|---|---|---|---|---|",
    ]
    for streams, goal in ((1, "≥ 0.8×"), (STREAMS, "≥ 2×")):
        mine, single, half = (medians[f"{name} {streams}"] for name in ("ours", "float32", "bfloat16"))
        ratio = mine / max(single, half)
        lines.append(f"| {streams} | {mine:.1f} tok/s | {single:.1f} tok/s | {half:.1f} tok/s | {ratio:.2f}× | {goal} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path(".cache/models/bench-0.3B"))
    parser.add_argument("--rounds", type=int, default=3, help="one takes about two minutes on two cores")
    arguments = parser.parse_args()
    if not (arguments.model / "config.json").exists():
        command = ["random-checkpoint", "--like", "ERNIE-4.5-0.3B", "--flavour", "pt", "--out", str(arguments.model)]
        subprocess.run([sys.executable, "-m", "ernie_backend.cli", *command], check=True)
    print(table(measure(arguments.model, arguments.rounds)))


if __name__ == "__main__":
    main()
