"""Answers read part by part: the golden cases with the choices we made, and that no way of cutting the stream changes anything."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ernie_backend.config import PARSERS
from ernie_backend.text.answer import AnswerDelta, AnswerReader
from ernie_backend.text.answer_format import PLAIN, AnswerFormat, Parsers, choose_parsers
from ernie_backend.text.markers import MARKERS, LastMarker, last_marker
from ernie_backend.text.tokenizer import Tokenizer
from tests.text.conftest import train

VL = Parsers("ernie-45-vl", "none")
VL_THINKING = Parsers("ernie-45-vl-thinking", "ernie-45-vl-thinking")
X1 = Parsers("ernie-x1", "ernie-x1")
BY_NAME = {"vl": VL, "vl-thk": VL_THINKING, "x1": X1}
THINKS, STARTED = LastMarker("<think>", True), LastMarker("</think>", True)


@pytest.fixture(scope="session", params=["all", "some", "none"])
def each(request: pytest.FixtureRequest, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Tokenizers that have all markers, those of the thought, or none: then models spell them."""
    if request.param == "all":
        return tokenizer
    folder = tmp_path_factory.mktemp(f"{request.param}_markers")
    train(folder, user_defined_symbols=["<think>", "</think>", "</s>"] if request.param == "some" else ["</s>"])
    return Tokenizer.from_folder(folder)


Message = tuple[str, str, list[tuple[str, str]]]
"""(reasoning, content, calls as (name, arguments))."""


def format_of(parsers: Parsers, last: LastMarker | None = THINKS, *, calls: bool = True, one_call: bool = False) -> AnswerFormat:
    return parsers.answer_format(last, asks_anew=True, calls=calls, one_call=one_call)


def message(deltas: list[AnswerDelta]) -> Message:
    calls: dict[int, dict[str, Any]] = {}
    for delta in (call for new in deltas for call in new.tool_calls):
        call = calls.setdefault(delta["index"], {"id": delta.get("id"), "name": "", "arguments": ""})
        call["name"] += delta["function"].get("name", "")
        call["arguments"] += delta["function"]["arguments"]
    assert list(calls) == list(range(len(calls))) and len({call["id"] for call in calls.values()}) == len(calls)
    found = [(call["name"], call["arguments"]) for call in calls.values()]
    return "".join(d.reasoning for d in deltas), "".join(d.content for d in deltas), found


def read(tokenizer: Tokenizer, answer: AnswerFormat, ids: list[int], **more: Any) -> Message:
    return message([AnswerReader(tokenizer, answer, **more).push(ids, final=True)[0]])


CITY = ("get_weather", '{"city": "北京"}')
TWO_CALLS = (
    'I need to call two tools.\n</think>\n\n<tool_call>\n{"name": "get_current_temperature", "arguments": {"location": "Beijing"}}\n'
    '</tool_call>\n<tool_call>\n{"name": "get_temperature_unit", "arguments": {"location": "Guangzhou", "unit": "c"}}\n</tool_call>\n'
)
GOLDEN: list[tuple[str, str, Message]] = [
    ("vl", "abc</think>def", ("abc", "def", [])),
    ("vl", "reasoning</think>\nactual response", ("reasoning", "actual response", [])),
    ("vl", "\nr\n\n</think>\n\nc\n", ("r", "c\n", [])),
    ("vl", "a", ("a", "", [])),
    ("vl", "a\n", ("a", "", [])),
    ("vl", "\na\n\n", ("a", "", [])),
    ("vl", "a\n ", ("a\n ", "", [])),
    ("vl", "a\n<", ("a\n<", "", [])),
    ("vl", "r</think>a</think>b<response>c", ("r", "a</think>b<response>c", [])),
    ("vl", "<think>\nr</think>a", ("r", "a", [])),
    ("vl", 'r</think><tool_call>{"name": "f"}</tool_call>', ("r", '<tool_call>{"name": "f"}</tool_call>', [])),
    ("vl-thk", "direct response", ("direct response", "", [])),
    ("vl-thk", "direct response<tool_call>abc", ("direct response<tool_call>abc", "", [])),
    ("vl-thk", "reasoning</think>\n\n  actual response", ("reasoning", "  actual response", [])),
    ("vl-thk", "reasoning</think>\n<tool_call>tool params</tool_call>", ("reasoning", "<tool_call>tool params</tool_call>", [])),
    (
        "vl-thk",
        "reasoning</think>\nABC\n<tool_call>tool params</tool_call>",
        ("reasoning", "ABC\n<tool_call>tool params</tool_call>", []),
    ),
    (
        "vl-thk",
        'r\n</think>\n\n<tool_call>\n{"name": "a", "arguments": {}}\n</tool_call>\n'
        '<tool_call>\n{"name": "b", "arguments": {"x": 1}}\n</tool_call>\n',
        ("r", "", [("a", "{}"), ("b", '{"x": 1}')]),
    ),
    ("x1", "abc\n</think>\n<response>hello\nworld</response>", ("abc", "hello\nworld", [])),
    ("x1", "abc\n</think>\n<response>line1\nline2\n</response>", ("abc", "line1\nline2", [])),
    ("x1", "abc\n</think>\n\n<response>\ndef\n</response>\n", ("abc", "def", [])),
    ("x1", "abc\n</think>\n\n<response>\ndef\n\n\n</response>\n", ("abc", "def\n\n", [])),
    ("x1", "abc</think>", ("abc", "", [])),
    ("x1", "abc", ("abc", "", [])),
    ("x1", "abc</think><response>partial response", ("abc", "partial response", [])),
    ("x1", "abc</think><response>partial response\n", ("abc", "partial response\n", [])),
    ("x1", "abc</think><tool_call>call_here", ("abc", "<tool_call>call_here", [])),
    ("x1", "no_thinking_here", ("no_thinking_here", "", [])),
    ("x1", "a</think>before<response>\nin\n</response>\nafter", ("a", "beforeinafter", [])),
    ("x1", "a</think><response>one</think>two<response>", ("a", "one</think>two<response>", [])),
    (
        "x1",
        'abc\n</think>\n\n\n<tool_call>\n{"name":"get_weather","arguments":{"city":"北京"}}\n</tool_call>\n',
        ("abc", "", [CITY]),
    ),
    (
        "x1",
        TWO_CALLS,
        (
            "I need to call two tools.",
            "",
            [
                ("get_current_temperature", '{"location": "Beijing"}'),
                ("get_temperature_unit", '{"location": "Guangzhou", "unit": "c"}'),
            ],
        ),
    ),
    (
        "x1",
        '</think><response>hello</response><tool_call>{"name": "get_weather", "arguments": {}}</tool_call>',
        ("", "hello", [("get_weather", "{}")]),
    ),
    (
        "x1",
        '</think>abc<tool_call>{"name": "get_weather", "arguments": {"location": "北京"}}</tool_call>\n\nmore',
        ("", "abcmore", [("get_weather", '{"location": "北京"}')]),
    ),
    (
        "x1",
        '</think><tool_call>{"name": "get_weather", "arguments": {"location": "北"</tool_call>',
        ("", '<tool_call>{"name": "get_weather", "arguments": {"location": "北"</tool_call>', []),
    ),
    (
        "x1",
        '</think><tool_call>"name": "get_weather", "arguments": {</tool_call>',
        ("", '<tool_call>"name": "get_weather", "arguments": {</tool_call>', []),
    ),
    # a call without its end, then a whole one; one that names nothing; one whose arguments are a list
    (
        "x1",
        '</think><tool_call>{"name": "a"}\n<tool_call>{"name": "b", "arguments": "{\\"x\\": 1}"}',
        ("", "", [("a", "{}"), ("b", '{"x": 1}')]),
    ),
    (  # arguments by another name: a call without them would be another one
        "x1",
        '</think><tool_call>{"name": "a", "parameters": {"x": 1}}</tool_call>',
        ("", '<tool_call>{"name": "a", "parameters": {"x": 1}}</tool_call>', []),
    ),
    ("x1", '</think><tool_call>{"arguments": {}}</tool_call>', ("", '<tool_call>{"arguments": {}}</tool_call>', [])),
    (
        "x1",
        '</think><tool_call>{"name": "a", "arguments": [1]}</tool_call>b',
        ("", '<tool_call>{"name": "a", "arguments": [1]}</tool_call>b', []),
    ),
    ("x1", '</think><tool_call>{"name": "a", "arguments": {"x": ', ("", '<tool_call>{"name": "a", "arguments": {"x": ', [])),
    ("x1", '</think><tool_call>{"name": "a"</think>b', ("", '<tool_call>{"name": "a"</think>b', [])),
    ("x1", '</think><tool_call>[{"name": "a"}]</tool_call>', ("", '<tool_call>[{"name": "a"}]</tool_call>', [])),
    ("x1", '</think><tool_call>{"name": "a", "arguments": {"x": NaN}}', ("", '<tool_call>{"name": "a", "arguments": {"x": NaN}}', [])),
    ("x1", '</think><tool_call>{"name": "\\ud83d"}', ("", '<tool_call>{"name": "\\ud83d"}', [])),
    # markers, braces and quotes inside a string are data
    (
        "x1",
        '</think><tool_call>{"name": "f", "arguments": {"s": "</think> }} \\" { <tool_call> </tool_call> \\\\"}}</tool_call>\n',
        ("", "", [("f", '{"s": "</think> }} \\" { <tool_call> </tool_call> \\\\"}')]),
    ),
]


@pytest.mark.parametrize(("parser", "output", "expected"), GOLDEN)
def test_golden(each: Tokenizer, parser: str, output: str, expected: Message) -> None:
    assert read(each, format_of(BY_NAME[parser]), each.encode_template(output)) == expected


@pytest.mark.parametrize("parser", sorted(BY_NAME))
def test_newlines_at_the_end_of_a_thought_go_wherever_it_is_cut_off(tokenizer: Tokenizer, parser: str) -> None:
    ids = tokenizer.encode_template("\nThe user\n\nasks\n\n\n</think>\n\nyes")
    for count in range(len(ids) + 1):
        reasoning, _, _ = read(tokenizer, format_of(BY_NAME[parser]), ids[:count])
        assert "The user\n\nasks".startswith(reasoning) and not reasoning.endswith("\n")
    assert reasoning == "The user\n\nasks"


def test_thinking_off(tokenizer: Tokenizer) -> None:
    for parsers in (VL, VL_THINKING, X1):
        answer = format_of(parsers, STARTED)
        assert read(tokenizer, answer, tokenizer.encode_template("a")) == ("", "a", [])
        assert read(tokenizer, answer, tokenizer.encode_template("\na</think>b")) == ("", "a</think>b", [])


def test_deep_and_huge_values_are_text(tokenizer: Tokenizer) -> None:
    for value in ("[" * 5000 + "]" * 5000, "9" * 5000, "1e999"):
        text = f'<tool_call>{{"name": "f", "arguments": {{"x": {value}}}}}'
        assert read(tokenizer, format_of(X1, STARTED), tokenizer.encode_template(text)) == ("", text, [])


def test_the_model_spells_a_marker(tokenizer: Tokenizer) -> None:
    """Where the vocabulary has markers, only they count."""
    ids = [*tokenizer.encode_text("a</think>b"), *tokenizer.encode_template("</think>"), *tokenizer.encode_text("<tool_call>{}")]
    assert read(tokenizer, format_of(X1), ids) == ("a</think>b", "<tool_call>{}", [])


def test_without_tools_a_call_is_text(tokenizer: Tokenizer) -> None:
    output = '</think><tool_call>{"name": "f", "arguments": {}}</tool_call>'
    ids = tokenizer.encode_template(output)
    assert read(tokenizer, format_of(X1, calls=False), ids) == ("", output.removeprefix("</think>"), [])


def test_special_tokens_that_are_no_markers(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_template("a<mask:1></think>b<mask:1></s>c")
    assert read(tokenizer, format_of(VL), ids) == ("a", "bc", [])
    assert read(tokenizer, format_of(VL), ids, skip_special_tokens=False) == ("a<mask:1>", "b<mask:1></s>c", [])


def test_one_call_ends_the_answer(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_template('</think>ST<tool_call>{"name": "a"}</tool_call><tool_call>{"name": "b"}</tool_call>')
    reader = AnswerReader(tokenizer, format_of(X1, one_call=True), stop=("STOP",))
    delta, used = reader.push(ids)
    assert message([delta]) == ("", "ST", [("a", "{}")]) and reader.stopped
    assert tokenizer.decode(ids[:used], skip_special_tokens=False).endswith('{"name": "a"}')
    assert reader.push(ids, final=True) == (AnswerDelta(), 0)


@pytest.mark.parametrize("calls", [False, True])
def test_no_stop_string_counts_before_min_tokens(tokenizer: Tokenizer, calls: bool) -> None:
    each = [*tokenizer.encode_text("one STOP two STOP three STOP")]
    texts = [tokenizer.decode(each[: i + 1]) for i in range(len(each))]
    ends = [next(i for i, text in enumerate(texts, 1) if text.count("STOP") == count) for count in (1, 2, 3)]
    answer = format_of(X1, STARTED) if calls else PLAIN
    for min_tokens, shown, used in (
        (0, "one ", ends[0]),
        (ends[0], "one ", ends[0]),
        (ends[0] + 1, "one STOP two ", ends[1]),
        (ends[2] + 1, "one STOP two STOP three STOP", len(each)),
    ):
        for size in (1, len(each)):
            reader = AnswerReader(tokenizer, answer, stop=("STOP",), min_tokens=min_tokens)
            said, count = "", 0
            for at in range(0, len(each), size):
                delta, counted = reader.push(each[at : at + size], final=at + size >= len(each))
                said, count = said + delta.content, count + counted
                if reader.stopped:
                    break
            assert (said, count) == (shown, used)


def test_a_stop_string_in_a_call_that_breaks_off_counts_from_there(tokenizer: Tokenizer) -> None:
    """`min_tokens` is asked when it is shown."""
    ids = tokenizer.encode_template("</think>x <tool_call>{bad STOP more and more words")
    for min_tokens, shown, stopped in (
        (len(ids), "x <tool_call>{bad ", True),
        (len(ids) + 1, "x <tool_call>{bad STOP more and more words", False),
    ):
        reader = AnswerReader(tokenizer, format_of(X1), stop=("STOP",), min_tokens=min_tokens)
        delta, _ = reader.push(ids, final=True)
        assert (delta.content, reader.stopped) == (shown, stopped)


def test_stop_strings_are_looked_for_in_the_content(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_template("a STOP b\n</think>\n\n<response>\nc STOP d")
    assert read(tokenizer, format_of(X1), ids, stop=("STOP",)) == ("a STOP b", "c ", [])
    assert read(tokenizer, format_of(X1), ids, stop=("STOP",), include_stop=True) == ("a STOP b", "c STOP", [])


def test_reasoning_tokens_count_the_end_marker(tokenizer: Tokenizer) -> None:
    thought = tokenizer.encode_template("\nhm hm\n</think>")
    reader = AnswerReader(tokenizer, format_of(VL))
    reader.push([*thought, *tokenizer.encode_template("\n\nyes </think>")], final=True)
    assert reader.reasoning_tokens == len(thought)


FRAGMENTS = (
    *MARKERS,
    *("\n", "\n\n", " ", "a", "你好 😀", "</s>", "<", "</th", "ink>", "<tool_", "call>", "STOP", "ST", "OP"),
    *('{"name": "f", "arguments": {}}', '{"name": "f", "arguments": {"s": "', '"}}', "}}", '\\"', '"', "{", "}", '{"name": ', '"g"}'),
)


@settings(deadline=None, max_examples=400)
@given(
    fragments=st.lists(st.sampled_from(FRAGMENTS), max_size=14),
    data=st.data(),
    parser=st.sampled_from(sorted(BY_NAME)),
    last=st.sampled_from([None, THINKS, STARTED, LastMarker("<response>", False)]),
    calls=st.booleans(),
    one_call=st.booleans(),
    stop=st.sampled_from([(), ("STOP",), ("\na", "}")]),
)
def test_every_split_says_the_same(
    each: Tokenizer,
    fragments: list[str],
    data: st.DataObject,
    parser: str,
    last: LastMarker | None,
    calls: bool,
    one_call: bool,
    stop: tuple[str, ...],
) -> None:
    answer = format_of(BY_NAME[parser], last, calls=calls, one_call=one_call)
    ids = [token for fragment in fragments for token in each.encode_template(fragment)]
    whole = AnswerReader(each, answer, stop=stop)
    expected, used = whole.push(ids, final=True)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(ids)), max_size=6)))
    reader = AnswerReader(each, answer, stop=stop)
    pushed = [reader.push(ids[i:j]) for i, j in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    pushed.append(reader.push([], final=True))
    assert message([delta for delta, _ in pushed]) == message([expected])
    assert sum(count for _, count in pushed) == used
    assert (reader.stopped, reader.reasoning_tokens, reader.num_calls) == (whole.stopped, whole.reasoning_tokens, whole.num_calls)


@settings(deadline=None, max_examples=200)
@given(fragments=st.lists(st.sampled_from(FRAGMENTS), max_size=14), parser=st.sampled_from(sorted(BY_NAME)))
@example(fragments=["</th", "</think>", "ink>"], parser="vl")
def test_nothing_is_lost(tokenizer: Tokenizer, fragments: list[str], parser: str) -> None:
    """Where no call is well-formed, only markers are missing from what is shown."""
    text = "".join(fragment for fragment in fragments if fragment.strip() and "\n" not in fragment and fragment != "</s>")
    reasoning, content, calls = read(tokenizer, format_of(BY_NAME[parser]), tokenizer.encode_template(text))
    if not calls:
        assert without_markers(reasoning + content) == without_markers(text)


def without_markers(text: str) -> str:
    """Those too that come to be when others are taken out."""
    before = None
    while text != before:
        before = text
        for marker in MARKERS:
            text = text.replace(marker, "")
    return text


class TestParsers:
    @pytest.mark.parametrize(
        ("template", "reasoning", "tool_call"),
        [
            ("User: {{ messages }}\nAssistant: ", "none", "none"),
            ("\nAssistant: {% if enable_thinking %}<think>{% endif %}", "ernie-45-vl", "none"),
            ("<tool_list>{{ tools }}</tool_list>Assistant: \n<think>\n", "ernie-45-vl-thinking", "ernie-45-vl-thinking"),
            ("<|im_start|>{{ tools }}assistant\n<think>\n", "ernie-x1", "ernie-x1"),
        ],
    )
    def test_by_template(self, template: str, reasoning: str, tool_call: str) -> None:
        assert choose_parsers(template, reasoning=None, tool_call=None) == Parsers(reasoning, tool_call)

    def test_by_flag(self) -> None:
        template = "<|im_start|>assistant\n<think>\n"
        assert choose_parsers(template, reasoning="none", tool_call=None) == Parsers("none", "ernie-x1")
        assert choose_parsers("", reasoning="ernie_x1", tool_call="ernie_45-vl-thinking") == Parsers("ernie-x1", PARSERS[1])

    def test_a_raw_prompt_is_continued(self) -> None:
        answer = X1.answer_format(None, asks_anew=False, calls=False, one_call=False)
        assert (answer.begins_in, answer.begins_fresh) == ("content", False)
        assert format_of(X1, None).begins_in == "thought"
        assert format_of(Parsers("none", "none"), THINKS).is_plain

    @pytest.mark.parametrize(
        ("prompt", "expected"),
        [
            ("User: hi\nAssistant: ", None),
            ("a <think>\n\n</think>\n\n", LastMarker("</think>", True)),
            ("a</think><think>\n", LastMarker("<think>", True)),
            ("a</think>\n<response>\nOnce", LastMarker("<response>", False)),
        ],
    )
    def test_last_marker(self, each: Tokenizer, prompt: str, expected: LastMarker | None) -> None:
        assert last_marker(each.encode_template(prompt), each) == expected
