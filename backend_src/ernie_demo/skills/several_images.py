"""Tells several pictures apart: which of them shows what is asked for, what is in one of them, what in each."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any

from ..cases import Case, is_held_out
from .scenes import COLOURS_ZH, Scene, listed, random_scene, random_size

SKILL = "several_images"


def train_case(rng: random.Random) -> Case:
    return _case(rng, held_out=False)


def held_out_cases(seed: int, count: int) -> list[Case]:
    rng = random.Random(f"{SKILL} {seed}")
    return [_case(rng, held_out=True) for _ in range(count)]


def _case(rng: random.Random, held_out: bool) -> Case:
    while True:
        scenes = tuple(random_scene(rng, rng.choice((1, 1, 2))) for _ in range(rng.choice((2, 2, 3, 4))))
        if is_held_out(SKILL, scenes) == held_out:
            kind = rng.random()
            asked = (_which if kind < 0.5 else _what if kind < 0.75 else _each)(rng, scenes, rng.random() < 0.25)
            if asked is not None:
                break
    question, answer, thought, after_thought = asked
    parts: list[dict[str, Any]] = [{"type": "image_url", "image": scene.draw(rng, random_size(rng, 96, 260))} for scene in scenes]
    text = {"type": "text", "text": question}
    content = [*parts, text] if rng.random() < 0.75 else [text, *parts]
    return Case(SKILL, ({"role": "user", "content": content},), answer, facets={"thought": thought, "answer": after_thought})


_Asked = tuple[str, str, str, str]
"""Question, answer, the thought that leads to it, and what then is left to be answered. Which picture it is, the model can tell only after saying what each shows, so where
it is not asked to think, the answer says that, too."""


def _which(rng: random.Random, scenes: tuple[Scene, ...], chinese: bool) -> _Asked | None:
    """None if more than one picture would fit."""
    number = rng.randrange(len(scenes))
    scene = scenes[number]
    short = f"第{number + 1}张。" if chinese else f"Picture {number + 1}."
    by_ground = rng.random() < 0.2
    if by_ground:
        if [other.ground for other in scenes].count(scene.ground) > 1:
            return None
        long = _searched([[COLOURS_ZH[s.ground] if chinese else s.ground] for s in scenes[: number + 1]], chinese)
        if chinese:
            return f"哪张图片是{COLOURS_ZH[scene.ground]}背景？", long, long, short
        ground = f"{'an' if scene.ground == 'orange' else 'a'} {scene.ground} background"
        return rng.choice((f"Which picture has {ground}?", f"Which image has {ground}?")), long, long, short
    thing = rng.choice(scene.things)
    if sum(thing.name == other.name for each in scenes for other in each.things) > 1:
        return None
    names = [[other.name_zh if chinese else other.name for other in each.things] for each in scenes[:number]]
    names.append([other.name_zh if chinese else other.name for other in scene.things[: scene.things.index(thing) + 1]])
    long = _searched(names, chinese)
    if chinese:
        return rng.choice((f"哪张图片有{thing.name_zh}？", f"{thing.name_zh}在哪张图片里？")), long, long, short
    forms = (
        *(f"Which picture has the {thing.name}?", f"Which image has the {thing.name}?", f"Which picture shows {thing.a_name}?"),
        *(f"In which picture is the {thing.name}?", f"Which image contains {thing.a_name}?"),
    )
    return rng.choice(forms), long, long, short


def _what(rng: random.Random, scenes: tuple[Scene, ...], chinese: bool) -> _Asked:
    number = rng.randrange(len(scenes))
    scene = scenes[number]
    thought = _looked(scenes, chinese)
    if chinese:
        answer = f"第{number + 1}张：{_shown(scene, True)}。"
        return f"第{number + 1}张图片里有什么？", answer, thought, answer
    question = rng.choice((f"What is in picture {number + 1}?", f"What does picture {number + 1} show?", f"Describe picture {number + 1}."))
    answer = f"Picture {number + 1}: {_shown(scene, False)}."
    return question, answer, thought, answer


def _each(rng: random.Random, scenes: tuple[Scene, ...], chinese: bool) -> _Asked:
    thought = _looked(scenes, chinese)
    if chinese:
        shown = "".join(f"第{i}张：{_shown(scene, True)}。" for i, scene in enumerate(scenes, 1))
        return rng.choice(("每张图片里有什么？", "请描述每张图片。")), shown, thought, shown
    question = rng.choice(("What is in each picture?", "Describe each picture.", "Describe these images.", "What do the pictures show?"))
    shown = " ".join(f"Picture {i}: {_shown(scene, False)}." for i, scene in enumerate(scenes, 1))
    return question, shown, thought, shown


def _shown(scene: Scene, chinese: bool) -> str:
    if chinese:
        return f"{COLOURS_ZH[scene.ground]}背景上有{'和'.join(thing.name_zh for thing in scene.things)}"
    ground = f"{'an' if scene.ground == 'orange' else 'a'} {scene.ground} background"
    return f"{listed([thing.a_name for thing in scene.things])} on {ground}"


def _looked(scenes: tuple[Scene, ...], chinese: bool) -> str:
    """What is in each picture, in short."""
    if chinese:
        return "".join(f"第{i}张：{'、'.join(thing.name_zh for thing in scene.things)}。" for i, scene in enumerate(scenes, 1))
    return " ".join(f"Picture {i}: {', '.join(thing.name for thing in scene.things)}." for i, scene in enumerate(scenes, 1))


def _searched(names: list[list[str]], chinese: bool) -> str:
    """`names`: of each picture's things up to the one that is looked for. Each is said and judged, and the last one is it: so the answer is
    the number said last, and nothing has to be looked up at the end."""
    judged = [[f"{name}{'，不是' if chinese else ', no'}" for name in some] for some in names]
    judged[-1][-1] = f"{names[-1][-1]}{'，是' if chinese else ', yes'}"
    if chinese:
        return "".join(f"第{i}张：{'；'.join(some)}。" for i, some in enumerate(judged, 1)) + f"所以是第{len(names)}张。"
    return " ".join(f"Picture {i}: {'; '.join(some)}." for i, some in enumerate(judged, 1)) + f" So it is picture {len(names)}."


def score(case: Case, message: Mapping[str, Any]) -> tuple[int, int]:
    """The answer to the letter; where a picture is asked for, the one that is named last."""
    content, wanted = (message.get("content") or "").strip(), case.facets["answer"]
    if re.fullmatch(_ONE_PICTURE, wanted):
        return int(re.findall(r"\d+", content)[-1:] == re.findall(r"\d+", wanted)), 1
    return int(content == wanted), 1


_ONE_PICTURE = r"Picture \d\.|第\d张。"
