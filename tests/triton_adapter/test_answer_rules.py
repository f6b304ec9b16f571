"""What an answer looks like and must keep to: formats by template and flag, closed thoughts, budgets, grammars, and their refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ernie_backend.checkpoint_writer.chat_templates import X1
from ernie_backend.errors import InvalidRequestError
from ernie_backend.protocol import GenerateRequest
from ernie_backend.text.answer_format import AnswerFormat
from ernie_backend.text.tokenizer import Tokenizer
from ernie_backend.text.vl_templates import ERNIE_VL_THINKING
from ernie_backend.triton_adapter.preprocess import RequestInputs
from tests.triton_adapter.conftest import write_model
from tests.triton_adapter.test_preprocess import USER, answered, context, make

TOOLS = [{"type": "function", "function": {"name": "f"}}]
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": TOOLS}}
STRUCTURE = {"begin": "<a>", "schema": {}, "end": "</a>"}
VL_TEMPLATE = (
    "{% for m in messages %}User: {{ m.content }}{% endfor %}\nAssistant: "
    "{% if enable_thinking %}<think>{% else %}<think>\n\n</think>\n\n{% endif %}"
)


@pytest.fixture(scope="module")
def x1(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., GenerateRequest]]:
    """A model that always thinks and knows tools."""
    preprocessor = make(write_model(tmp_path_factory.mktemp("x1"), template=X1), max_model_len=512)
    yield lambda **fields: answered(preprocessor, RequestInputs(**{k: json.dumps(v) if k == "chat" else v for k, v in fields.items()}))
    preprocessor.close()


class TestAnswerFormat:
    def test_a_text_model_has_none(self, model_folder: Path) -> None:
        preprocessor = make(model_folder)
        assert context(answered(preprocessor, RequestInputs(chat=json.dumps({"messages": USER})))).answer_format.is_plain
        preprocessor.close()

    def test_x1(self, x1: Callable[..., GenerateRequest]) -> None:
        answer = context(x1(chat={"messages": USER})).answer_format
        assert answer == AnswerFormat(thought=True, response=True, begins_in="thought", begins_fresh=True)
        assert context(x1(chat={"messages": USER, "tools": TOOLS})).answer_format.calls
        assert not context(x1(chat={"messages": USER, "tools": TOOLS, "tool_choice": "none"})).answer_format.calls
        assert context(x1(chat={"messages": USER, "tools": TOOLS, "parallel_tool_calls": False})).answer_format.one_call
        continued = [*USER, {"role": "assistant", "content": "Once"}]
        answer = context(x1(chat={"messages": continued, "continue_final_message": True})).answer_format
        assert (answer.begins_in, answer.begins_fresh) == ("response", False)
        answer = context(x1(text_input="Once upon")).answer_format
        assert (answer.begins_in, answer.begins_fresh) == ("content", False)

    def test_tools_are_shown_unless_none_may_be_called(self, x1: Callable[..., GenerateRequest], tokenizer: Tokenizer) -> None:
        def shown(**fields: Any) -> bool:
            return "<tool_list>" in tokenizer.decode(x1(chat={"messages": USER, "tools": TOOLS, **fields}).prompt_token_ids)

        assert shown() and shown(tool_choice="auto") and not shown(tool_choice="none")

    @pytest.mark.parametrize("route", [{"enable_thinking": False}, {"chat_template_kwargs": {"options": {"thinking_mode": "close"}}}])
    def test_a_thought_that_the_template_cannot_leave_out_is_closed(
        self, x1: Callable[..., GenerateRequest], tokenizer: Tokenizer, route: dict[str, Any]
    ) -> None:
        request = x1(chat={"messages": USER, **route})
        assert tokenizer.decode(request.prompt_token_ids, skip_special_tokens=False).endswith("assistant\n<think>\n\n</think>\n\n")
        answer = context(request).answer_format
        assert (answer.begins_in, answer.begins_fresh) == ("content", True)

    def test_vl_thinks_unless_told_not_to(self, tmp_path: Path, tokenizer: Tokenizer) -> None:
        preprocessor = make(write_model(tmp_path, template=VL_TEMPLATE))

        def answer(**fields: Any) -> tuple[str, str]:
            request = answered(preprocessor, RequestInputs(chat=json.dumps({"messages": USER, **fields})))
            begin = context(request).answer_format.begins_in
            return begin, tokenizer.decode(request.prompt_token_ids, skip_special_tokens=False).partition("Assistant: ")[2]

        def budget(**sampling: Any) -> int | None:
            inputs = RequestInputs(chat=json.dumps({"messages": USER}), sampling_parameters=json.dumps(sampling))
            return answered(preprocessor, inputs).sampling.reasoning_max_tokens

        assert answer() == answer(enable_thinking=True) == ("thought", "<think>")
        assert [budget(max_tokens=most) for most in (1, 2, 20)] == [1, 1, 16], "four fifths, as FastDeploy"
        assert (budget(max_tokens=20, reasoning_max_tokens=20), budget(max_tokens=20, reasoning_max_tokens=0)) == (20, None)
        sampling = answered(preprocessor, RequestInputs(chat=json.dumps({"messages": USER}))).sampling
        assert sampling.reasoning_max_tokens == sampling.max_tokens * 4 // 5 and sampling.thought_closing_ids
        assert answer(metadata={"enable_thinking": False}) == ("content", "<think>\n\n</think>\n\n")
        with pytest.raises(InvalidRequestError, match="takes no tools"):
            answer(tools=TOOLS)
        preprocessor.close()

    def test_an_answer_that_was_begun_goes_on_as_content(self, tmp_path: Path, tokenizer: Tokenizer) -> None:
        """Its words are no thought, though no marker says so; and no thought is closed behind them."""
        preprocessor = make(write_model(tmp_path, template=ERNIE_VL_THINKING))
        begun = [*USER, {"role": "assistant", "content": "Once"}]
        for fields in ({}, {"enable_thinking": False}):
            chat = json.dumps({"messages": begun, "continue_final_message": True, **fields})
            request = answered(preprocessor, RequestInputs(chat=chat))
            answer = context(request).answer_format
            assert (answer.begins_in, answer.begins_fresh) == ("content", False)
            assert tokenizer.decode(request.prompt_token_ids, skip_special_tokens=False).endswith("\nAssistant: Once")
            assert request.sampling.reasoning_max_tokens is None
        preprocessor.close()

    def test_parsers_by_configuration(self, model_folder: Path) -> None:
        preprocessor = make(model_folder, reasoning_parser="ernie_45-vl", tool_call_parser="none")
        assert context(answered(preprocessor, RequestInputs(chat=json.dumps({"messages": USER})))).answer_format.begins_in == "thought"
        preprocessor.close()


def refused(x1: Callable[..., GenerateRequest], chat: dict[str, Any], **sampling: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        x1(chat={"messages": USER, **chat}, sampling_parameters=json.dumps(sampling))
    return caught.value


class TestWhatAnAnswerMustKeepTo:
    def test_nothing_by_default(self, x1: Callable[..., GenerateRequest]) -> None:
        sampling = x1(chat={"messages": USER, "tools": TOOLS}).sampling
        assert (sampling.grammar, sampling.thought_end_id, sampling.reasoning_max_tokens) == (None, None, None)
        assert x1(chat={"messages": USER}, sampling_parameters='{"response_format": {"type": "text"}}').sampling.grammar is None

    def test_a_budget(self, x1: Callable[..., GenerateRequest], tokenizer: Tokenizer) -> None:
        sampling = x1(chat={"messages": USER}, sampling_parameters='{"reasoning_max_tokens": 5}').sampling
        assert sampling.thought_end_id == tokenizer.token_id("</think>") and sampling.reasoning_max_tokens == 5
        assert list(sampling.thought_closing_ids) == tokenizer.encode_template("\n</think>\n\n")
        off = x1(chat={"messages": USER}, sampling_parameters='{"reasoning_max_tokens": 0}')
        assert tokenizer.decode(off.prompt_token_ids, skip_special_tokens=False).endswith("<think>\n\n</think>\n\n")
        assert off.sampling.reasoning_max_tokens is None

    def test_an_effort_is_a_share_of_the_answer(self, x1: Callable[..., GenerateRequest], tokenizer: Tokenizer) -> None:
        def budget(effort: str, **sampling: Any) -> int | None:
            given = json.dumps({"max_tokens": 100, **sampling})
            return x1(chat={"messages": USER, "reasoning_effort": effort}, sampling_parameters=given).sampling.reasoning_max_tokens

        assert [budget(effort) for effort in ("minimal", "low", "medium", "high", "xhigh", "max")] == [10, 20, 50, 80, 90, 95]
        assert budget("minimal", max_tokens=3) == 1, "a thought has one token at least"
        assert (budget("low", reasoning_max_tokens=70), budget("high", reasoning_max_tokens=0)) == (70, None), "a number goes before"
        sampling = x1(chat={"messages": USER, "reasoning_effort": "low"}, sampling_parameters='{"guided_regex": "a"}').sampling
        assert sampling.thought_closing_ids and sampling.reasoning_max_tokens == sampling.max_tokens // 5 and sampling.grammar
        none = x1(chat={"messages": USER, "reasoning_effort": "none"})
        assert none.prompt_token_ids == x1(chat={"messages": USER, "enable_thinking": False}).prompt_token_ids
        assert none.sampling.reasoning_max_tokens is None
        on = x1(chat={"messages": USER, "reasoning_effort": "none", "enable_thinking": True})
        assert on == replace(x1(chat={"messages": USER}), key=on.key), "what is said of the switch goes before"

    def test_an_effort_says_nothing_to_a_model_that_does_not_think(self, model_folder: Path) -> None:
        preprocessor = make(model_folder)
        chats = ({"messages": USER}, {"messages": USER, "reasoning_effort": "low"})
        plain, told = (answered(preprocessor, RequestInputs(chat=json.dumps(chat))) for chat in chats)
        assert told == replace(plain, key=told.key)
        preprocessor.close()

    def test_a_bound_of_what_follows_the_thought(self, x1: Callable[..., GenerateRequest], tokenizer: Tokenizer) -> None:
        given = json.dumps({"response_max_tokens": 5, "max_tokens": 50})
        sampling = x1(chat={"messages": USER}, sampling_parameters=given).sampling
        assert (sampling.max_tokens, sampling.response_max_tokens, sampling.reasoning_max_tokens) == (50, 5, None)
        assert sampling.thought_end_id == tokenizer.token_id("</think>")
        for off in (
            x1(chat={"messages": USER, "enable_thinking": False}, sampling_parameters=given).sampling,
            x1(text_input="Once upon", sampling_parameters=given).sampling,
        ):
            assert (off.max_tokens, off.response_max_tokens, off.thought_end_id) == (5, None, None)

    def test_a_grammar_waits_for_the_thought(self, x1: Callable[..., GenerateRequest], tokenizer: Tokenizer) -> None:
        guided = json.dumps({"guided_choice": ["a"]})
        request = x1(chat={"messages": USER}, sampling_parameters=guided)
        assert request.sampling.grammar and request.sampling.thought_end_id == tokenizer.token_id("</think>")
        assert GenerateRequest.from_json(request.to_json(), request.prompt_token_ids).sampling == request.sampling
        off = x1(chat={"messages": USER, "enable_thinking": False}, sampling_parameters=guided).sampling
        assert off.grammar and off.thought_end_id is None

    def test_structural_tags(self, x1: Callable[..., GenerateRequest]) -> None:
        """As FastDeploy's documents write them, and as its field of that name."""
        tags = {
            "structures": [{"begin": f"<f={name}>", "schema": {"type": "object"}, "end": "</f>"} for name in "ab"],
            "triggers": ["<f=a>", "<f="],
        }
        given = [{"response_format": {"type": "structural_tag", **tags}}, {"structural_tag": tags}, {"structural_tag": json.dumps(tags)}]
        found = {x1(chat={"messages": USER}, sampling_parameters=json.dumps(fields)).sampling.grammar for fields in given}
        (grammar,) = found
        assert "a>" in str(grammar) and "<f=a>" not in str(grammar), "the shortest trigger is said first"

    def test_a_demanded_call(self, x1: Callable[..., GenerateRequest]) -> None:
        tools = [{"name": "f"}, {"name": "g"}]
        both = x1(chat={"messages": USER, "tools": tools, "tool_choice": "required"})
        assert '"f\\\\\\"' in str(both.sampling.grammar) and '"g\\\\\\"' in str(both.sampling.grammar)
        named = x1(chat={"messages": USER, "tools": tools, "tool_choice": {"type": "function", "function": {"name": "g"}}})
        assert '"f\\\\\\"' not in str(named.sampling.grammar) and '"g\\\\\\"' in str(named.sampling.grammar)
        assert context(named).answer_format.one_call and not context(both).answer_format.one_call

    def test_allowed_tools(self, x1: Callable[..., GenerateRequest]) -> None:
        """All are shown, so that the prompt stays the same; only some are in the grammar, whatever the mode."""
        tools = [{"name": name} for name in "fgh"]

        def asked(mode: str, names: str, **sampling: Any) -> GenerateRequest:
            listed = [{"type": "function", "function": {"name": name}} for name in names]
            choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": listed}}
            chat = {"messages": USER, "tools": tools, "tool_choice": choice}
            return x1(chat=chat, sampling_parameters=json.dumps(sampling))

        def called(request: GenerateRequest) -> list[str]:
            return [name for name in "fgh" if f'"{name}\\\\\\"' in str(request.sampling.grammar)]

        auto, required, plain = asked("auto", "hf"), asked("required", "g"), x1(chat={"messages": USER, "tools": tools})
        assert auto.prompt_token_ids == required.prompt_token_ids == plain.prompt_token_ids
        assert (called(auto), called(required), called(asked("auto", "g", guided_choice=["yes"]))) == (["f", "h"], ["g"], ["g"])
        assert auto.sampling.grammar_field == required.sampling.grammar_field == "tool_choice"
        assert auto.sampling.thought_end_id is not None and "other" in str(auto.sampling.grammar), "free but for its calls"
        assert "other" not in str(required.sampling.grammar) and not context(required).answer_format.one_call

    @pytest.mark.parametrize(
        ("chat", "sampling", "param", "words"),
        [
            ({}, {"response_format": {"type": "grammar"}}, "response_format.type", "got 'grammar'"),
            ({}, {"response_format": "json_object"}, "response_format", "must be an object"),
            ({}, {"response_format": {"type": "json_schema"}}, "response_format.json_schema", "name and a schema"),
            ({}, {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format.json_schema", "and a schema"),
            (
                {},
                {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": True}}},
                "response_format.json_schema.schema",
                "which is an object, got a boolean",
            ),
            (
                {},
                {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}},
                "response_format.json_schema.schema.type",
                "must be one of",
            ),
            ({}, {"response_format": {"type": "text", "schema": {}}}, "response_format.schema", "no meaning with the type 'text'"),
            ({}, {"response_format": {"type": "json_object", "schema": {}}}, "response_format.schema", "with the type 'json_object'"),
            ({}, {"response_format": {"type": ["text"]}}, "response_format.type", "got a list"),
            (
                {},
                {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "name": 5}}},
                "response_format.json_schema.name",
                "must be a string, got a number",
            ),
            (
                {},
                {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "strict": "yes"}}},
                "response_format.json_schema.strict",
                "true or false",
            ),
            (
                {},
                {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "schemas": {}}}},
                "response_format.json_schema.schemas",
                "Unknown field",
            ),
            ({}, {"structural_tag": {"format": {}}}, "structural_tag.format", "Unknown field"),
            (
                {},
                {"structural_tag": {"triggers": ["<"], "structures": [{**STRUCTURE, "stop": "x"}]}},
                "structural_tag.structures[0].stop",
                "Unknown field",
            ),
            ({}, {"guided_json": "{"}, "guided_json", "not valid JSON"),
            ({}, {"guided_json": '{"minimum": NaN}'}, "guided_json.minimum", "guided_json.minimum is NaN"),
            ({}, {"structural_tag": '{"n": 1, "n": 2}'}, "structural_tag.n", "stands twice in one JSON object of structural_tag."),
            ({}, {"guided_json": "[]"}, "guided_json", "got a list"),
            ({}, {"guided_json": 5}, "guided_json", "must be a JSON Schema"),
            ({}, {"guided_choice": []}, "guided_choice", "1 to 1024 strings"),
            ({}, {"guided_choice": ["a", ""]}, "guided_choice", "not empty"),
            ({}, {"guided_choice": ["a" * 70_000]}, "guided_choice", "characters altogether"),
            ({}, {"structural_tag": "{"}, "structural_tag", "not valid JSON"),
            ({}, {"structural_tag": {"type": ["x"], "triggers": ["<"], "structures": [STRUCTURE]}}, "structural_tag.type", "or left out"),
            ({}, {"structural_tag": []}, "structural_tag", "with structures and triggers"),
            ({}, {"structural_tag": {"structures": [STRUCTURE]}}, "structural_tag.triggers", "list of 1 to 64 strings"),
            ({}, {"structural_tag": {"triggers": ["<"], "structures": []}}, "structural_tag.structures", "list of 1 to 64 objects"),
            ({}, {"structural_tag": {"triggers": [">"], "structures": [STRUCTURE]}}, "structural_tag.structures[0].begin", "triggers"),
            (
                {},
                {"response_format": {"type": "structural_tag", "triggers": ["<"], "structures": [{**STRUCTURE, "end": None}]}},
                "response_format.structures[0]",
                "a begin, a schema and an end",
            ),
            (
                {},
                {"structural_tag": {"triggers": ["<"], "structures": [{**STRUCTURE, "schema": {"type": "x"}}]}},
                "structural_tag.structures[0].schema.type",
                "must be one of",
            ),
            (
                {},
                {"structural_tag": {"triggers": ["<"], "structures": [{**STRUCTURE, "begin": "<" * 2000}]}},
                "structural_tag.structures[0]",
                "1024",
            ),
            ({}, {"guided_regex": ""}, "guided_regex", "1 to 8192"),
            ({}, {"guided_regex": "a" * 9_000}, "guided_regex", "1 to 8192"),
            ({}, {"guided_regex": ["a"]}, "guided_regex", "a regular expression"),
            ({}, {"guided_regex": "["}, "guided_regex", "cannot be followed"),
            ({}, {"guided_regex": "a", "guided_json": {}}, "guided_json", "not guided_regex and guided_json"),
            ({}, {"guided_regex": "a", "response_format": {"type": "json_object"}}, "response_format", "only one kind"),
            ({}, {"guided_regex": "a", "ignore_eos": True}, "ignore_eos", "combined with guided_regex"),
            ({}, {"guided_regex": "a", "bad_words": ["x"]}, "bad_words", "combined with guided_regex"),
            ({}, {"reasoning_max_tokens": -1}, "reasoning_max_tokens", "from 0"),
            ({}, {"response_max_tokens": 0}, "response_max_tokens", "from 1"),
            ({"enable_thinking": False}, {"response_max_tokens": 2, "min_tokens": 3}, "min_tokens", "the 2 tokens"),
            ({"tools": TOOLS, "tool_choice": "required"}, {"guided_regex": "a"}, "guided_regex", "one or the other"),
            ({"tools": TOOLS, "tool_choice": "required"}, {"min_tokens": 2}, "min_tokens", "combined with tool_choice"),
            (
                {"tools": [{"name": "f", "parameters": {"uniqueItems": True}}], "tool_choice": "required"},
                {},
                "tools[0].function.parameters",
                "uniqueItems",
            ),
            ({"tools": TOOLS, "tool_choice": ALLOWED}, {"min_tokens": 2}, "min_tokens", "combined with tool_choice"),
            (
                {"tools": [{"name": "f", "parameters": {"uniqueItems": True}}], "tool_choice": ALLOWED},
                {},
                "tools[0].function.parameters",
                "uniqueItems",
            ),
            (
                {"tools": [{"name": "g"}], "tool_choice": ALLOWED},
                {},
                "tool_choice.allowed_tools.tools[0].function.name",
                "The tools are: g",
            ),
            ({"parallel_tool_calls": "no"}, {}, "parallel_tool_calls", "true or false"),
        ],
    )
    def test_refused(
        self, x1: Callable[..., GenerateRequest], chat: dict[str, Any], sampling: dict[str, Any], param: str, words: str
    ) -> None:
        error = refused(x1, chat, **sampling)
        assert error.param == param and words in error.message

    def test_nulls_say_nothing_in_a_format(self, x1: Callable[..., GenerateRequest]) -> None:
        plain = {"type": "text", "json_schema": None}
        assert x1(chat={"messages": USER}, sampling_parameters=json.dumps({"response_format": plain})).sampling.grammar is None
        named = {"type": "json_schema", "json_schema": {"name": None, "strict": None, "description": None, "schema": {"const": 1}}}
        named["json_schema"] |= {"any": None}
        tags = {"structures": [{**STRUCTURE, "any": None}], "triggers": ["<a"], "json_schema": None, "any": None}
        wishes = ({"response_format": named}, {"structural_tag": tags}, {"response_format": tags | {"type": "structural_tag"}})
        for wish in wishes:
            assert x1(chat={"messages": USER}, sampling_parameters=json.dumps(wish)).sampling.grammar

    def test_a_schema_without_end_is_a_fault_where_a_grammar_holds_an_answer_to_it(self, x1: Callable[..., GenerateRequest]) -> None:
        """Else it is shown to the model and no more."""
        endless = {"properties": {"a": {"$ref": "#"}}, "required": ["a"]}
        chat = {"messages": USER, "tools": [{"name": "f"}, {"name": "g", "parameters": endless}]}
        named = {"type": "function", "function": {"name": "g"}}
        assert x1(chat=chat).sampling.grammar is None
        assert x1(chat=chat | {"tool_choice": ALLOWED}).sampling.grammar, "g cannot be called"
        for demanded in (
            {"chat": chat | {"tool_choice": "required"}},
            {"chat": chat | {"tool_choice": named}},
            {"chat": chat | {"tool_choice": {**ALLOWED, "allowed_tools": {"mode": "auto", "tools": [named]}}}},
            {"chat": chat, "sampling_parameters": '{"guided_choice": ["yes"]}'},
        ):
            with pytest.raises(InvalidRequestError, match="can never be fulfilled") as caught:
                x1(**demanded)
            assert caught.value.param == "tools[1].function.parameters"

    def test_an_unusual_schema_is_no_fault_where_nothing_is_demanded(self, x1: Callable[..., GenerateRequest]) -> None:
        assert x1(chat={"messages": USER, "tools": [{"name": "f", "parameters": {"uniqueItems": True}}]}).sampling.grammar is None


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"sampling_parameters": '{"guided_regex": "a+"}'}, "guided_regex"),
        ({"sampling_parameters": '{"response_format": {"type": "json_object"}}'}, "response_format"),
    ],
)
def test_a_grammar_knows_the_field_that_it_comes_from(x1: Callable[..., GenerateRequest], fields: dict[str, str], place: str) -> None:
    sampling = x1(chat={"messages": USER}, **fields).sampling
    assert sampling.grammar is not None and sampling.grammar_field == place
    required = x1(chat={"messages": USER, "tools": TOOLS, "tool_choice": "required"}).sampling
    assert required.grammar_field == "tool_choice"
