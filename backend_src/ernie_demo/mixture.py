"""What the demo model learns, in which shares, and how a case is dressed: with a thought, with a system message. Draws no case itself."""

from __future__ import annotations

import importlib
import importlib.util
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from .cases import Case

_SHARES = {
    "image_description": 3.0,
    "several_images": 1.2,
    "ocr": 4.0,
    "video": 1.2,
    "documents": 0.6,
    "facts": 1.0,
    "thinking": 1.0,
    "tools": 1.6,
}
"""Of the cases that are learnt; reading takes most of them, because what is read cannot be guessed."""
_SEES = ("image_description", "several_images", "ocr", "video")

THOUGHT_SHARE = 0.3
"""Of the cases without a thought of their own: a server that is not told otherwise asks for one."""
SYSTEM_SHARE = 0.15
_SYSTEMS = (
    *("You are a helpful assistant.", "You are a helpful AI assistant.", "You are ERNIE.", "Be concise.", "Answer briefly."),
    *("You are a multimodal AI assistant.", "Answer the user's question.", "你是一个有用的助手。", "请简短回答。"),
)


@dataclass(frozen=True)
class Skill:
    name: str
    share: float
    module: ModuleType

    @property
    def is_text(self) -> bool:
        return self.name not in _SEES


def _skills() -> dict[str, Skill]:
    there = [n for n in _SHARES if importlib.util.find_spec(f"{__package__}.skills.{n}")]
    return {name: Skill(name, _SHARES[name], importlib.import_module(f"{__package__}.skills.{name}")) for name in there}


SKILLS = _skills()


def training_cases(rng: random.Random) -> Iterator[tuple[int, Case]]:
    """Endless (number of the skill in `SKILLS`, dressed case)."""
    skills = list(SKILLS.values())
    numbers, shares = range(len(skills)), [skill.share for skill in skills]
    while True:
        for number in rng.choices(numbers, shares, k=256):
            yield number, dressed(skills[number], skills[number].module.train_case(rng), rng)


def dressed(skill: Skill, case: Case, rng: random.Random) -> Case:
    """As users may put the same question: at times with a system message, at times with thinking left on."""
    if case.messages[0]["role"] != "system" and rng.random() < SYSTEM_SHARE:
        case = replace(case, messages=({"role": "system", "content": rng.choice(_SYSTEMS)}, *case.messages))
    if case.reasoning is None and rng.random() < THOUGHT_SHARE:
        case = replace(case, reasoning=thought_for(skill, case))
    return case


def thought_for(skill: Skill, case: Case) -> str:
    """A short thought before an answer that needs none, in the question's language."""
    is_chinese = any("\u4e00" <= c <= "\u9fff" for c in question_of(case))
    return (skill.module.THOUGHTS_ZH if is_chinese else skill.module.THOUGHTS)[0]


def question_of(case: Case) -> str:
    """What the user says last."""
    content = next(message["content"] for message in reversed(case.messages) if message["role"] == "user")
    return content if isinstance(content, str) else "".join(part["text"] for part in content if part["type"] == "text")


def prompt_texts(case: Case) -> Iterator[str]:
    """Everything of a case that is said in words."""
    for message in case.messages:
        content: Any = message.get("content") or ""
        yield content if isinstance(content, str) else "\n".join(part["text"] for part in content if part["type"] == "text")
        for call in message.get("tool_calls", ()):
            yield json.dumps(call["function"], ensure_ascii=False)
    for tool in case.tools:
        yield json.dumps(tool, ensure_ascii=False)
    for name, arguments in case.tool_calls:
        yield json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    yield case.reasoning or ""
    yield case.answer
