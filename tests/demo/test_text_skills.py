"""The text skills' cases: each is true by a check of its own, no evaluation case is trained on, and scorers know right from wrong."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any

import llguidance
import pytest

from ernie_backend.text.messages import normalize_messages
from ernie_backend.text.tools import normalize_tools
from ernie_demo.cases import Case
from ernie_demo.skills import documents, facts, thinking, tools
from ernie_demo.text.arithmetic import chain, compared
from ernie_demo.text.conversation import OF_THE_DOCUMENTS
from ernie_demo.text.countries import ALIASES, COUNTRIES
from ernie_demo.text.tool_functions import FUNCTIONS
from ernie_demo.text.tool_values import CURRENCIES, OTHER_CITIES
from ernie_demo.text.wording import LANGUAGES, fill, key, roughened, wording

SKILLS = (documents, facts, thinking, tools)
TRAINED, HELD_OUT = 1500, 300


@cache
def trained(skill: ModuleType) -> list[Case]:
    rng = random.Random(11)
    return [skill.train_case(rng) for _ in range(TRAINED)]


@cache
def held_out(skill: ModuleType) -> list[Case]:
    return skill.held_out_cases(1, HELD_OUT)


def message(case: Case, **changed: Any) -> dict[str, Any]:
    """What a server answers that answers right."""
    calls = [
        {"id": "x", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}}
        for name, arguments in case.tool_calls
    ]
    return {
        "role": "assistant",
        "content": case.answer or None,
        "reasoning_content": case.reasoning,
        "tool_calls": calls or None,
        **changed,
    }


def asked(case: Case) -> str:
    return next((m["content"] for m in reversed(case.messages) if m["role"] == "user"), "")


@pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.__name__.rpartition(".")[2])
class TestEverySkill:
    def test_cases_are_requests_that_the_server_takes(self, skill: ModuleType) -> None:
        for case in [*trained(skill), *held_out(skill)]:
            assert case.skill == skill.__name__.rpartition(".")[2]
            assert normalize_messages(list(case.messages), takes_tools=True)
            assert normalize_tools(list(case.tools)) == list(case.tools)
            assert bool(case.answer.strip()) is not bool(case.tool_calls), "an answer or calls"
            assert case.reasoning is None or case.reasoning.strip()
            assert not re.search(r"[\[\]|{}]", case.answer) or case.facets["kind"] == "repeat", "a template's choices and slots are filled"

    def test_nothing_that_is_asked_in_the_evaluation_is_trained(self, skill: ModuleType) -> None:
        def everything(case: Case) -> str:
            return json.dumps([[m for m in case.messages if m["role"] != "system"], case.tools], ensure_ascii=False)

        known = {everything(case) for case in trained(skill)}
        assert not known & {everything(case) for case in held_out(skill)}

    def test_one_question_has_one_answer(self, skill: ModuleType) -> None:
        answers: dict[str, tuple[Any, ...]] = {}
        for case in trained(skill):
            prompt = json.dumps([case.messages, case.tools, case.enable_thinking], ensure_ascii=False)
            answer = (case.reasoning, case.answer, case.tool_calls)
            assert answers.setdefault(prompt, answer) == answer

    def test_the_evaluation_is_the_same_every_time(self, skill: ModuleType) -> None:
        assert skill.held_out_cases(3, 20) == skill.held_out_cases(3, 20) != skill.held_out_cases(4, 20)

    def test_right_answers_score_and_others_do_not(self, skill: ModuleType) -> None:
        cases = held_out(skill)
        for case in cases:
            assert skill.score(case, message(case)) == (1, 1)
            assert skill.score(case, {"content": None}) == (0, 1)
        wrong = [skill.score(case, message(other))[0] for case, other in pairwise(cases) if case.answer != other.answer]
        assert sum(wrong) <= 0.05 * len(wrong), "one answer may hold what another must: an introduction says who one is"

    def test_both_languages_and_both_ways_to_think(self, skill: ModuleType) -> None:
        seen = Counter((case.facets["language"], case.enable_thinking) for case in trained(skill))
        assert all(seen[language, thinks] > 0.1 * TRAINED for language in LANGUAGES for thinks in (True, False))

    def test_the_form_of_the_thought(self, skill: ModuleType) -> None:
        for case in held_out(skill):
            assert thinking.format_right(case, message(case))
            assert not thinking.format_right(case, message(case, reasoning_content=None if case.enable_thinking else "hm"))
            assert not thinking.format_right(case, message(case, content="</think> x"))


class TestFacts:
    def test_countries_and_capitals_are_one_to_one(self) -> None:
        assert len(COUNTRIES) >= 150
        for language in LANGUAGES:
            assert len({country.name[language] for country in COUNTRIES}) == len(COUNTRIES)
            assert len({country.capital[language] for country in COUNTRIES}) == len(COUNTRIES)
            assert not {country.capital[language] for country in COUNTRIES} & set(OTHER_CITIES[language])
        assert set(ALIASES) <= {name for country in COUNTRIES for name in country.name.values()}

    def test_answers_are_in_the_table(self) -> None:
        pairs = {(country.name[language], country.capital[language]) for country in COUNTRIES for language in LANGUAGES}
        for case in trained(facts):
            if case.facets["kind"] in ("no_capital", "no_country"):
                assert not any(capital.casefold() in case.answer.casefold() for _, capital in pairs)
                continue
            named = [pair for pair in pairs if pair[0] in case.answer and pair[1] in case.answer]
            assert named, case.answer
            if case.facets["kind"] in ("yes", "no"):
                assert case.facets["asked"].casefold() in asked(case).casefold()
                assert (case.facets["asked"] == case.facets["expected"]) is (case.facets["kind"] == "yes")

    @pytest.mark.parametrize(
        ("expected", "names", "content", "right"),
        [
            ("Paris", "capital", "The capital of France is Paris.", 1),
            ("Paris", "capital", "It is paris", 1),
            ("Paris", "capital", "The capital of France is Berlin.", 0),
            ("Paris", "capital", "Paris or Berlin.", 0),
            ("Bogotá", "capital", "bogota", 1),
            ("Guinea", "name", "Conakry is the capital of Guinea-Bissau.", 0),
            ("Niger", "name", "Niamey is the capital of Nigeria.", 0),
        ],
    )
    def test_score(self, expected: str, names: str, content: str, right: int) -> None:
        case = Case("facts", (), "", facets={"kind": "capital", "language": "en", "names": names, "expected": expected})
        assert facts.score(case, {"content": content}) == (right, 1)


class TestThinking:
    STEP = re.compile(r"(-?\d+(?: [-+×÷] -?\d+)+) = (-?\d+)")

    def checked(self, text: str) -> int:
        """How many equations a text holds, all of them true."""
        steps = self.STEP.findall(text)
        for left, right in steps:
            first, *rest = re.split(r" ([-+×÷]) ", left)
            value, pending = int(first), 0
            for sign, number in zip(rest[::2], rest[1::2], strict=True):
                if sign == "×":
                    value *= int(number)
                elif sign == "÷":
                    assert value % int(number) == 0
                    value //= int(number)
                else:
                    pending += int(number) if sign == "+" else -int(number)
            assert value + pending == int(right), f"{left} = {right}"
        for left, sign, right in re.findall(r"(?<![\d.])(-?\d+) ([<>]) (-?\d+)", text):
            assert (int(left) < int(right)) is (sign == "<"), text
        return len(steps)

    def test_every_step_of_every_chain_is_true(self) -> None:
        for case in [*trained(thinking), *held_out(thinking)]:
            if case.facets["kind"] in ("sum", "story"):
                assert self.checked(case.answer) == 1
                assert case.reasoning is None or self.checked(case.reasoning) >= 2
                numbers = set(re.findall(r"\d+", asked(case)))
                assert set(self.STEP.findall(case.answer)[0][0].split()[::2]) <= numbers, "the sum is the question's"

    @pytest.mark.parametrize("language", LANGUAGES)
    @pytest.mark.parametrize("operation", "+-×")
    def test_the_digits_that_are_written_make_the_result(self, operation: str, language: str) -> None:
        rng = random.Random(3)
        for _ in range(500):
            a, b = rng.randrange(1000), rng.randrange(1000 if operation != "×" else 10)
            a, b = (max(a, b), min(a, b)) if operation == "-" else (a, b)
            steps = [part for part in re.split(r"[.。] ?", chain(operation, a, b, language)) if ":" in part or "：" in part]
            results = [int(re.findall(r"= (-?\d+)", step)[-1]) for step in steps]
            digits = [*(total % 10 for total in results[:-1]), results[-1]]
            assert sum(digit * 10**place for place, digit in enumerate(digits)) == {"+": a + b, "-": a - b, "×": a * b}[operation]
            if operation != "-":
                for step, following, total in zip(steps, steps[1:], results, strict=False):
                    carry = f"write {total % 10}, carry {total // 10}" if language == "en" else f"写{total % 10}，进{total // 10}"
                    assert (carry in step) is (total > 9)
                    assert following.split(" = ")[0].endswith(f"+ {total // 10}") or total < 10

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_all_sums_of_two_digits(self, language: str) -> None:
        for a in range(language == "zh", 100, 2):
            for b in range(100):
                for operation, result in (("+", a + b), ("-", a - b)):
                    text = chain(operation, a, b, language)
                    assert self.checked(text) >= 2
                    assert re.findall(r"= (-?\d+)\W*$", text) == [str(result)]
            for b in range(10):
                assert re.findall(r"= (-?\d+)\W*$", chain("×", a, b, language)) == [str(a * b)]

    @pytest.mark.parametrize(
        ("a", "b", "end"), [("9.11", "9.8", "9.8"), ("9.9", "9.11", "9.9"), ("12", "7.99", "12"), ("470", "74", "470"), ("5", "5.1", "5.1")]
    )
    def test_compared(self, a: str, b: str, end: str) -> None:
        assert compared(a, b, "en").endswith(f"So {end} is larger.")
        assert compared(a, b, "zh").endswith(f"所以{end}更大。")

    def test_comparisons_letters_and_parities(self) -> None:
        for case in [*trained(thinking), *held_out(thinking)]:
            expected, words = case.facets["expected"], asked(case)
            if case.facets["kind"] == "larger":
                assert max(re.findall(r"\d+(?:\.\d+)?", words), key=float) == expected
            if case.facets["kind"] == "parity":
                number = int(re.findall(r"\d+", words)[0])
                assert expected in (("even", "偶数") if number % 2 == 0 else ("odd", "奇数"))
            if case.facets["kind"] == "letters":
                found = re.search(r"letter (?P<l>\w) occurs \d+ times? in (?P<w>\w+)|(?P<w2>[a-z]+)中有\d+个字母(?P<l2>\w)", case.answer)
                assert found is not None
                letter, word = found["l"] or found["l2"], found["w"] or found["w2"]
                assert word.count(letter) == int(expected) and word in words

    def test_no_pair_of_numbers_is_on_both_sides(self) -> None:
        def pairs(cases: list[Case]) -> set[tuple[str, frozenset[str]]]:
            found = set()
            for case in cases:
                if case.facets["kind"] in ("sum", "story"):
                    left = self.STEP.findall(case.answer)[0][0]
                    a, sign, b = left.split()
                    found.add((sign, frozenset((a, b)) if sign in "+×" else frozenset((f"1 {a}", f"2 {b}"))))
            return found

        rng = random.Random(2)
        assert not pairs([thinking.train_case(rng) for _ in range(10_000)]) & pairs(held_out(thinking))

    def test_score(self) -> None:
        case = Case("thinking", (), "", facets={"kind": "sum", "language": "en", "expected": "85"})
        for content, right in (
            ("47 + 38 = 85.", 1),
            ("85", 1),
            ("It is 85 apples", 1),
            ("47 + 38 = 84.", 0),
            ("85 or 86", 0),
            ("no idea", 0),
        ):
            assert thinking.score(case, {"content": content}) == (right, 1), content


class Bytes:
    """A vocabulary of bytes for llguidance."""

    eos_token_id, bos_token_id = 256, None
    tokens = [bytes([i]) for i in range(256)] + [b"<eos>"]
    special_token_ids = [256]  # noqa: RUF012

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


class TestTools:
    def test_arguments_follow_their_schemas(self) -> None:
        vocabulary = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Bytes()))
        cases = [case for case in [*trained(tools)[:300], *held_out(tools)] if case.tool_calls]
        for case in cases:
            schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in case.tools}
            for name, arguments in case.tool_calls:
                schema = {**schemas[name], "additionalProperties": False}
                matcher = llguidance.LLMatcher(vocabulary, llguidance.LLMatcher.grammar_from_json_schema(schema))
                text = list(json.dumps(arguments, ensure_ascii=False).encode())
                assert matcher.consume_tokens(text) and matcher.is_accepting(), (schema, arguments, matcher.get_error())

    def test_arguments_are_copied_from_the_question(self) -> None:
        codes = {code for code, _, _ in CURRENCIES}
        for case in [*trained(tools), *held_out(tools)]:
            enumerated = {
                v for tool in case.tools for p in tool["function"]["parameters"]["properties"].values() for v in p.get("enum", ())
            }
            for _, arguments in case.tool_calls:
                for value in arguments.values():
                    if isinstance(value, list):
                        assert len(value) == 4 and value[0] < value[2] and value[1] < value[3]
                    elif value not in codes and value not in enumerated:
                        assert str(value) in asked(case), (value, asked(case))

    def test_names_are_told_apart(self) -> None:
        for case in trained(tools):
            names = [tool["function"]["name"] for tool in case.tools]
            assert len(set(names)) == len(names) <= 3 and {name for name, _ in case.tool_calls} <= set(names)

    def test_no_other_function_fits(self) -> None:
        """Names of one family never stand beside one another, nor where nothing is to be called for the question."""
        family = {name: function.family for function in FUNCTIONS for name in function.names}
        for case in trained(tools):
            families = [family.get(tool["function"]["name"], tool["function"]["name"]) for tool in case.tools]
            assert len(set(families)) == len(families)

    def test_kinds(self) -> None:
        kinds = Counter("lent" if "lent" in case.facets else case.facets["kind"] for case in trained(tools))
        assert set(kinds) == {"call", "calls", "result", "no_function", "lent"}
        assert kinds["call"] > TRAINED / 2 and min(kinds.values()) > 0.03 * TRAINED

    def test_score(self) -> None:
        case = next(case for case in held_out(tools) if case.facets["kind"] == "call")
        ((name, arguments),) = case.tool_calls
        call = message(case)["tool_calls"][0]
        assert tools.score(case, message(case, tool_calls=[call, call])) == (0, 1)
        assert tools.score(case, message(case, tool_calls=None, content="Done.")) == (0, 1)
        for function in (
            {"name": name, "arguments": "{"},
            {"name": name, "arguments": "{}"},
            {"name": "f", "arguments": json.dumps(arguments)},
        ):
            assert tools.score(case, message(case, tool_calls=[{**call, "function": function}])) == (0, 1)
        quiet = next(case for case in held_out(tools) if case.facets["kind"] == "no_function")
        assert tools.score(quiet, message(quiet, tool_calls=[call])) == (0, 1)


class TestDocuments:
    def test_the_documents_prompts_are_learnt_letter_by_letter(self) -> None:
        rng = random.Random(5)
        seen = {asked(documents.train_case(rng)) for _ in range(8_000)}
        assert {prompt for _, _, prompt in OF_THE_DOCUMENTS} <= seen
        answers = {asked(case): case.answer for case in (facts.train_case(rng) for _ in range(3_000))}
        for language, prompt in facts.OF_THE_DOCUMENTS:
            assert {"en": "Beijing", "zh": "北京"}[language] in answers[prompt]

    @pytest.mark.parametrize("skill", [documents, facts, tools])
    def test_their_cases(self, skill: ModuleType) -> None:
        cases = skill.document_cases()
        assert len(cases) >= 10
        for case in cases:
            assert skill.score(case, message(case)) == (1, 1) and thinking.format_right(case, message(case))

    def test_the_tutorials_keywords(self) -> None:
        case = next(case for case in documents.document_cases() if asked(case) == "Summarize the core steps of this tutorial")
        assert documents.score(case, {"content": "environment configuration, Service Startup and interface calling"}) == (1, 1)
        assert documents.score(case, {"content": "environment configuration and service startup"}) == (0, 1)


class TestWording:
    def test_choices_nest_and_slots_stay(self) -> None:
        rng = random.Random(0)
        seen = {wording(rng, "[a|b[c|]|]{d}.") for _ in range(200)}
        assert seen == {"a{d}.", "bc{d}.", "b{d}.", "{d}."}
        assert fill("{a}-{b}", {"a": "x", "b": "{y}"}) == "x-{y}"

    def test_rough_texts_keep_their_slots(self) -> None:
        rng = random.Random(0)
        rough = [roughened(rng, "What is the capital of {country}, please?") for _ in range(2000)]
        assert all(text.count("{country}") == 1 for text in rough) and len(set(rough)) > 40
        assert sum(text == "What is the capital of {country}, please?" for text in rough) > 1000

    def test_keys(self) -> None:
        assert key("Hello, World!") == key("hello world") != key("hello word")
