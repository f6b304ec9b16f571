"""`ernie-triton perf`: NVIDIA's perf_analyzer against both faces, with inputs it accepts; measures nothing itself."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from ..errors import ConfigError
from ..flag_parsing import integer
from .background import running_server

_PROMPT = "Tell me about the history of the Yangtze river and the cities that lie on its banks."


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("perf", help="load the server with NVIDIA's perf_analyzer", allow_abbrev=False)
    parser.add_argument("--url", metavar="HOST:PORT", help="Triton's gRPC address of a running server: measure the KServe face")
    parser.add_argument("--openai-url", metavar="HOST:PORT", help="front end of a running server: measure the OpenAI face")
    parser.add_argument("--api-key", metavar="KEY", help="of the front end")
    parser.add_argument("--model", metavar="DIR", help="serve this model folder for the measurement, of both faces")
    parser.add_argument(
        "--perf-analyzer", metavar="PATH", help="the program (default: the one in .venv-perf, which `make perf` makes, else on PATH)"
    )
    parser.add_argument("--concurrency-range", default="1:8:7", metavar="FIRST:LAST:STEP", help="streams at once (default: %(default)s)")
    parser.add_argument("--max-tokens", type=integer, default=32, help="length of every answer (default: %(default)s)")
    parser.add_argument("--prompt", default=_PROMPT, help="the prompt of every request")
    parser.add_argument("--measurement-interval-ms", type=integer, default=5000, help="perf_analyzer's window (default: %(default)s)")
    stability = "three windows within this range count as stable (default: %(default)s; a machine that serves and measures is noisy)"
    parser.add_argument("--stability-percent", type=integer, default=50, help=stability)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """perf_analyzer's tables on standard output; its exit status, the first that is not 0."""
    running = args.url or args.openai_url
    if bool(running) == bool(args.model):
        raise ConfigError("Give --model DIR, or --url or --openai-url (or both) of a running server.", param="url")
    program, environment = find_perf_analyzer(args.perf_analyzer)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ernie-perf-")))
        grpc, openai = args.url, args.openai_url
        if not running:
            server = stack.enter_context(running_server(args.model))
            grpc, openai = server.triton_grpc, server.openai_url.partition("://")[2]
        window = ["--stability-percentage", str(args.stability_percent), "--concurrency-range", args.concurrency_range]
        window += ["--measurement-interval", str(args.measurement_interval_ms)]
        status = 0
        for face, url, data, flags in (
            ("KServe (Triton, gRPC)", grpc, input_data(args.prompt, args.max_tokens), _KSERVE_FLAGS),
            ("OpenAI (front end, HTTP)", openai, openai_input_data(args.prompt, args.max_tokens), _openai_flags(args.api_key)),
        ):
            if url and not status:
                file = folder / "inputs.json"
                file.write_text(data, encoding="utf-8")
                print(f"== {face}, {url}", flush=True)
                command = [str(program), "-u", url, "--input-data", str(file), *flags, *window]
                status = subprocess.run(command, env=environment, check=False).returncode
        return status


_KSERVE_FLAGS = ["-m", "ernie", "-i", "grpc", "--streaming"]


def _openai_flags(api_key: str | None) -> list[str]:
    """Without --streaming, which is gRPC's; the payload asks for a stream, and a request ends with its last chunk."""
    flags = ["-m", "ernie", "--service-kind", "openai", "--endpoint", "v1/chat/completions", "--async"]
    return flags + (["-H", f"Authorization:Bearer {api_key}"] if api_key else [])


def input_data(prompt: str, max_tokens: int) -> str:
    """One request in perf_analyzer's JSON: every answer has exactly `max_tokens` tokens, so that runs can be compared."""
    sampling = {"max_tokens": max_tokens, "ignore_eos": True, "temperature": 0}
    return json.dumps({"data": [{"text_input": [prompt], "stream": [True], "sampling_parameters": [json.dumps(sampling)]}]})


def openai_input_data(prompt: str, max_tokens: int) -> str:
    """The same request as a body for the OpenAI face."""
    messages = [{"role": "user", "content": prompt}]
    payload = {"model": "default", "messages": messages, "max_tokens": max_tokens, "ignore_eos": True, "temperature": 0, "stream": True}
    return json.dumps({"data": [{"payload": [payload]}]})


def find_perf_analyzer(given: str | None) -> tuple[Path, dict[str, str]]:
    """The program and its environment: the wheel's one needs libcudart, which lies in a wheel beside it."""
    own = Path(__file__).resolve().parents[3] / ".venv-perf" / "bin" / "perf_analyzer"
    candidates = [given] if given else [str(own), shutil.which("perf_analyzer") or ""]
    program = next((Path(path) for path in candidates if path and Path(path).is_file()), None)
    if program is None:
        text = f"No perf_analyzer at {given or str(own)!r}. `make perf` installs it; else give --perf-analyzer PATH."
        raise ConfigError(text, param="perf_analyzer")
    libraries = [str(path) for path in program.parent.parent.glob("lib/python3*/site-packages/nvidia/cuda_runtime/lib")]
    inherited = os.environ.get("LD_LIBRARY_PATH")
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join([*libraries, *([inherited] if inherited else [])])}
    missing = missing_libraries(program, environment)
    if missing:
        raise ConfigError(f"perf_analyzer needs {', '.join(missing)}. Debian and Ubuntu: apt-get install libb64-0d.", param="perf_analyzer")
    return program, environment


def missing_libraries(program: Path, environment: dict[str, str]) -> list[str]:
    """Shared libraries that the loader does not find (ldd says)."""
    answer = subprocess.run(["ldd", str(program)], env=environment, capture_output=True, text=True, check=False)
    return [line.split("=>")[0].strip() for line in answer.stdout.splitlines() if "not found" in line]
