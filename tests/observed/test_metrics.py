"""Metrics end to end, with two HTTP workers: FastDeploy's names and ours, all of them documented; and timings on request."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from ernie_backend.cli.background import RunningServer
from tests.e2e.test_media import CAT, data_url, image
from tests.media.conftest import encoded
from tests.observed.conftest import chat, chunks

DOCUMENT = Path(__file__).parents[2] / "docs" / "METRICS.md"


def read(client: httpx.Client) -> dict[str, float]:
    """Samples by name and labels, as a strict reader sees them."""
    found = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if family.name.startswith(("ernie_", "fastdeploy:")):
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def wait_for(client: httpx.Client, condition: Callable[[dict[str, float]], bool], what: str) -> dict[str, float]:
    """The engine publishes once a second."""
    deadline = time.monotonic() + 15
    while not condition(found := read(client)):
        assert time.monotonic() < deadline, what
        time.sleep(0.2)
    return found


def test_what_a_request_leaves_behind(client: httpx.Client) -> None:
    # of what each of the processes publishes
    last_ones = {"ernie_response_tokens_sum": 14, "ernie_preprocess_seconds_count": 2, "fastdeploy:time_per_output_token_seconds_count": 12}
    wait_for(client, lambda now: now.get("ernie_sequences_running") == now.get("ernie_sequences_waiting") == 0, "idle")
    time.sleep(1.2)
    before = read(client)
    for length in (5, 9):  # all of it thought: the ids that close a thought come at once, and not each after a time
        client.post("/v1/chat/completions", json=chat(max_tokens=length, reasoning_max_tokens=99)).raise_for_status()
    now = wait_for(client, lambda now: all(now[name] == before[name] + by for name, by in last_ones.items()), "two answers are counted")
    grown = {name: now[name] - before.get(name, 0) for name in now}
    assert grown["fastdeploy:requests_number_total"] == grown["fastdeploy:request_success_total"] == 2
    assert grown["ernie_sequences_finished_total{reason=length}"] == 2
    assert grown["fastdeploy:generation_tokens_total"] == grown["ernie_generation_tokens_total"] == 14
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds", "request_prefill_time_seconds",
                 "request_decode_time_seconds", "request_inference_time_seconds", "request_generation_tokens"):  # fmt: skip
        assert grown[f"fastdeploy:{name}_count"] == grown[f"fastdeploy:{name}_bucket{{le=+Inf}}"] == 2, name
    assert grown["fastdeploy:time_per_output_token_seconds_count"] == 14 - 2
    assert grown["fastdeploy:request_generation_tokens_sum"] == 14
    assert grown["fastdeploy:request_generation_tokens_bucket{le=4}"] == 0
    assert grown["fastdeploy:request_generation_tokens_bucket{le=16}"] == 2
    seconds = {
        name: grown[f"fastdeploy:{name}_seconds_sum"] for name in ("request_prefill_time", "request_decode_time", "e2e_request_latency")
    }
    assert seconds["request_prefill_time"] > 0 and seconds["request_decode_time"] > 0
    assert seconds["request_prefill_time"] + seconds["request_decode_time"] < seconds["e2e_request_latency"]
    assert 2 <= grown["ernie_response_tokens_count"] <= 14 and grown["ernie_step_sequences_count"] >= 14


def test_refusals_cancellations_and_media_are_counted(client: httpx.Client) -> None:
    before = wait_for(client, lambda now: "ernie_sequences_running" in now, "the first publication")
    assert client.post("/v1/chat/completions", json=chat(max_tokens=10**6)).status_code == 400
    with client.stream("POST", "/v1/chat/completions", json=chat(stream=True, max_tokens=4000)) as response:
        next(response.iter_lines())
    picture = encoded(CAT)
    looked = chat()
    looked["messages"][0]["content"] = [image(data_url(picture)), {"type": "text", "text": "What is this?"}]
    client.post("/v1/chat/completions", json=looked).raise_for_status()
    expected = {
        "ernie_requests_rejected_total{status=400}": 1,
        "ernie_sequences_finished_total{reason=abort}": 1,
        "ernie_media_bytes_total{kind=image}": len(picture),
        "ernie_media_fetch_seconds_count": 1,
        "ernie_media_decode_seconds_count": 1,
    }
    wait_for(client, lambda now: all(now[name] == before[name] + grown for name, grown in expected.items()), "all are counted")


def test_two_workers_answer_as_one(client: httpx.Client, server: RunningServer) -> None:
    """Each connection may meet the other worker; whichever answers, the counts are those of both."""
    name = "ernie_http_requests_total{route=/v1/models,status=200}"
    before = read(client).get(name, 0)
    for _ in range(12):
        with httpx.Client(headers=client.headers) as fresh:
            fresh.get(f"{server.openai_url}/v1/models").raise_for_status()
    seen = set()
    for _ in range(12):
        with httpx.Client(base_url=server.openai_url, headers=client.headers) as fresh:
            seen.add(read(fresh)[name] - before)
    assert seen == {12}
    assert read(client)["ernie_http_requests_under_way"] == 1, "the one that asks"


def test_every_metric_stands_in_the_document_and_the_other_way_round(client: httpx.Client) -> None:
    client.get("/v1/models")
    text = client.get("/metrics").text
    published = set(re.findall(r"^# TYPE ((?:ernie_|fastdeploy:)\w+) ", text, re.MULTILINE))
    documented = set(re.findall(r"^\| `((?:ernie_|fastdeploy:)\w+)`", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE))
    assert published == documented
    assert all(" histogram" in line for line in text.splitlines() if re.match(r"# TYPE \S*_seconds ", line))


def test_timings_on_request(client: httpx.Client) -> None:
    whole = client.post("/v1/chat/completions", json=chat("Timings, please", timings=True, max_tokens=6)).json()
    timings = whole["timings"]
    assert timings["predicted_n"] == 6 and timings["prompt_n"] + timings["cache_n"] == whole["usage"]["prompt_tokens"]
    parts = [timings[f"{part}_ms"] for part in ("preprocess", "queue", "prompt", "predicted")]
    assert min(parts) > 0 and abs(sum(parts) - timings["total_ms"]) < 0.01
    assert abs(timings["predicted_per_second"] - 5000 / timings["predicted_ms"]) < 1
    streamed = chunks(client.post("/v1/chat/completions", json=chat(timings=True, stream=True, n=2)))
    assert [chunk["timings"]["predicted_n"] for chunk in streamed if "timings" in chunk] == [16], "once, for both choices"
    assert "timings" not in client.post("/v1/completions", json={"prompt": "Hello", "max_tokens": 2}).json()
    refused = client.post("/v1/completions", json={"prompt": "Hello", "timings": "yes"})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "timings"


def test_head(client: httpx.Client) -> None:
    for path in ("/health", "/ping", "/"):
        answer = client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
