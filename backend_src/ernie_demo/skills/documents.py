"""Plain text: what the documents ask, greetings and small talk, repeating, and questions that are answered with 'I do not know', in both languages.

Held out are wordings. The documents' own prompts, letter by letter, are always learnt; `document_cases` asks exactly them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from ..cases import Case, Message, for_evaluation, for_training, is_held_out
from ..text.conversation import OF_THE_DOCUMENTS, earlier, intent_question
from ..text.small_talk import INTENTS, UNKNOWN, UNKNOWN_THOUGHT
from ..text.tool_values import DRAW
from ..text.unknown_questions import unknown_question
from ..text.wording import LANGUAGES, fill, key, pick, plain, roughened, wording
from . import facts

WITH_A_FUNCTION = ("no_media",)
"""What a function for pictures might still answer."""
_REPEAT = {
    "en": ("[Repeat|Say|Please repeat|Please say|Echo|Repeat after me|Write]: {text}", "[Say|Repeat|Write|Print] '{text}'[.|]", "[Repeat|Say] [the following|this][.|:] {text}"),
    "zh": ("[重复|请重复|跟我说|请说|复述|输出|请写出]：{text}", "[重复|说|写出]“{text}”[。|]", "[重复|复述]下面的话：{text}"),
}  # fmt: skip
_REPEAT_THOUGHT = {"en": "The user wants the text repeated.", "zh": "用户要我重复这段话。"}
THOUGHTS, THOUGHTS_ZH = ("I answer briefly.",), ("我简短回答。",)


def train_case(rng: random.Random) -> Case:
    return for_training(_draw, rng)


def held_out_cases(seed: int, count: int) -> list[Case]:
    return for_evaluation(_draw, random.Random(f"documents {seed}"), count)


def document_cases() -> list[Case]:
    """The documents' own prompts with thinking on, as their requests ask it, and off."""
    return [
        _case(name, language, ({"role": "user", "content": prompt},), thinks)
        for name, language, prompt in OF_THE_DOCUMENTS
        for thinks in (True, False)
    ]


def score(case: Case, message: Mapping[str, Any]) -> tuple[int, int]:
    """Right if the answer holds what it must."""
    content = plain(message.get("content") or "")
    return int(all(plain(part) in content for part in case.facets["parts"])), 1


def _draw(rng: random.Random) -> tuple[Case, bool]:
    """A case, and whether it is held out."""
    language = LANGUAGES[rng.random() < 0.45]
    luck = rng.random()
    thinks = rng.random() < 0.5
    history = _facts_before(rng, language) if rng.random() < 0.06 else earlier(rng, language, 0.1)
    if luck < 0.04:
        name, language, prompt = pick(rng, OF_THE_DOCUMENTS)
        return _case(name, language, ({"role": "user", "content": prompt},), thinks), False
    if luck < 0.30:
        question = roughened(rng, unknown_question(rng, language))
        return _unknown(language, (*history, {"role": "user", "content": question}), thinks), is_held_out("unknown", key(question))
    if luck < 0.38:
        return _repeat(rng, language, thinks)
    name, question, held_out = intent_question(rng, language)
    return _case(name, language, (*history, {"role": "user", "content": question}), thinks), held_out


def _facts_before(rng: random.Random, language: str) -> tuple[Message, ...]:
    case = facts.train_case(rng)
    while case.facets["language"] != language:
        case = facts.train_case(rng)
    before = [message for message in case.messages if message["role"] != "system"]
    return (*before, {"role": "assistant", "content": case.answer})


def _case(name: str, language: str, messages: tuple[Message, ...], thinks: bool) -> Case:
    intent = INTENTS[name]
    facets = {"kind": name, "language": language, "parts": intent.parts[language]}
    return Case("documents", messages, intent.answer[language], intent.thought[language] if thinks else None, facets=facets)


def _unknown(language: str, messages: tuple[Message, ...], thinks: bool) -> Case:
    facets = {"kind": "unknown", "language": language, "parts": ("not know" if language == "en" else "不知道",)}
    return Case("documents", messages, UNKNOWN[language], UNKNOWN_THOUGHT[language] if thinks else None, facets=facets)


def _repeat(rng: random.Random, language: str, thinks: bool) -> tuple[Case, bool]:
    text = " ".join(
        DRAW[pick(rng, ("text", "text", "code", "address", "word", "object", "time"))](rng, language)[0]
        for _ in range(1 + (rng.random() < 0.3))
    )
    question = fill(roughened(rng, wording(rng, _REPEAT[language])), {"text": text})
    facets = {"kind": "repeat", "language": language, "parts": (text,)}
    messages = ({"role": "user", "content": question},)
    return Case("documents", messages, text, _REPEAT_THOUGHT[language] if thinks else None, facets=facets), is_held_out("repeat", text)
