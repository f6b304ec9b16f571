"""Grammars of whole answers, held against what llguidance accepts, and users' own, tried out under limits."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import llguidance
import pytest

from ernie_backend.abort_signal import AbortSignal
from ernie_backend.errors import InvalidRequestError, RequestAbortedError
from ernie_backend.text import helper_process
from ernie_backend.text.answer_format import AnswerFormat
from ernie_backend.text.grammar import Body, Tag, answer_grammar, choice_grammar, free_grammar, json_grammar, tags_grammar
from ernie_backend.text.grammar_process import REMEMBERED, GrammarProcess
from ernie_backend.text.grammar_worker import LARGEST_BOUND
from ernie_backend.text.tokenizer import Tokenizer
from tests.text.conftest import train

X1 = AnswerFormat(True, True, True, begins_in="thought", begins_fresh=True)
VL = AnswerFormat(True, begins_in="thought", begins_fresh=True)
CITY = {"type": "object", "properties": {"city": {"$ref": "#/$defs/c"}}, "required": ["city"], "$defs": {"c": {"enum": ["北京", "x"]}}}
WEATHER = {"type": "function", "function": {"name": 'get_"weather"', "parameters": {**CITY, "additionalProperties": False}}}
TIME = {"type": "function", "function": {"name": "time", "parameters": {"maxProperties": 0}}}


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Tokenizer) -> Any:
    return vocabulary_of(tokenizer)


def vocabulary_of(tokenizer: Tokenizer) -> Any:
    class Wrapped:
        eos_token_id, bos_token_id = 2, None

        def __init__(self) -> None:
            self.tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
            self.special_token_ids = sorted(tokenizer.control_ids)

        def __call__(self, text: str) -> list[int]:
            return tokenizer.encode_text(text)

    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(Wrapped()), eos_token=2)


@pytest.fixture(scope="module")
def process() -> Iterator[GrammarProcess]:
    made = GrammarProcess()
    yield made
    made.close()


def ends(tokenizer: Tokenizer, vocabulary: Any, grammar: str, text: str) -> bool | None:
    """Whether the answer may end behind `text`; None: the grammar does not allow it so far."""
    matcher = llguidance.LLMatcher(vocabulary, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    ids = tokenizer.encode_template(text)
    return matcher.is_accepting() if matcher.try_consume_tokens(ids) == len(ids) else None


CHOICE = choice_grammar(["yes", 'no "never"'])
CALL = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
WEATHER_CALL = '<tool_call>\n{"name": "get_\\"weather\\"", "arguments": {"city": "北京"}}\n</tool_call>'
TOOLS = [WEATHER, TIME]
TAGS: list[Tag] = [
    {"trigger": "<function=", "begin": "<function=city>", "schema": CITY, "end": "</function>"},
    {"trigger": "<function=", "begin": "<function=wait>", "schema": {"type": "integer"}, "end": "</function>"},
    {"trigger": '"now"', "begin": '"now"', "schema": {"type": "null"}, "end": ""},
]


@pytest.mark.parametrize(
    ("body", "tools", "answer", "text", "expected"),
    [
        (CHOICE, [], X1, "\n\n<response>\nyes\n</response>\n", True),
        (CHOICE, [], X1, '<response>\nno "never"\n</response>', True),
        (CHOICE, [], X1, "\n\n<response>\nyes", False),
        (CHOICE, [], X1, "\n\nyes", None),
        (CHOICE, [], X1, "\n\n\n\n", None),
        (CHOICE, [], AnswerFormat(True, True, begins_in="response"), "yes\n</response>", True),
        (CHOICE, [], VL, "\n\nyes", True),
        (CHOICE, [], AnswerFormat(), "yes", True),
        (CHOICE, [], AnswerFormat(), "\nyes", None),
        ({"lark_grammar": "start: /(.|\\n)*/"}, [], X1, "<response>\nany\nthing\n</response>", True),
        (tags_grammar(TAGS), [], AnswerFormat(), "", True),
        (tags_grammar(TAGS), [], AnswerFormat(), "free text,\nand <functio", True),
        (tags_grammar(TAGS), [], VL, '\n\nsay <function=city>{"city": "北京"}</function>, "now"null<function=wait>5</function>.', True),
        (tags_grammar(TAGS), [], X1, "\n\n<response>\na <function=wait>5</function> b\n</response>\n", True),
        (tags_grammar(TAGS), [], AnswerFormat(), "say <function=wait>5", False),
        (tags_grammar(TAGS), [], AnswerFormat(), "say <function=when>", None),
        (tags_grammar(TAGS), [], AnswerFormat(), 'say <function=city>{"city": "上', None),
        (tags_grammar(TAGS), [], AnswerFormat(), 'say "now"1', None),
        (None, TOOLS, X1, f"\n\n\n{CALL}\n\n{WEATHER_CALL}\n", True),
        (None, TOOLS, X1, "\n\n<response>", None),
        (None, TOOLS, X1, CALL.replace("time", "tame"), None),
        (None, TOOLS, X1, WEATHER_CALL.replace("北京", "上海"), None),
        (None, TOOLS, AnswerFormat(True, True, True, one_call=True), CALL, True),
        (None, TOOLS, AnswerFormat(True, True, True, one_call=True), f"{CALL}\n{CALL}", None),
        (CHOICE, TOOLS, X1, f"\n\n{CALL}\n", True),
        (CHOICE, TOOLS, X1, "\n\n<response>\nyes\n</response>", True),
        (json_grammar({"type": "object"}), [], VL, '{\n  "a": [1, {"b": null}]\n}', True),
        (json_grammar({"type": "object"}), [], VL, "[]", None),
        (json_grammar({"type": "object"}), [], VL, "{  ", None),
        (json_grammar({"type": "object", "x-guidance": {"whitespace_flexible": True}}), [], VL, "{\n\n", None),
    ],
)
def test_whole_answers(
    tokenizer: Tokenizer, vocabulary: Any, body: Any, tools: list[Any], answer: AnswerFormat, text: str, expected: bool | None
) -> None:
    assert ends(tokenizer, vocabulary, answer_grammar(body, tools, answer, tokenizer), text) is expected


@pytest.fixture(scope="module", params=["all", "some", "none"])
def each(request: pytest.FixtureRequest, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    """Tokenizers that have all markers, those of the thought, or none: then models spell them."""
    if request.param != "all":
        folder = tmp_path_factory.mktemp(f"{request.param}_markers")
        train(folder, user_defined_symbols=["<think>", "</think>", "</s>"] if request.param == "some" else ["</s>"])
        tokenizer = Tokenizer.from_folder(folder)
    return tokenizer, vocabulary_of(tokenizer)


@pytest.mark.parametrize(
    ("text", "one_call", "expected"),
    [
        ("", False, True),
        ("\n\n<response>\nsay <tool_c, </tool_call>\n</response>\n", False, True),
        ("a</think>b<think>", False, True),
        ("\n\n<response>a</response>\n\n\n" + CALL, False, True),
        (f"so:{CALL}\n{CALL}{WEATHER_CALL}\n then", False, True),
        (f"so:{CALL}", True, True),
        (f"so:{CALL}\n{CALL}", True, None),
        ("so:<tool_call>", False, False),
        ("so:<tool_call>\n{", True, False),
        ("so:<tool_call> ", False, None),
        ("<tool_call>\n<tool_call>", False, None),
        ("so:" + CALL.replace("time", "tame"), False, None),
        ("so:" + CALL.replace("time", "times"), True, None),
        (CALL.replace("time", "tame"), False, None),
        (f"{CALL}\n{CALL.replace('time', 'tame')}", False, None),
        (WEATHER_CALL.replace("北京", "上海"), False, None),
    ],
)
def test_free_answers_call_nothing_else(each: tuple[Tokenizer, Any], text: str, one_call: bool, expected: bool | None) -> None:
    tokenizer, vocabulary = each
    answer = AnswerFormat(True, True, True, one_call)
    assert ends(tokenizer, vocabulary, free_grammar(TOOLS, answer, tokenizer), text) is expected


class TestTryingOut:
    @pytest.mark.parametrize(
        "body",
        [
            Body("json", CITY, "p"),
            Body("regex", "(a|b)+\\d", "p"),
            Body("choice", ["a", "多云", 'with "quotes"\nand lines'], "p"),
            Body("ebnf", 'root ::= "a" item+\nitem ::= [0-9] | "b"', "p"),
            Body("tags", TAGS, "p"),
            Body("ebnf", 'start: "a" B\nB: /b+/', "p"),
        ],
    )
    def test_what_compiles(self, process: GrammarProcess, vocabulary: Any, tokenizer: Tokenizer, body: Body) -> None:
        grammar = answer_grammar(process.compiled(body), [], AnswerFormat(), tokenizer)
        assert not llguidance.LLMatcher(vocabulary, grammar, log_level=0).is_error()

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (Body("json", {"type": "array", "uniqueItems": True}, "p"), "uniqueItems"),
            (Body("json", {"$ref": "#/x"}, "p"), "'/x' does not exist"),
            (Body("json", {"$ref": "http://127.0.0.1/x"}, "p"), "http"),
            (Body("json", {"type": "string", "pattern": "("}, "p"), "unclosed group"),
            (Body("regex", "(?=a)b", "p"), "look-ahead"),
            (Body("tags", [{**TAGS[0], "schema": {"uniqueItems": True}}], "p"), "uniqueItems"),
            (Body("regex", "(" * 4000 + "a" + ")" * 4000, "p"), "p cannot be followed"),
            (Body("ebnf", "root ::= (", "p"), "p cannot be followed"),
            (Body("ebnf", "root ::= " + "(" * 3000 + '"a"' + ")" * 3000, "p"), "recursion"),
            (Body("json", {"allOf": [{"anyOf": [{"properties": {f"{i}{j}": {}}} for j in range(9)]} for i in range(9)]}, "p"), "too large"),
        ],
    )
    def test_what_does_not(self, process: GrammarProcess, body: Body, words: str) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            process.compiled(body)
        assert caught.value.param == "p" and words in caught.value.message and len(caught.value.message) < 400

    @pytest.mark.parametrize(
        ("schema", "words", "others"),
        [
            ({"type": "integer", "minimum": -1e30}, "a number's minimum (or exclusiveMinimum). Take it away", "maximum"),
            ({"type": "number", "exclusiveMinimum": 1, "maximum": 1e30}, "a number's maximum (or exclusiveMaximum). Take", "minimum"),
            ({"items": {"type": "number", "minimum": -1e30, "maximum": 1e19}}, "minimum (or exclusiveMinimum) and maximum (or", "regex"),
            ({"properties": {"a": {"oneOf": [{"type": "integer"}, {"$ref": "#"}]}}}, "Use anyOf", "coerce"),
        ],
    )
    def test_what_to_change_is_said_in_users_words(self, process: GrammarProcess, schema: Any, words: str, others: str) -> None:
        for body in (Body("json", schema, "p"), Body("ebnf", f"start: %json {json.dumps(schema)}", "p")):
            with pytest.raises(InvalidRequestError) as caught:
                process.compiled(body)
            message = caught.value.message
            assert words in message and others not in message, message

    def test_the_bounds_that_it_names_are_possible(self, process: GrammarProcess) -> None:
        for kind in ("integer", "number"):
            for lower, upper in (("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum")):
                assert process.compiled(Body("json", {"type": kind, lower: -LARGEST_BOUND, upper: LARGEST_BOUND}, "p"))

    @pytest.mark.parametrize(
        "grammar",
        [
            "start: start",
            "root ::= root",
            'root ::= root "a"',
            'root ::= "a" root',
            "start: a\na: b\nb: a",
            'start: (start | "a" start)+ // "a"',
            'start: "//" start',
            'start: %json {"type": "object"} start\n%ignore /[ "]+/',
            'start: "stop=" x start // [stop="a"]\nx[capture]: /suffix=/ | stopped\nstopped: "b"',
            'start: "a".."z" x <[5]>\nx: start{2,3}\nA: "a"',
        ],
    )
    def test_a_grammar_without_an_end(self, process: GrammarProcess, grammar: str) -> None:
        with pytest.raises(InvalidRequestError, match="guided_grammar cannot be followed: it can produce no text") as caught:
            process.compiled(Body("ebnf", grammar, "guided_grammar"))
        assert caught.value.param == "guided_grammar"

    @pytest.mark.parametrize(
        "grammar",
        [
            'root ::= "a" root | b\nb ::= [0-9/]+ # root ::= root',
            'root ::= x y\nx ::= "a"\ny ::= x | y',
            'start: "a" start?',
            'start: (start)* A\nA: /a"b/ B // c\nB: /b/\n  | /c/',
            "start: [ start ] /x/",
            'start: start{0,3} "x"',
            'start: "a" x\nx[lazy]: TEXT "!"\nTEXT: /.*/',
            'start: p::0\np::_: "a" p::set_bit(0) %if bit_clear(0)\n  | "b"',
            '%llguidance {"no_forcing": true}\nstart: %json {"enum": ["}", "\\""]} | x\nx: x',
            'start: my-rule\nmy-rule: "" ',
            "start: A\nA: ~/a/",
            'start: x "!"\nx[stop="a"]: /.*/',
            'start: x\nx[suffix = "a"]: /.*/',
            'start: x "b"\nx[stop=/\\n/, max_tokens=10]: /.*/',
            'start: x "b"\nx[max_tokens=10, capture="]", stop="]"]: /.*/',
        ],
    )
    def test_one_with_an_end_passes(self, process: GrammarProcess, grammar: str) -> None:
        assert process.compiled(Body("ebnf", grammar, "guided_grammar"))

    def test_an_expression_that_nothing_matches(self, process: GrammarProcess) -> None:
        for expression in (r"[^\s\S]", r"a[^\s\S]"):
            with pytest.raises(InvalidRequestError, match="guided_regex cannot be followed: it can produce no text"):
                process.compiled(Body("regex", expression, "guided_regex"))
        assert process.compiled(Body("regex", r"(?:)", "guided_regex"))

    def test_time_is_limited(self) -> None:
        process = GrammarProcess(cpu_seconds=0.05)
        with pytest.raises(InvalidRequestError, match=r"within 0\.05 s of CPU time"):
            process.compiled(Body("json", {"enum": [f"{i}" * 20 for i in range(40_000)]}, "p"))
        assert process.compiled(Body("regex", "a", "p")), "a fresh helper takes its place"
        process.close()

    @pytest.mark.parametrize(
        "body",
        [
            Body("json", {"type": "integer", "multipleOf": 99_999_989}, "p"),
            Body("json", {"properties": {"a": {"allOf": [{"type": "integer", "multipleOf": 9973}, {"multipleOf": 9967}]}}}, "p"),
            Body("ebnf", 'start: "a" n\nn: %json {"type": "integer", "multipleOf": 99999989}', "p"),
            Body("tags", [Tag(trigger="<n", begin="<n>", schema={"type": "integer", "multipleOf": 99_999_989}, end="</n>")], "p"),
        ],
    )
    def test_what_is_well_formed_but_grows_in_use(self, process: GrammarProcess, body: Body) -> None:
        """llguidance has no limit for the states that a remainder needs: in the engine it would take all memory."""
        with pytest.raises(InvalidRequestError, match=r"^p (does not compile within|cannot be followed)"):
            process.compiled(body)

    @pytest.mark.parametrize("step", [0.01, 0.25, 7, 100, 3600, 86400, 65536, 10**9])
    def test_usual_steps_of_numbers(self, process: GrammarProcess, step: float) -> None:
        assert process.compiled(Body("json", {"type": "number", "multipleOf": step}, "p"))

    def test_a_helper_killed_from_outside_is_replaced(self) -> None:
        process = GrammarProcess()
        process.compiled(Body("regex", "a", "p"))
        helper = process._helper._process
        assert helper is not None
        os.kill(helper.pid, signal.SIGKILL)
        helper.wait()
        assert process.compiled(Body("regex", "b", "p"))
        process.close()

    def test_a_helper_that_does_not_answer_is_replaced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        process = GrammarProcess()
        process.compiled(Body("regex", "a", "p"))
        helper = process._helper._process
        assert helper is not None
        os.kill(helper.pid, signal.SIGSTOP)
        start = process._start

        def start_unhurried() -> None:
            monkeypatch.setattr(helper_process, "WALL_SECONDS", 60.0)
            start()

        monkeypatch.setattr(process, "_start", start_unhurried)
        monkeypatch.setattr(helper_process, "WALL_SECONDS", 0.5)
        assert process.compiled(Body("regex", "b", "p"))
        assert process._helper._process is not helper
        process.close()

    def test_an_abort_ends_the_helper_at_work(self) -> None:
        process, aborted = GrammarProcess(), AbortSignal()
        process.compiled(Body("regex", "a", "p"))
        helper = process._helper._process
        assert helper is not None
        os.kill(helper.pid, signal.SIGSTOP)
        timer = threading.Timer(0.3, aborted.set)
        timer.start()
        with pytest.raises(RequestAbortedError):
            process.compiled(Body("regex", "b", "p"), aborted)
        assert helper.wait(10) == -signal.SIGKILL
        with pytest.raises(RequestAbortedError):
            process.compiled(Body("regex", "b", "p"), aborted)
        assert not process._helper.is_running, "nothing is started for it either"
        assert process.compiled(Body("regex", "b", "p"))
        process.close()

    def test_known_ones_are_not_tried_again(self) -> None:
        process = GrammarProcess()
        for i in range(REMEMBERED + 1):
            process.compiled(Body("regex", f"a{i}", "p"))
        process.close()
        assert process.compiled(Body("regex", "a1", "other")), "remembered"
        assert not process._helper.is_running
        process.compiled(Body("regex", "a0", "p"))
        assert process._helper.is_running, "forgotten, and so tried again"
        process.close()
