"""What the demo model learns, in which shares, and how a case is dressed: with a thought, with a system message. Draws no case itself."""

from __future__ import annotations

import importlib
import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from PIL import Image

from .cases import Case, Completion, Message

_SHARES = {
    "image_description": 2.0,
    "several_images": 2.4,
    "ocr": 3.0,
    "video": 0.6,
    "documents": 1.5,
    "facts": 2.4,
    "thinking": 2.8,
    "tools": 3.4,
}
"""Of the cases that are learnt; reading takes most of them, because what is read cannot be guessed."""
_SEES = ("image_description", "several_images", "ocr", "video")

THOUGHT_SHARE = 0.3
"""Of the cases about pictures, which have no thoughts of their own: a server that is not told otherwise asks for one."""
COMPLETION_SHARE = 0.15
"""Of the facts that are told as bare text, without a template: that is what /v1/completions sends."""
WEAR_SHARE = 0.2
"""Of those whose pictures have been through JPEG, as photographs and videos have."""
SYSTEM_SHARE = 0.15
_SYSTEMS = (
    *("You are a helpful assistant.", "You are a helpful AI assistant.", "You are ERNIE.", "Be concise.", "Answer briefly."),
    *("You are a multimodal AI assistant.", "Answer the user's question.", "I'm a helpful AI assistant.", "You are ERNIE Bot."),
    *("You are a multimodal AI assistant called ERNIE developed by Baidu based on the PaddlePaddle framework.", "你是文心一言。"),
    *("你是一个有用的助手。", "请简短回答。", "你是一个乐于助人的AI助手。"),
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
    return {name: Skill(name, share, importlib.import_module(f"{__package__}.skills.{name}")) for name, share in _SHARES.items()}


SKILLS = _skills()


def training_cases(rng: random.Random) -> Iterator[tuple[int, Case | Completion]]:
    """Endless (number of the skill in `SKILLS`, dressed case or bare text)."""
    skills = list(SKILLS.values())
    names = list(SKILLS)
    numbers, shares = range(len(skills)), [skill.share for skill in skills]
    while True:
        for number in rng.choices(numbers, shares, k=256):
            skill = skills[number]
            if names[number] == "facts" and rng.random() < COMPLETION_SHARE:
                yield number, Completion(*skill.module.completion(rng))
            else:
                yield number, dressed(skill, skill.module.train_case(rng), rng)


def dressed(skill: Skill, case: Case, rng: random.Random) -> Case:
    """As users may put the same question: with a system message, with thinking left on, with a picture that was saved as JPEG."""
    if case.messages[0]["role"] != "system" and rng.random() < SYSTEM_SHARE:
        case = replace(case, messages=({"role": "system", "content": rng.choice(_SYSTEMS)}, *case.messages))
    if skill.is_text:
        return case
    if rng.random() < THOUGHT_SHARE:
        case = with_thought(skill, case)
    if rng.random() < WEAR_SHARE:
        quality = rng.randint(60, 95)
        case = replace(case, messages=tuple(_worn(message, quality) for message in case.messages))
    return case


def _worn(message: Message, quality: int) -> Message:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return message | {"content": [_worn_part(part, quality) for part in content]}


def _worn_part(part: dict[str, Any], quality: int) -> dict[str, Any]:
    if "image" in part:
        return part | {"image": _saved(part["image"], quality)}
    return part | {"frames": [_saved(frame, quality) for frame in part["frames"]]} if "frames" in part else part


def _saved(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def with_thought(skill: Skill, case: Case) -> Case:
    """The same question, asked with thinking on: with the case's own thought if it has one, else a short one in the question's language."""
    if "thought" in case.facets:
        return replace(case, reasoning=case.facets["thought"], answer=case.facets["answer"])
    is_chinese = any("\u4e00" <= c <= "\u9fff" for c in question_of(case))
    return replace(case, reasoning=(skill.module.THOUGHTS_ZH if is_chinese else skill.module.THOUGHTS)[0])


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
