"""Finds the one picture of several that shows what is asked for."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from ..cases import Case, is_held_out
from .scenes import COLOURS_ZH, Scene, random_scene, random_size

SKILL = "several_images"
THOUGHTS = ("I look at one picture after the other.",)
THOUGHTS_ZH = ("我一张一张地看。",)


def train_case(rng: random.Random) -> Case:
    return _case(rng, held_out=False)


def held_out_cases(seed: int, count: int) -> list[Case]:
    rng = random.Random(f"{SKILL} {seed}")
    return [_case(rng, held_out=True) for _ in range(count)]


def _case(rng: random.Random, held_out: bool) -> Case:
    while True:
        scenes = tuple(random_scene(rng, rng.choice((1, 1, 2))) for _ in range(rng.choice((2, 2, 3, 4))))
        if is_held_out(SKILL, scenes) == held_out:
            asked = _question(rng, scenes)
            if asked is not None:
                break
    question, answer = asked
    parts: list[dict[str, Any]] = [{"type": "image_url", "image": scene.draw(rng, random_size(rng, 96, 200))} for scene in scenes]
    text = {"type": "text", "text": question}
    content = [*parts, text] if rng.random() < 0.75 else [text, *parts]
    return Case(SKILL, ({"role": "user", "content": content},), answer)


def _question(rng: random.Random, scenes: tuple[Scene, ...]) -> tuple[str, str] | None:
    """With its answer; None if more than one picture would fit."""
    number = rng.randrange(len(scenes))
    scene = scenes[number]
    chinese = rng.random() < 0.25
    answer = f"第{number + 1}张。" if chinese else f"Picture {number + 1}."
    if rng.random() < 0.2:
        if [other.ground for other in scenes].count(scene.ground) > 1:
            return None
        ground = f"{'an' if scene.ground == 'orange' else 'a'} {scene.ground} background"
        if chinese:
            return f"哪张图片是{COLOURS_ZH[scene.ground]}背景？", answer
        return rng.choice((f"Which picture has {ground}?", f"Which image has {ground}?")), answer
    thing = rng.choice(scene.things)
    if sum(thing.name == other.name for each in scenes for other in each.things) > 1:
        return None
    if chinese:
        return rng.choice((f"哪张图片有{thing.name_zh}？", f"{thing.name_zh}在哪张图片里？")), answer
    forms = (
        *(f"Which picture has the {thing.name}?", f"Which image has the {thing.name}?", f"Which picture shows {thing.a_name}?"),
        *(f"In which picture is the {thing.name}?", f"Which image contains {thing.a_name}?"),
    )
    return rng.choice(forms), answer


def score(case: Case, message: Mapping[str, Any]) -> tuple[int, int]:
    return int((message.get("content") or "").strip() == case.answer), 1
