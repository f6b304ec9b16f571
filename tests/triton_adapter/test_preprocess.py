"""From inputs to a request: defaults, precedence, and every bad input refused by its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ernie_backend.config import EngineConfig, ModelConfig
from ernie_backend.errors import CheckpointError, ConfigError, ContextLengthError, InvalidRequestError
from ernie_backend.protocol import GenerateRequest
from ernie_backend.text.tokenizer import Tokenizer
from ernie_backend.triton_adapter.post_context import PostContext
from ernie_backend.triton_adapter.preprocess import Preprocessor, RequestInputs
from tests.triton_adapter.conftest import VOCAB_SIZE, write_model

MAX_MODEL_LEN = 64
USER = [{"role": "user", "content": "hi"}]
Process = Callable[..., GenerateRequest]


def make(folder: Path, **settings: Any) -> Preprocessor:
    return Preprocessor(EngineConfig(model=str(folder), **{"max_model_len": MAX_MODEL_LEN, **settings}), ModelConfig.from_folder(folder))


def answered(preprocessor: Preprocessor, inputs: RequestInputs) -> GenerateRequest:
    """Without images and videos."""
    prepared = preprocessor.compile(preprocessor.prepare(inputs))
    assert prepared.is_complete
    return preprocessor.finish(prepared)


@pytest.fixture(scope="module")
def preprocessor(model_folder: Path) -> Iterator[Preprocessor]:
    made = make(model_folder)
    yield made
    made.close()


@pytest.fixture
def process(preprocessor: Preprocessor) -> Process:
    """Inputs as plain values; `chat` and `sampling` as objects."""

    def run(chat: Any = None, sampling: Any = None, **inputs: Any) -> GenerateRequest:
        if chat is not None:
            inputs["chat"] = json.dumps(chat)
        if sampling is not None:
            inputs["sampling_parameters"] = json.dumps(sampling)
        return answered(preprocessor, RequestInputs(**inputs))

    return run


def context(request: GenerateRequest) -> PostContext:
    """As postprocess gets it: through JSON."""
    return PostContext.from_json_object(json.loads(request.to_json())["post"])


class TestPrompts:
    def test_chat(self, process: Process, tokenizer: Tokenizer) -> None:
        request = process({"messages": USER})
        assert list(request.prompt_token_ids) == tokenizer.encode_template("<|begin_of_sentence|>User: hi\nAssistant: ")
        assert request.stream is False and request.n == 1

    def test_a_typed_marker_stays_text(self, process: Process, tokenizer: Tokenizer) -> None:
        request = process({"messages": [{"role": "user", "content": "<|end_of_sentence|></s>"}]})
        assert [token for token in request.prompt_token_ids if tokenizer.is_special(token)] == [tokenizer.token_id("<|begin_of_sentence|>")]

    def test_a_raw_prompt_may_hold_markers(self, process: Process, tokenizer: Tokenizer) -> None:
        expected = tuple(tokenizer.encode_template("<|begin_of_sentence|>User: x</s>"))
        assert expected[0] == tokenizer.token_id("<|begin_of_sentence|>")
        assert process(text_input="<|begin_of_sentence|>User: x</s>").prompt_token_ids == expected
        raw = [{"role": "user", "content": "<|begin_of_sentence|>User: x</s>"}]
        assert process({"messages": raw, "disable_chat_template": True}).prompt_token_ids == expected

    def test_ids(self, process: Process) -> None:
        for chat in ({"prompt_token_ids": [5, 6]}, {"messages": [5, 6]}, {"messages": [], "prompt_token_ids": [5, 6]}):
            assert process(chat).prompt_token_ids == (5, 6)

    def test_messages_beside_ids_are_not_read(self, process: Process) -> None:
        """As in FastDeploy. Clients that render themselves send both."""
        for messages in (USER, [{"role": "tool", "content": "x"}], [{"role": "user", "content": [{"type": "text", "text": "x"}]}, {}]):
            assert process({"messages": messages, "prompt_token_ids": [5, 6]}).prompt_token_ids == (5, 6)

    @pytest.mark.parametrize(
        ("fields", "param", "words"),
        [
            ({"messages": "hi"}, "messages", "must be a list of messages, got a string"),
            ({"messages": [{}, "hi"]}, "messages[1]", "must be an object"),
            ({"messages": [5, 6]}, "messages", "both hold token ids"),
            ({"messages": [{"content": ["x", {"type": "image_url", "image_url": "u"}]}]}, "messages[0].content[1]", "brings no images"),
            ({"messages": [{"content": [{"type": "video_url"}]}]}, "messages[0].content[0]", "brings no images"),
            ({"disable_chat_template": "maybe"}, "disable_chat_template", "true or false"),
            ({"continue_final_message": 1}, "continue_final_message", "true or false"),
            ({"add_generation_prompt": []}, "add_generation_prompt", "true or false"),
            ({"mm_processor_kwargs": {"video_fps": 1}}, "mm_processor_kwargs", "takes no images"),
        ],
    )
    def test_but_what_stands_beside_ids_is_checked(self, process: Process, fields: dict[str, Any], param: str, words: str) -> None:
        with pytest.raises(InvalidRequestError, match=words) as caught:
            process({"prompt_token_ids": [5, 6], **fields})
        assert caught.value.param == param

    def test_generation_prompt_and_continuation(self, process: Process, tokenizer: Tokenizer) -> None:
        messages = [*USER, {"role": "assistant", "content": "yes"}]
        without = process({"messages": messages, "add_generation_prompt": False})
        assert list(without.prompt_token_ids) == tokenizer.encode_template(
            "<|begin_of_sentence|>User: hi\nAssistant: yes<|end_of_sentence|>"
        )
        continued = process({"messages": messages, "continue_final_message": True})
        assert list(continued.prompt_token_ids) == tokenizer.encode_template("<|begin_of_sentence|>User: hi\nAssistant: yes")

    def test_every_key_is_new(self, process: Process) -> None:
        keys = {process(text_input="a").key for _ in range(3)}
        assert len(keys) == 3 and all(len(key) == 32 for key in keys)

    def test_survives_the_way_to_the_engine(self, process: Process) -> None:
        request = process(
            {"messages": USER}, {"stop": ["x"], "logit_bias": {"5": 1}, "bad_words": ["no"], "n": 2, "return_token_ids": True}
        )
        assert GenerateRequest.from_json(request.to_json(), request.prompt_token_ids).sampling == request.sampling
        assert context(request).prompt_token_ids == request.prompt_token_ids

    @pytest.mark.parametrize(("given", "streamed"), [(None, False), (False, False), (True, True)])
    def test_postprocess_hears_whether_it_is_streamed(self, process: Process, given: bool | None, streamed: bool) -> None:
        request = process(text_input="hello", stream=given)
        assert request.stream is context(request).streamed is streamed


class TestSampling:
    def test_fastdeploys_defaults_and_the_rest_of_the_context(self, process: Process) -> None:
        request = process(text_input="hello")
        sampling = request.sampling
        assert (sampling.temperature, sampling.top_p, sampling.repetition_penalty) == (1.0, 0.7, 1.0)
        assert sampling.max_tokens == MAX_MODEL_LEN - len(request.prompt_token_ids)

    def test_min_tokens_hold_for_stop_strings_too(self, process: Process) -> None:
        request = process(text_input="a", sampling={"stop": ["x"], "min_tokens": 3, "max_tokens": 9})
        assert (request.sampling.min_tokens, context(request).min_tokens) == (3, 3)

    def test_ends(self, process: Process, tokenizer: Tokenizer) -> None:
        named = [tokenizer.token_id(name) or 0 for name in ("</s>", "<|end_of_sentence|>", "<|im_end|>")]
        assert process(text_input="a").sampling.eos_token_ids == tuple(sorted(named))
        assert process(text_input="a", sampling={"ignore_eos": True}).sampling.eos_token_ids == ()
        assert set(context(process(text_input="a", sampling={"stop_token_ids": [7]})).end_token_ids) > {7, 2}

    def test_the_input_wins_over_the_parameters(self, process: Process) -> None:
        for name in ("max_tokens", "max_completion_tokens"):
            assert process(text_input="a", max_tokens=3, sampling={name: 5}).sampling.max_tokens == 3

    def test_numbers_may_be_strings_and_null_is_not_given(self, process: Process) -> None:
        sampling = process(text_input="a", sampling={"temperature": "0.5", "max_tokens": "7", "top_p": None}).sampling
        assert (sampling.temperature, sampling.max_tokens, sampling.top_p) == (0.5, 7, 0.7)

    def test_bad_words_with_and_without_a_space(self, process: Process, tokenizer: Tokenizer) -> None:
        banned = process(
            text_input="a", sampling={"bad_words": [" introduce yourself"], "bad_words_token_ids": [9]}
        ).sampling.bad_words_token_ids
        forms = [tuple(tokenizer.encode_text(form)) for form in ("introduce yourself", " introduce yourself")]
        assert banned == ((9,), *forms) and len(forms[0]) > 1, "words of several tokens are honoured"

    def test_n_beyond_the_batch_is_fine(self, process: Process) -> None:
        assert process(text_input="a", sampling={"n": 100}).n == 100


class TestEcho:
    @pytest.mark.parametrize("how", [{"exclude_input_in_output": False}, {"sampling": {"echo": True}}])
    def test_the_prompt_as_the_user_reads_it(self, process: Process, how: dict[str, Any]) -> None:
        assert context(process(text_input="<s>abc", **how)).echo == "<s>abc"
        chat = {"messages": [{"role": "user", "content": "</s>"}]}
        assert context(process(chat, **how)).echo == "<|begin_of_sentence|>User: </s>\nAssistant: "

    def test_ids_are_decoded(self, process: Process, tokenizer: Tokenizer) -> None:
        ids = tokenizer.encode_template("hello</s>")
        assert context(process({"prompt_token_ids": ids}, {"echo": True})).echo == "hello"

    def test_off_by_default(self, process: Process) -> None:
        assert context(process(text_input="abc", exclude_input_in_output=True)).echo == ""


class TestBadInput:
    @pytest.mark.parametrize(
        ("inputs", "param", "words"),
        [
            ({}, "text_input", "got neither"),
            ({"text_input": "a", "chat": {}}, "text_input", "got both"),
            ({"text_input": ""}, "text_input", "prompt is empty"),
            ({"text_input": "a", "image": ("AAAA",)}, "image", "takes no images"),
            ({"chat": {}}, "messages", "messages is missing"),
            ({"chat": {"messages": []}}, "messages", "empty list"),
            ({"chat": {"messages": USER, "temperature": 1}}, "temperature", "Unknown field 'temperature' in chat"),
            ({"chat": {"messages": USER, "chat_template": "x"}}, "chat_template", "cannot be given per request"),
            ({"chat": {"messages": USER, "tools": [{"name": "f"}]}}, "tools", "takes no tools"),
            ({"chat": {"messages": USER, "tool_choice": {"type": "function"}}}, "tool_choice", "must be auto"),
            ({"chat": {"messages": USER, "mm_processor_kwargs": {"fps": 1}}}, "mm_processor_kwargs", "takes no images"),
            ({"chat": {"messages": USER, "chat_template_kwargs": [1]}}, "chat_template_kwargs", "must be an object"),
            ({"chat": {"messages": USER, "enable_thinking": "maybe"}}, "enable_thinking", 'must be true or false, got "maybe"'),
            (
                {"chat": {"messages": USER, "reasoning_effort": "most"}},
                "reasoning_effort",
                "one of none, minimal, low, medium, high, xhigh, max, got",
            ),
            ({"chat": {"messages": USER, "reasoning_effort": {}}}, "reasoning_effort", "got an object"),
            ({"chat": {"messages": USER * 2, "disable_chat_template": True}}, "messages", "give one message"),
            ({"chat": {"prompt_token_ids": []}}, "prompt_token_ids", "must not be empty"),
            ({"chat": {"prompt_token_ids": "5"}}, "prompt_token_ids", "must be a list"),
            ({"chat": {"prompt_token_ids": [5, "6"]}}, "prompt_token_ids[1]", "must be an integer"),
            ({"chat": {"prompt_token_ids": [5, VOCAB_SIZE]}}, "prompt_token_ids[1]", f"outside the vocabulary (0 to {VOCAB_SIZE - 1})"),
            ({"text_input": "a", "sampling": {"temprature": 1}}, "temprature", "Unknown sampling field"),
            ({"text_input": "a", "sampling": {"temperature": -1}}, "temperature", "from 0"),
            ({"text_input": "a", "sampling": {"stop_token_ids": [VOCAB_SIZE]}}, "stop_token_ids", "outside the vocabulary"),
            ({"text_input": "a", "sampling": {"logit_bias": {str(VOCAB_SIZE): 1}}}, "logit_bias", "outside the vocabulary"),
            ({"text_input": "a", "sampling": {"bad_words_token_ids": [VOCAB_SIZE]}}, "bad_words_token_ids", "outside the vocabulary"),
            ({"text_input": "a", "sampling": {"min_tokens": MAX_MODEL_LEN}}, "min_tokens", "must not exceed the 63 tokens"),
            ({"text_input": "a", "sampling": {"echo": True, "logprobs": 1}}, "echo", "not supported"),
            ({"text_input": "a", "max_tokens": 0}, "max_tokens", "from 1"),
        ],
    )
    def test_the_field_is_named(self, process: Process, inputs: dict[str, Any], param: str, words: str) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            process(**inputs)
        assert (caught.value.param, caught.value.http_status) == (param, 400)
        assert words in caught.value.message

    @pytest.mark.parametrize("name", ["chat", "sampling_parameters"])
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ('{"messages": [', "not valid JSON"),
            ("5", "must be a JSON object, got a number"),
            ('{"a":' * 100_000, "nested too deeply"),
            ('{"seed": ' + "9" * 5000 + "}", "holds a number with too many digits"),
        ],
    )
    def test_what_is_no_json(self, preprocessor: Preprocessor, name: str, text: str, words: str) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            answered(preprocessor, RequestInputs(**{"text_input": "a", name: text} if name != "chat" else {name: text}))
        assert words in caught.value.message
        assert caught.value.param == ("a.a.a.a" if "nested" in words else name)

    @pytest.mark.parametrize("constant", ["NaN", "-Infinity", "1e999"])
    def test_a_constant_that_is_no_number_is_found(self, preprocessor: Preprocessor, constant: str) -> None:
        for name, text, place in (
            ("sampling_parameters", f'{{"seed": 1, "temperature": {constant}}}', "temperature"),
            ("chat", f'{{"chat_template_kwargs": {{"a": [1, {constant}]}}}}', "chat_template_kwargs.a[1]"),
        ):
            with pytest.raises(InvalidRequestError) as caught:
                answered(preprocessor, RequestInputs(**{"text_input": "a", name: text} if name != "chat" else {name: text}))
            assert caught.value.param == place and constant in caught.value.message

    def test_a_field_that_stands_twice(self, preprocessor: Preprocessor) -> None:
        with pytest.raises(InvalidRequestError, match="'seed' stands twice") as caught:
            answered(preprocessor, RequestInputs(text_input="a", sampling_parameters='{"seed": 1, "seed": 2}'))
        assert caught.value.param == "seed"

    @pytest.mark.parametrize(
        ("inputs", "place"),
        [
            ({"chat": {"messages": [{"role": "user", "content": "a\ud800"}]}}, "messages[0].content"),
            ({"chat": {"messages": USER, "chat_template_kwargs": {"\udfff": 1}}}, "chat_template_kwargs"),
            ({"text_input": "a", "sampling": {"stop": ["\ud83d"]}}, "stop[0]"),
        ],
    )
    def test_half_a_character(self, process: Process, inputs: dict[str, Any], place: str) -> None:
        """The one thing that JSON can say and Unicode cannot; the sign that shields markers is made of it."""
        with pytest.raises(InvalidRequestError, match="half of a surrogate pair") as caught:
            process(**inputs)
        assert caught.value.param == place

    def test_a_whole_character_in_escapes_is_fine(self, process: Process, tokenizer: Tokenizer) -> None:
        request = process({"messages": [{"role": "user", "content": "😀"}]})
        assert "😀" in tokenizer.decode(request.prompt_token_ids)

    def test_deep_nesting_within_the_kwargs(self, preprocessor: Preprocessor) -> None:
        chat = '{"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"a": ' + "[" * 900 + "]" * 900 + "}}"
        with pytest.raises(InvalidRequestError, match="nested too deeply") as caught:
            answered(preprocessor, RequestInputs(chat=chat))
        assert caught.value.param == "chat_template_kwargs.a[0][0]"


class TestContextLength:
    def test_a_long_prompt_says_both_numbers(self, process: Process, tokenizer: Tokenizer) -> None:
        text = "1 " * MAX_MODEL_LEN
        with pytest.raises(
            ContextLengthError, match=f"has {len(tokenizer.encode_text(text))} tokens, but this server's context is 64 tokens"
        ):
            process(text_input=text)
        with pytest.raises(ContextLengthError, match="has 64 tokens"):
            process({"prompt_token_ids": [5] * MAX_MODEL_LEN})

    def test_five_megabytes_are_refused_without_being_encoded(self, process: Process) -> None:
        text = "abcde " * 900_000
        for inputs, param in (
            ({"text_input": text}, "text_input"),
            ({"chat": {"messages": [{"role": "user", "content": text}]}}, "messages"),
        ):
            with pytest.raises(ContextLengthError, match=r"has at least \d{6} tokens") as caught:
                process(**inputs)
            assert caught.value.param == param

    def test_max_tokens_that_cannot_fit(self, process: Process) -> None:
        assert process({"prompt_token_ids": [5] * 60}, max_tokens=4).sampling.max_tokens == 4
        with pytest.raises(ContextLengthError, match=r"max_tokens is 5, but the prompt has 60 tokens .* at most 4 are left") as caught:
            process({"prompt_token_ids": [5] * 60}, max_tokens=5)
        assert caught.value.param == "max_tokens"


class TestCheckpointDefaults:
    def defaults(self, folder: Path, given: Any, **settings: Any) -> GenerateRequest:
        (folder / "generation_config.json").write_text(json.dumps(given), encoding="utf-8")
        preprocessor = make(folder, **settings)
        try:
            return answered(preprocessor, RequestInputs(text_input="a", sampling_parameters='{"top_k": 3}'))
        finally:
            preprocessor.close()

    def test_generation_config(self, tmp_path: Path) -> None:
        given = {"temperature": 0.2, "top_p": 0.9, "frequency_penalty": 0.5, "top_k": 50, "eos_token_id": [7, 8], "do_sample": True}
        sampling = self.defaults(write_model(tmp_path), given).sampling
        assert (sampling.temperature, sampling.top_p, sampling.frequency_penalty, sampling.top_k) == (0.2, 0.9, 0.5, 3)
        assert {7, 8, 2} < set(sampling.eos_token_ids)
        ignored = self.defaults(tmp_path, given, generation_config="vllm").sampling
        assert (ignored.temperature, ignored.top_p, ignored.frequency_penalty) == (1.0, 0.7, 0.0)
        assert {7, 8} < set(ignored.eos_token_ids), "where an answer ends is no matter of taste"

    def test_another_folder(self, tmp_path: Path, model_folder: Path) -> None:
        (tmp_path / "generation_config.json").write_text('{"temperature": 0.3}', encoding="utf-8")
        preprocessor = make(model_folder, generation_config=str(tmp_path))
        assert answered(preprocessor, RequestInputs(text_input="a")).sampling.temperature == 0.3
        preprocessor.close()
        with pytest.raises(ConfigError, match="'auto', 'vllm' or a folder"):
            make(model_folder, generation_config=str(tmp_path / "nothing"))

    @pytest.mark.parametrize("given", [{"temperature": -1}, [], {"eos_token_id": VOCAB_SIZE}])
    def test_impossible_values(self, tmp_path: Path, given: Any) -> None:
        with pytest.raises(CheckpointError, match=r"generation_config\.json"):
            self.defaults(write_model(tmp_path), given)

    def test_a_tokenizer_of_another_model(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="do not belong together"):
            make(write_model(tmp_path, vocab_size=VOCAB_SIZE - 1))
