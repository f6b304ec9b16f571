"""The Triton models around the engine, on a fake pb_utils: tensors, codes, and that one request's error touches no other."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ernie_backend.errors import from_wire
from ernie_backend.protocol import GenerateRequest
from ernie_backend.text.tokenizer import Tokenizer
from ernie_backend.triton_adapter.postprocess_model import PostprocessModel
from ernie_backend.triton_adapter.preprocess import RequestInputs
from ernie_backend.triton_adapter.preprocess_model import PreprocessModel
from ernie_backend.triton_adapter.seal import SIGNATURE_LENGTH, Seal, is_same
from tests.fakes.pb_utils import FakePbUtils, InferenceRequest, InferenceResponse, TritonError, TritonModelException, request
from tests.triton_adapter.test_repository import OUTPUTS

ARGS = {"model_repository": "unused", "model_name": "unused"}


@pytest.fixture
def configured(tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "engine.json"
    file.write_text(json.dumps({"model": str(model_folder), "max_model_len": 64}), encoding="utf-8")
    monkeypatch.setenv("ERNIE_CONFIG", str(file))


@pytest.fixture
def pb_utils() -> FakePbUtils:
    return FakePbUtils()


@pytest.fixture
def preprocess(configured: None, pb_utils: FakePbUtils) -> Iterator[PreprocessModel]:
    model = PreprocessModel(pb_utils)
    model.initialize(ARGS)
    yield model
    model.finalize()


@pytest.fixture
def postprocess(configured: None, pb_utils: FakePbUtils) -> Iterator[PostprocessModel]:
    model = PostprocessModel(pb_utils)
    model.initialize(ARGS)
    yield model
    model.finalize()


def refusal(response: InferenceResponse) -> tuple[int, Any]:
    error = response.error()
    assert error is not None and not response.output_tensors()
    return error.code(), from_wire(error.message())


def respond(model: PreprocessModel, requests: list[InferenceRequest]) -> list[InferenceResponse]:
    """Each request's one response, which came with the final flag."""
    assert model.execute(requests) is None
    assert all(each.sender.is_closed and len(each.sender.responses) == 1 for each in requests)
    return [each.sender.responses[0] for each in requests]


class TestPreprocess:
    def test_outputs_for_the_engine(self, preprocess: PreprocessModel, tokenizer: Tokenizer) -> None:
        (response,) = respond(preprocess, [request(text_input="hello", max_tokens=3, stream=True)])
        ids = tuple(response.value("prompt_token_ids"))
        signature, text = response.value("request")[:SIGNATURE_LENGTH], response.value("request")[SIGNATURE_LENGTH:]
        assert is_same(signature, Seal.of_server(ARGS).of_request(text, ids))
        generate = GenerateRequest.from_json(text, ids)
        assert list(ids) == tokenizer.encode_text("hello")
        assert (generate.stream, generate.sampling.max_tokens) == (True, 3)

    def test_each_request_is_answered_by_itself(self, preprocess: PreprocessModel) -> None:
        chat = json.dumps({"messages": [{"role": "user", "content": "x"}]})
        good, also_good = (request(chat=chat, sampling_parameters="{}") for _ in range(2))
        responses = respond(preprocess, [good, request(), request(text_input=b"\xff"), also_good])
        assert [response.error() is None for response in responses] == [True, False, False, True]
        code, error = refusal(responses[2])
        assert (code, error.param) == (TritonError.INVALID_ARG, "text_input")
        assert "not valid UTF-8: invalid start byte at byte 0" in error.message

    def test_parameters_are_read_as_other_backends_do(self, preprocess: PreprocessModel) -> None:
        given = {"temperature": 0, "max_tokens": 3, "stream": True, "triton_enable_empty_final_response": True, "priority": 1}
        (response,) = respond(preprocess, [request(text_input="hello", parameters=given)])
        generate = GenerateRequest.from_json(response.value("request")[SIGNATURE_LENGTH:], ())
        assert generate.stream and generate.sampling.greedy and generate.sampling.max_tokens == 3

    @pytest.mark.parametrize(
        ("parameters", "param"),
        [({"foo": 1}, "foo"), ({"temperature": -1}, "temperature"), ({"stream": 5}, "stream"), ({"top_p": 0.5}, "top_p")],
    )
    def test_parameters_are_never_dropped(self, preprocess: PreprocessModel, parameters: dict[str, Any], param: str) -> None:
        each = request(text_input="a", sampling_parameters='{"top_p": 0.9}', parameters=parameters)
        _, error = refusal(respond(preprocess, [each])[0])
        assert (error.param, error.http_status) == (param, 400)

    def test_a_refused_request_is_gone_at_once(self, preprocess: PreprocessModel) -> None:
        """Not with the next round of the garbage collector: long prompts that wait for it leave the process large."""
        gc.collect()
        gc.disable()
        try:
            respond(preprocess, [request(text_input="too long " * 100) for _ in range(3)])
            assert not [each for each in gc.get_objects() if isinstance(each, RequestInputs)]
        finally:
            gc.enable()

    def test_images_are_refused(self, preprocess: PreprocessModel) -> None:
        _, error = refusal(respond(preprocess, [request(text_input="a", image=b"x")])[0])
        assert error.param == "image"

    def test_several_elements_where_one_belongs(self, preprocess: PreprocessModel) -> None:
        _, error = refusal(respond(preprocess, [request(text_input="a", max_tokens=[1, 2])])[0])
        assert error.param == "max_tokens" and "exactly one element, got 2" in error.message

    def test_our_own_fault_says_nothing_of_itself(self, preprocess: PreprocessModel) -> None:
        broken = request(text_input="a")
        broken.tensors.append(object())  # type: ignore[arg-type]
        responses = respond(preprocess, [broken, request(text_input="a")])
        code, error = refusal(responses[0])
        assert (code, error.http_status) == (TritonError.INTERNAL, 500)
        assert "attribute" not in error.message
        assert responses[1].error() is None

    def test_a_model_that_cannot_load_says_why(self, pb_utils: FakePbUtils, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = tmp_path / "engine.json"
        file.write_text(json.dumps({"model": str(tmp_path / "missing")}), encoding="utf-8")
        monkeypatch.setenv("ERNIE_CONFIG", str(file))
        for kind in (PreprocessModel, PostprocessModel):
            model = kind(pb_utils)
            with pytest.raises(TritonModelException, match="missing"):
                model.initialize(ARGS)
            model.finalize()


class TestPostprocess:
    def event(self, **changed: Any) -> str:
        fields = {
            "key": "k" * 32,
            "index": 1,
            "finish_reason": None,
            "cached_tokens": 0,
            "error": None,
            "logprobs": None,
            "final": False,
            "post": {"num_prompt_tokens": 4},
            "relay": "/nonexistent/socket",
        }
        event = {**fields, **changed}
        if event["post"] is not None:
            event["seal"] = Seal.of_server(ARGS).of_first_response(event["key"], event["relay"], event["post"])
        return json.dumps(event)

    def test_all_outputs_of_the_signature(self, postprocess: PostprocessModel, tokenizer: Tokenizer) -> None:
        ids = tokenizer.encode_text("hello")
        (response,) = postprocess.execute([request(event=self.event(), new_token_ids=ids)])
        assert {tensor.name() for tensor in response.output_tensors()} == set(OUTPUTS)
        assert (response.value("text_output"), response.value("token_ids"), response.value("index")) == ("hello", ids, [1])
        assert json.loads(response.value("usage"))["prompt_tokens"] == 4

    def test_an_empty_response_and_a_broken_one(self, postprocess: PostprocessModel) -> None:
        empty, broken = postprocess.execute([request(event=self.event(), new_token_ids=[]), request(event=b"\xff", new_token_ids=[])])
        assert empty.value("token_ids") == [] and empty.value("finish_reason") == ""
        assert broken.error() is None, "post never raises: a raised error would leak the server's count of requests in flight"
        assert broken.value("finish_reason") == "error"

    def test_the_gauge_follows_within_a_second_or_so(self, postprocess: PostprocessModel, pb_utils: FakePbUtils) -> None:
        _wait_for(lambda: "ernie_postprocess_streams" in pb_utils.metrics)  # not in `initialize`
        gauge = pb_utils.metrics["ernie_postprocess_streams"]
        assert gauge.values == [], "it is 0 from the start"
        postprocess.execute([request(event=self.event(), new_token_ids=[])])
        _wait_for(lambda: gauge.values == [1])
        postprocess.execute([request(event=self.event(final=True, finish_reason="stop", post=None), new_token_ids=[])])
        _wait_for(lambda: gauge.values == [1, 0])


def _wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
