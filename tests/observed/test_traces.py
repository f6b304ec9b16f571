"""OpenTelemetry end to end: one trace from a client's context through front end and Triton into the engine, with the times in order."""

from __future__ import annotations

import json
import secrets
import time

import httpx
import numpy as np
import tritonclient.grpc as grpcclient

from ernie_backend.cli.background import RunningServer
from tests.observed.conftest import chat
from tests.observed.otlp_receiver import OtlpReceiver

INNER = ("preprocess", "queue", "prefill", "decode", "postprocess")


def client_context() -> tuple[str, str, str]:
    """(trace id, span id, traceparent) as a client's own tracing makes them."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, f"00-{trace_id}-{span_id}-01"


def test_one_trace_from_the_client_into_the_engine(client: httpx.Client, receiver: OtlpReceiver) -> None:
    trace_id, span_id, traceparent = client_context()
    before = time.time_ns()
    answer = client.post("/v1/chat/completions", json=chat(max_tokens=12), headers={"traceparent": traceparent}).json()
    after = time.time_ns()
    spans = receiver.wait_for(trace_id, 6)
    root = spans["POST /v1/chat/completions"]
    assert set(spans) == {root.name, *INNER}
    assert root.parent_id == span_id
    assert {spans[name].parent_id for name in INNER} == {root.span_id}
    assert [spans[name].process for name in (root.name, *INNER)] == ["frontend", "preprocess", "engine", "engine", "engine", "postprocess"]
    assert before <= root.start <= root.end <= after
    for name in INNER:
        assert root.start <= spans[name].start <= spans[name].end <= root.end + 50_000_000, name  # the client may have it a moment earlier
    preprocess, queue, prefill, decode, postprocess = (spans[name] for name in INNER)
    assert preprocess.end <= queue.start + 10_000_000  # its response is made before it is sent, and noted between the two
    near = 1_000_000  # each process holds CLOCK_MONOTONIC against the clock of the day by itself
    assert abs(queue.end - prefill.start) < near and abs(prefill.end - decode.start) < near
    assert postprocess.start >= prefill.end - near and postprocess.end >= decode.end - near
    assert decode.end > decode.start and prefill.end > prefill.start
    assert root.attributes["http.response.status_code"] == 200 and root.attributes["http.route"] == "/v1/chat/completions"
    assert {span.attributes["ernie.request_id"] for span in spans.values()} == {answer["id"]}
    assert root.attributes["gen_ai.usage.output_tokens"] == postprocess.attributes["gen_ai.usage.output_tokens"] == 12
    assert prefill.attributes["gen_ai.usage.input_tokens"] == answer["usage"]["prompt_tokens"]
    assert decode.attributes["gen_ai.response.finish_reasons"] == "length"


def test_each_choice_has_its_engine_spans(client: httpx.Client, receiver: OtlpReceiver) -> None:
    trace_id, _, traceparent = client_context()
    client.post("/v1/chat/completions", json=chat(n=3, temperature=1), headers={"traceparent": traceparent}).raise_for_status()
    spans = receiver.wait_until(trace_id, lambda spans: len(spans) >= 12)
    assert sorted(span.attributes["ernie.choice"] for span in spans if span.name == "decode") == [0, 1, 2]
    assert sum(span.name == "postprocess" for span in spans) == 1


def test_a_refused_request_is_a_failed_span(client: httpx.Client, receiver: OtlpReceiver) -> None:
    trace_id, _, traceparent = client_context()
    answer = client.post("/v1/chat/completions", json=chat(max_tokens=10**6), headers={"traceparent": traceparent})
    assert answer.status_code == 400
    spans = receiver.wait_for(trace_id, 2)
    assert set(spans) == {"POST /v1/chat/completions", "preprocess"}
    assert spans["preprocess"].is_error and not spans["POST /v1/chat/completions"].is_error  # a 4xx is the client's fault


def test_a_client_that_hangs_up_makes_no_failed_span(client: httpx.Client, receiver: OtlpReceiver) -> None:
    trace_id, _, traceparent = client_context()
    body = chat(max_tokens=3000, stream=True)
    with client.stream("POST", "/v1/chat/completions", json=body, headers={"traceparent": traceparent}) as answer:
        next(answer.iter_lines())
    root = receiver.wait_until(trace_id, lambda spans: any(span.name.startswith("POST") for span in spans))
    assert not next(span for span in root if span.name.startswith("POST")).is_error


def test_a_malformed_context_begins_a_trace(server: RunningServer, receiver: OtlpReceiver) -> None:
    """On Triton's own face, whose root is then preprocess's span: what follows hangs below it."""
    before = receiver.trace_ids()
    body = {"text_input": "Hello", "max_tokens": 4, "parameters": {"traceparent": "00-nonsense"}}
    httpx.post(f"{server.triton_url}/v2/models/ernie/generate", json=body, timeout=60).raise_for_status()
    (trace_id,) = receiver.wait_for_another(before)
    spans = receiver.wait_for(trace_id, 5)
    assert set(spans) == set(INNER) and spans["preprocess"].parent_id == ""
    assert {spans[name].parent_id for name in INNER[1:]} == {spans["preprocess"].span_id}


def test_what_is_not_sampled_is_not_sent(client: httpx.Client, receiver: OtlpReceiver) -> None:
    hidden, _, not_sampled = client_context()
    client.post("/v1/chat/completions", json=chat(), headers={"traceparent": not_sampled[:-2] + "00"}).raise_for_status()
    shown, _, sampled = client_context()
    client.post("/v1/chat/completions", json=chat(), headers={"traceparent": sampled}).raise_for_status()
    receiver.wait_for(shown, 6)
    assert not receiver.spans(hidden)


def test_clients_of_triton_itself(server: RunningServer, receiver: OtlpReceiver) -> None:
    """On HTTP the context is a request parameter, on gRPC a header may be it, too."""
    sampling = json.dumps({"ignore_eos": True})
    trace_id, span_id, traceparent = client_context()
    body = {"text_input": "Hello", "max_tokens": 4, "sampling_parameters": sampling, "parameters": {"traceparent": traceparent}}
    httpx.post(f"{server.triton_url}/v2/models/ernie/generate", json=body, timeout=60).raise_for_status()
    over_grpc, grpc_span_id, header = client_context()
    client = grpcclient.InferenceServerClient(server.triton_grpc)
    client.start_stream(lambda result, error: None, headers={"traceparent": header})
    text = grpcclient.InferInput("text_input", [1], "BYTES")
    text.set_data_from_numpy(np.array([b"Hello"], dtype=np.object_))
    client.async_stream_infer("ernie", [text], parameters={"ignore_eos": True, "max_tokens": 4})
    for each, parent in ((trace_id, span_id), (over_grpc, grpc_span_id)):
        spans = receiver.wait_for(each, 5)
        assert set(spans) == set(INNER) and {span.parent_id for span in spans.values()} == {parent}
    client.stop_stream()
    client.close()
