"""One server that is watched in every way: a model that sees and thinks, two HTTP workers, JSON logs, and spans to a receiver of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ernie_backend.cli.__main__ import main
from ernie_backend.cli.background import RunningServer
from tests.e2e.server import running_server
from tests.e2e.test_media import SIZES
from tests.observed.otlp_receiver import OtlpReceiver

API_KEY = "key-of-the-tests"
HEADERS = {"authorization": f"Bearer {API_KEY}"}
MAX_LOG_LEN = 60


@pytest.fixture(scope="session")
def receiver() -> Iterator[OtlpReceiver]:
    made = OtlpReceiver()
    yield made
    made.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, receiver: OtlpReceiver) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("models") / "ernie-vl-observed"
    like = ["--like", "ERNIE-4.5-VL-28B-A3B-Thinking", "--dtype", "float32"]
    assert main(["random-checkpoint", *like, "--out", str(folder), "--set", *SIZES]) == 0
    flags = {
        "workers": 2,
        "log_format": "json",
        "max_log_len": MAX_LOG_LEN,
        "otlp_traces_endpoint": receiver.url,
        "api_key": API_KEY,
        "reasoning_parser": "ernie-45-vl-thinking",
        "tool_call_parser": "ernie-45-vl-thinking",
    }
    with running_server(folder, max_model_len=4096, max_num_seqs=8, **flags) as running:
        yield running
    assert [json.loads(line)["source"] for line in running.log][-1] == "serve", "it has the last word, and that is an object, too"


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.openai_url, headers=HEADERS, timeout=60) as made:
        yield made


def chat(text: str = "Hello", **fields: Any) -> dict[str, Any]:
    """The body of a chat request; greedy, and never ended by the model itself."""
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 8, "temperature": 0, "ignore_eos": True, **fields}


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    """Of a streamed answer, without `[DONE]`."""
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]
