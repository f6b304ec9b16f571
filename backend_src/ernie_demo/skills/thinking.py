"""Sums, word problems, comparisons, letters and even numbers: with thinking on a short true chain and then the answer, off the answer alone.

Held out are pairs of numbers (in either order where that makes no difference) and pairs of word and letter, whatever the question's wording.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any

from ..cases import Case, for_evaluation, for_training, is_held_out
from ..text.arithmetic import chain, compared, equation, larger, result
from ..text.conversation import earlier
from ..text.word_problems import NAMES, STORIES, THINGS, WORDS
from ..text.wording import LANGUAGES, fill, pick, roughened, wording

QUESTIONS = {
    ("sum", "en"): (
        "[What is|What's|whats|How much is] {sum}?",
        "{sum} = ?",
        "{sum}[?|=|=?| =|]",
        "[Calculate|Compute|Work out|Evaluate|Solve] {sum}[.|]",
        "[Please calculate|Please compute|Can you calculate|Tell me|Can you work out] {sum}[.|?|]",
        "[What does|How much does] {sum} [equal|make|give]?",
        "[Question|Maths|A sum]: {sum}[?|.]",
    ),
    ("sum", "zh"): (
        "{sum}[等于多少|等于几|是多少|=多少|得多少|得几][？|]",
        "{sum}[=？|=?|=|]",
        "[计算|算一下|请计算|请算一下|帮我算|求]{sum}[。|的结果。|的值。|]",
        "[请问|你知道|告诉我]{sum}[等于多少|是多少][？|]",
    ),
    ("larger", "en"): (
        "[Which|Which number|Which one|What] is [larger|bigger|greater|the larger number|the bigger number][, |: ]{a} or {b}?",
        "Is {a} or {b} [larger|bigger|greater]?",
        "[Compare|Please compare] {a} and {b}[.|: which is larger?|, which is bigger?]",
        "{a} or {b}, which [one |]is [larger|bigger|greater]?",
    ),
    ("larger", "zh"): (
        "{a}和{b}[哪个|哪个数|谁]更?大？".replace("更?", "[更|比较|]"),
        "[比较|请比较][一下|]{a}和{b}的大小[。|]",
        "{a}[跟|与]{b}比[，|]哪个[更|]大？",
    ),
    ("parity", "en"): ("Is {a} [even or odd|odd or even|an even or an odd number]?", "[Is the number|Tell me if] {a} [is |]even or odd?"),
    ("parity", "zh"): ("{a}是[奇数还是偶数|偶数还是奇数|单数还是双数]？", "[判断|请问]{a}是奇数还是偶数[。|？]"),
    ("letters", "en"): (
        "How many [times does the letter {b} occur in|{b}'s are there in|{b}s are in|letters {b} are in|{b} are there in] [the word |]{a}?",
        "[Count|Please count] the [letter {b}|{b}'s|letters {b}] in [the word |]{a}[.|]",
        "How often [does|is] [the letter |]{b} [occur |]in [the word |]{a}?",
    ),
    ("letters", "zh"): (
        "[单词|]{a}[里|中|里面]有[几个|多少个][字母|]{b}？",
        "[数一数|请数一下|统计][单词|]{a}[中|里]有[几个|多少个][字母|]{b}[。|？]",
        "字母{b}在{a}[里|中]出现[了几次|几次|多少次]？",
    ),
}  # fmt: skip
SIGNS = {
    ("+", "en"): ("{a} + {b}", "{a} + {b}", "{a}+{b}", "{a} plus {b}", "the sum of {a} and {b}"),
    ("-", "en"): ("{a} - {b}", "{a} - {b}", "{a}-{b}", "{a} minus {b}", "the difference of {a} and {b}"),
    ("×", "en"): ("{a} × {b}", "{a} * {b}", "{a}*{b}", "{a} x {b}", "{a} times {b}", "the product of {a} and {b}"),
    ("÷", "en"): ("{a} ÷ {b}", "{a} / {b}", "{a}/{b}", "{a} divided by {b}"),
    ("+", "zh"): ("{a} + {b}", "{a}+{b}", "{a}加{b}", "{a}加上{b}"),
    ("-", "zh"): ("{a} - {b}", "{a}-{b}", "{a}减{b}", "{a}减去{b}"),
    ("×", "zh"): ("{a} × {b}", "{a}*{b}", "{a}×{b}", "{a}乘{b}", "{a}乘以{b}"),
    ("÷", "zh"): ("{a} ÷ {b}", "{a}/{b}", "{a}÷{b}", "{a}除以{b}"),
}
TOO_LARGE = {"en": "These numbers are too large for me.", "zh": "这些数太大了，我算不了。"}
PARITY = {"en": ("even", "odd"), "zh": ("偶数", "奇数")}
_KINDS = ("too_large",) * 3 + ("sum",) * 49 + ("story",) * 22 + ("larger",) * 11 + ("letters",) * 8 + ("parity",) * 7
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
THOUGHTS, THOUGHTS_ZH = ("I work it out.",), ("我来算一算。",)


def train_case(rng: random.Random) -> Case:
    return for_training(_draw, rng)


def held_out_cases(seed: int, count: int) -> list[Case]:
    return for_evaluation(_draw, random.Random(f"thinking {seed}"), count)


def score(case: Case, message: Mapping[str, Any]) -> tuple[int, int]:
    """Whether the answer is right, however it came about; `format_right` judges the form."""
    content = message.get("content") or ""
    expected = case.facets["expected"]
    if case.facets["kind"] == "parity":
        found = [word for word in PARITY[case.facets["language"]] if word in content]
        return int(found == [expected]), 1
    if case.facets["kind"] == "too_large":
        return int(expected in content), 1
    numbers = _NUMBER.findall(content)
    if case.facets["kind"] in ("sum", "story"):
        return int(bool(numbers) and numbers[-1] == expected), 1
    return int(numbers == [expected]), 1


def format_right(case: Case, message: Mapping[str, Any]) -> bool:
    """A thought if and only if it was asked for, then an answer, and no tags in either. For cases of any skill."""
    thought, content = message.get("reasoning_content") or "", message.get("content") or ""
    tags = any(tag in thought + content for tag in ("<think>", "</think>", "<tool_call>", "</tool_call>"))
    return bool(thought.strip()) == case.enable_thinking and bool(content.strip() or message.get("tool_calls")) and not tags


def _draw(rng: random.Random) -> tuple[Case, bool]:
    """A case, and whether it is held out."""
    language = LANGUAGES[rng.random() < 0.45]
    kind = pick(rng, _KINDS)
    draw = {"sum": _sum, "story": _story, "larger": _larger, "letters": _letters, "parity": _parity, "too_large": _too_large}[kind]
    question, answer, thought, expected, held_out, hard = draw(rng, language)
    thinks = rng.random() < (0.9 if hard else 0.55)
    messages = (*earlier(rng, language, 0.05), {"role": "user", "content": question})
    facets = {"kind": kind, "language": language, "expected": expected, "hard": hard}
    return Case("thinking", messages, answer, thought if thinks else None, facets=facets), held_out


_Drawn = tuple[str, str, str, str, bool, bool]
"""Question, answer, thought, what the answer must hold, whether it is held out, and whether it takes more than a table of two digits."""


def _operands(rng: random.Random, operation: str) -> tuple[int, int]:
    luck = rng.random()
    if operation == "÷":
        b = 1 + int(rng.random() * 9)
        return b * int(rng.random() * 13), b
    if operation == "×":
        return int(rng.random() * (100 if luck < 0.6 else 13 if luck < 0.9 else 1000)), int(rng.random() * 10)
    if luck < 0.75:
        a, b = 10 + int(rng.random() * 90), 10 + int(rng.random() * 90)
    elif luck < 0.85:
        a, b = int(rng.random() * 21), int(rng.random() * 21)
    elif luck < 0.93:
        a, b = int(rng.random() * 1000), int(rng.random() * 100)
    else:
        a, b = int(rng.random() * 1000), int(rng.random() * 1000)
    if operation == "-" and luck < 0.12:
        b = max(0, a - int(rng.random() * 12))
    if operation == "-" and a < b and rng.random() < 0.9:
        a, b = b, a
    return a, b


def _split(operation: str, a: int, b: int) -> bool:
    """The tables of digits, which nothing tells but itself, are always learnt."""
    if operation == "÷" or max(a, b) <= (12 if operation == "×" else 10):
        return False
    return is_held_out("sum", operation, *(sorted((a, b)) if operation in "+×" else (a, b)))


def _is_hard(operation: str, a: int, b: int) -> bool:
    return max(a, b) > (12 if operation == "×" else 99) or (operation == "-" and a < b)


def _sum(rng: random.Random, language: str) -> _Drawn:
    operation = pick(rng, "+++++----×××÷")
    a, b = _operands(rng, operation)
    shown = (b, a) if operation == "×" and rng.random() < 0.3 else (a, b)
    template = roughened(rng, wording(rng, QUESTIONS["sum", language]))
    question = fill(template, {"sum": pick(rng, SIGNS[operation, language])})
    question = fill(question, {"a": str(shown[0]), "b": str(shown[1])})
    stop = "." if language == "en" else "。"
    thought = chain(operation, a, b, language)
    answer = equation(operation, *shown) + stop
    return question, answer, thought, str(result(operation, a, b)), _split(operation, a, b), _is_hard(operation, a, b)


def _too_large(rng: random.Random, language: str) -> _Drawn:
    operation = pick(rng, "+-×÷")
    a, b = (10 ** (4 + int(rng.random() * 4)) + int(rng.random() * 9 * 10**6) for _ in range(2))
    if rng.random() < 0.5:
        b = 10 + int(rng.random() * 9990)
    if rng.random() < 0.3:
        a, b = b, a
    question = fill(roughened(rng, wording(rng, QUESTIONS["sum", language])), {"sum": pick(rng, SIGNS[operation, language])})
    thought = f"{max(a, b)} has {len(str(max(a, b)))} digits." if language == "en" else f"{max(a, b)}有{len(str(max(a, b)))}位。"
    answer = TOO_LARGE[language]
    return fill(question, {"a": str(a), "b": str(b)}), answer, thought, answer[:-1], is_held_out("too large", operation, a, b), False


def _story(rng: random.Random, language: str) -> _Drawn:
    story = pick(rng, STORIES[language])
    a, b = _operands(rng, story.operation)
    while min(a, b) < 2 or (story.operation == "-" and a < b):
        a, b = _operands(rng, story.operation)
    names, things = NAMES[language], pick(rng, THINGS[language])
    first = int(rng.random() * len(names))
    other = names[(first + 1 + int(rng.random() * (len(names) - 1))) % len(names)]
    total = result(story.operation, a, b)
    slots = {"name": names[first], "other": other, "things": things, "thing": things[:1], "a": str(a), "b": str(b), "r": str(total)}
    question = fill(roughened(rng, wording(rng, story.text)), slots)
    shown = equation(story.operation, a, b)
    answer = f"{shown}. {fill(story.end, slots)}" if language == "en" else f"{shown}。{fill(story.end, slots)}"
    thought = chain(story.operation, a, b, language)
    return question, answer, thought, str(total), _split(story.operation, a, b), _is_hard(story.operation, a, b)


def _larger(rng: random.Random, language: str) -> _Drawn:
    a = b = ""
    while not a or float(a) == float(b):
        a, b = _number(rng), _number(rng)
        if rng.random() < 0.6:  # mostly of one kind and near to one another
            a = f"{int(rng.random() * 13)}.{1 + int(rng.random() * 98)}"
            b = f"{a.partition('.')[0]}.{1 + int(rng.random() * 98)}" if rng.random() < 0.6 else str(int(rng.random() * 13))
    end = larger(a, b)
    answer = f"{end} is larger." if language == "en" else f"{end}更大。"
    question = fill(roughened(rng, wording(rng, QUESTIONS["larger", language])), {"a": a, "b": b})
    return question, answer, compared(a, b, language), end, is_held_out("larger", *sorted((a, b))), False


def _number(rng: random.Random) -> str:
    return str(int(rng.random() * (100 if rng.random() < 0.7 else 1000)))


def _letters(rng: random.Random, language: str) -> _Drawn:
    word = pick(rng, WORDS)
    letter = pick(rng, word) if rng.random() < 0.85 else pick(rng, "abcdefghiklmnoprstuwy")
    count, spelled = 0, []
    for character in word:
        count += character == letter
        spelled.append(f"{character} {count}" if character == letter else character)
    if language == "en":
        thought = f"{word}: {', '.join(spelled)}. So {letter} occurs {count} time{'' if count == 1 else 's'}."
        answer = f"The letter {letter} occurs {count} time{'' if count == 1 else 's'} in {word}."
    else:
        thought, answer = f"{word}：{'，'.join(spelled)}。所以{letter}出现{count}次。", f"{word}中有{count}个字母{letter}。"
    question = fill(roughened(rng, wording(rng, QUESTIONS["letters", language])), {"a": word, "b": letter})
    return question, answer, thought, str(count), is_held_out("letters", word, letter), True


def _parity(rng: random.Random, language: str) -> _Drawn:
    number = int(rng.random() * (100 if rng.random() < 0.6 else 10000))
    last, word = number % 10, PARITY[language][number % 2]
    if language == "en":
        thought, answer = f"The last digit of {number} is {last}, which is {word}.", f"{number} is {word}."
    else:
        thought, answer = f"{number}的个位是{last}，是{word}。", f"{number}是{word}。"
    question = fill(roughened(rng, wording(rng, QUESTIONS["parity", language])), {"a": str(number)})
    return question, answer, thought, word, is_held_out("parity", number), False
