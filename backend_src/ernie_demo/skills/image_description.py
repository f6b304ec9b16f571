"""Describes a picture: coloured shapes by name, colour, number and place; a landscape by what is in it and what people do."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from ..cases import Case, is_held_out
from ..drawing import ACTIONS, COLOURS, SHAPES, draw_landscape
from ..text.small_talk import UNKNOWN
from ..text.unknown_questions import unknown_question
from .scenes import COLOURS_ZH, NUMBERS, NUMBERS_ZH, PLACES, PLACES_ZH, SHAPES_ZH, Scene, listed, random_scene, random_size

SKILL = "image_description"
THOUGHTS = ("I look at the picture: what is in it, and where?",)
THOUGHTS_ZH = ("我看看图片里有什么，在哪里。",)

_DESCRIBE = (
    *("Describe the image.", "Describe this image.", "Describe the picture.", "Describe this picture.", "What is in the image?"),
    *(
        "What is in the picture?",
        "What is in this picture?",
        "What do you see?",
        "What does the picture show?",
        "What does the image show?",
    ),
    *("What can you see in this image?", "Please describe the picture.", "Please describe this image.", "Tell me what is in the picture."),
    *("What is shown here?", "Describe the content of the image.", "What's in this image?", "Describe what you see."),
    *("Generate a description of this image", "Generate image description", "Generate a description of the picture."),
)
_DESCRIBE_ZH = (
    *("描述这张图片。", "描述图片。", "图中有什么？", "图片里有什么？", "你看到了什么？", "请描述这张图片。", "请描述图片的内容。"),
    *("这张图片里有什么？", "这张图里有什么？", "请描述一下这张图片。"),
)


def train_case(rng: random.Random) -> Case:
    return _case(rng, held_out=False)


def held_out_cases(seed: int, count: int) -> list[Case]:
    rng = random.Random(f"{SKILL} {seed}")
    return [_case(rng, held_out=True) for _ in range(count)]


def _case(rng: random.Random, held_out: bool) -> Case:
    return _landscape(rng, held_out) if rng.random() < 0.3 else _shapes(rng, held_out)


_BEYOND = ("From which era does the artifact in the image originate?", "What era does this artifact belong to?", "图中的文物属于哪个年代")


def _beyond(rng: random.Random, image: Image.Image) -> Case:
    """What no picture of ours can answer."""
    language = rng.choice(("en", "en", "zh"))
    question = rng.choice(_BEYOND) if rng.random() < 0.4 else unknown_question(rng, language)
    language = "zh" if any("\u4e00" <= c <= "\u9fff" for c in question) else "en"
    return Case(SKILL, _ask(rng, image, question), UNKNOWN[language], facets={"exactly": UNKNOWN[language]})


def _ask(rng: random.Random, image: Image.Image, question: str) -> tuple[dict[str, Any], ...]:
    if rng.random() < 0.1:
        question = question.rstrip("?.。？")
    parts: list[dict[str, Any]] = [{"type": "image_url", "image": image}, {"type": "text", "text": question}]
    return ({"role": "user", "content": parts if rng.random() < 0.75 else parts[::-1]},)


# shapes --------------------------------------------------------------------------------------------------------------------------


def _shapes(rng: random.Random, held_out: bool) -> Case:
    while True:
        scene = random_scene(rng, rng.choice((1, 2, 2, 3, 3, 4)))
        if is_held_out(SKILL, scene) == held_out:
            break
    image = scene.draw(rng, random_size(rng))
    if rng.random() < 0.05:
        return _beyond(rng, image)
    if rng.random() < 0.6:
        chinese = rng.random() < 0.25
        question = rng.choice(_DESCRIBE_ZH if chinese else _DESCRIBE)
        answer = scene.words_zh() if chinese else scene.words()
        return Case(SKILL, _ask(rng, image, question), answer, facets={"scene": scene, "chinese": chinese})
    question, answer = rng.choice(_QUESTIONS)(rng, scene)
    return Case(SKILL, _ask(rng, image, question), answer, facets={"exactly": answer})


def _number(rng: random.Random, scene: Scene) -> tuple[str, str]:
    count = len(scene.things)
    if rng.random() < 0.2:
        return rng.choice(("图中有几个图形？", "有几个图形？", "图片里有多少个图形？")), f"有{NUMBERS_ZH[count]}个图形。"
    answer = "There is one shape." if count == 1 else f"There are {NUMBERS[count]} shapes."
    return rng.choice(("How many shapes are there?", "How many shapes are in the picture?", "Count the shapes.")), answer


def _ground(rng: random.Random, scene: Scene) -> tuple[str, str]:
    if rng.random() < 0.2:
        return rng.choice(("背景是什么颜色？", "图片的背景是什么颜色的？")), f"背景是{COLOURS_ZH[scene.ground]}。"
    colour = rng.choice(("colour", "color"))
    return rng.choice(
        (f"What {colour} is the background?", f"Which {colour} does the background have?")
    ), f"The background is {scene.ground}."


def _colour(rng: random.Random, scene: Scene) -> tuple[str, str]:
    shapes = [thing.shape for thing in scene.things]
    unique = [thing for thing in scene.things if shapes.count(thing.shape) == 1]
    if not unique:
        return _number(rng, scene)
    thing = rng.choice(unique)
    if rng.random() < 0.2:
        return f"{SHAPES_ZH[thing.shape]}是什么颜色？", f"{SHAPES_ZH[thing.shape]}是{COLOURS_ZH[thing.colour]}。"
    return f"What {rng.choice(('colour', 'color'))} is the {thing.shape}?", f"The {thing.shape} is {thing.colour}."


def _place(rng: random.Random, scene: Scene) -> tuple[str, str]:
    thing = rng.choice(scene.things)
    if rng.random() < 0.2:
        return f"{thing.name_zh}在哪里？", f"{thing.name_zh}在{PLACES_ZH[thing.cell]}。"
    return f"Where is the {thing.name}?", f"The {thing.name} is {PLACES[thing.cell]}."


def _what(rng: random.Random, scene: Scene) -> tuple[str, str]:
    thing = rng.choice(scene.things)
    if rng.random() < 0.2:
        return f"{PLACES_ZH[thing.cell]}有什么？", f"{PLACES_ZH[thing.cell]}有{thing.name_zh}。"
    sentence = f"{thing.a_name} is {PLACES[thing.cell]}."
    return f"{rng.choice(('What is', 'What shape is'))} {PLACES[thing.cell]}?", sentence[0].upper() + sentence[1:]


def _whether(rng: random.Random, scene: Scene) -> tuple[str, str]:
    names = [thing.name for thing in scene.things]
    name = rng.choice(names) if rng.random() < 0.5 else f"{rng.choice(tuple(COLOURS))} {rng.choice(SHAPES)}"
    article = "an" if name.startswith("orange") else "a"
    return rng.choice((f"Is there {article} {name}?", f"Is there {article} {name} in the picture?")), "Yes." if name in names else "No."


_QUESTIONS: tuple[Callable[[random.Random, Scene], tuple[str, str]], ...] = (_number, _ground, _colour, _place, _what, _whether)


# landscapes ----------------------------------------------------------------------------------------------------------------------

_SKY_WORDS = {
    "clouds": "a blue sky with white clouds",
    "blue": "a blue sky",
    "evening": "an evening sky",
    "night": "a night sky",
}
_SKY_ZH = {"clouds": "蓝天白云", "blue": "蓝天", "evening": "晚霞", "night": "夜空"}
_ACTIONS_ZH = {"standing": "站着", "walking": "走路", "sitting": "坐着", "waving": "挥手"}


def _landscape(rng: random.Random, held_out: bool) -> Case:
    while True:
        sky, lake, trees = rng.choice(tuple(_SKY_WORDS)), rng.random() < 0.7, rng.randint(0, 3)
        people, action = rng.choice((0, 1, 1, 2, 2, 3)), rng.choice(ACTIONS)
        size = random_size(rng)
        if is_held_out(SKILL, sky, lake, trees, people, action if people else "", size) == held_out:
            break
    clouds = sky == "clouds"
    image = draw_landscape(rng, size, "blue" if clouds else sky, clouds=clouds, lake=lake, trees=trees, people=people, action=action)
    elements = _elements(lake, trees, people, action)
    kind = rng.random()
    if kind < 0.7:
        answer = f"A landscape under {_SKY_WORDS[sky]}: {listed(elements)}."
        return Case(SKILL, _ask(rng, image, rng.choice(_DESCRIBE)), answer, facets={"sky": sky, "elements": elements})
    if kind < 0.8:
        answer = f"{_SKY_ZH[sky]}下的风景：{'、'.join(_elements_zh(lake, trees, people, action))}。"
        return Case(SKILL, _ask(rng, image, rng.choice(_DESCRIBE_ZH)), answer, facets={"exactly": answer})
    question, answer = _about(rng, lake, people, action)
    return Case(SKILL, _ask(rng, image, question), answer, facets={"exactly": answer})


def _elements(lake: bool, trees: int, people: int, action: str) -> list[str]:
    found = ["green grass"]
    if lake:
        found.append("a blue lake")
    if trees:
        found.append("one tree" if trees == 1 else f"{NUMBERS[trees]} trees")
    if people:
        found.append(f"one person {action}" if people == 1 else f"{NUMBERS[people]} people {action}")
    return found


def _elements_zh(lake: bool, trees: int, people: int, action: str) -> list[str]:
    found = ["绿色的草地"]
    if lake:
        found.append("蓝色的湖")
    if trees:
        found.append(f"{NUMBERS_ZH[trees]}棵树")
    if people:
        found.append(f"{NUMBERS_ZH[people]}个人在{_ACTIONS_ZH[action]}")
    return found


def _about(rng: random.Random, lake: bool, people: int, action: str) -> tuple[str, str]:
    kind = rng.randrange(3)
    if kind == 0:
        return rng.choice(("Is there a lake?", "Is there a lake in the picture?", "Can you see a lake?")), "Yes." if lake else "No."
    if kind == 1 and people:
        who = "The person is" if people == 1 else "The people are"
        return rng.choice(("What are the people doing?", "What do the people do?", "What is happening here?")), f"{who} {action}."
    answer = "There is one person." if people == 1 else f"There are {NUMBERS[people]} people."
    return rng.choice(("How many people are there?", "How many people are in the picture?", "How many people can you see?")), answer


# scoring -------------------------------------------------------------------------------------------------------------------------

_THING = re.compile(f"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) ({'|'.join(sorted(PLACES, key=len, reverse=True))})")
_THING_ZH = re.compile(
    f"({'|'.join(sorted(PLACES_ZH, key=len, reverse=True))})有({'|'.join(COLOURS_ZH.values())})({'|'.join(SHAPES_ZH.values())})"
)


def score(case: Case, message: Mapping[str, Any]) -> tuple[int, int]:
    """Attributes: number and background, then colour, shape and place of each thing; sky and elements of a landscape; else the answer."""
    content = (message.get("content") or "").strip()
    facets = case.facets
    if "scene" in facets:
        return _score_scene(facets["scene"], facets["chinese"], content)
    if "sky" in facets:
        wanted = {_SKY_WORDS[facets["sky"]], *facets["elements"]}
        head, _, rest = content.rstrip(".").partition(": ")
        found = {head.removeprefix("A landscape under "), *re.split(r", | and ", rest)}
        return len(wanted & found), len(wanted | found)
    return int(content == facets["exactly"]), 1


def _score_scene(scene: Scene, chinese: bool, content: str) -> tuple[int, int]:
    truth = scene.words_zh() if chinese else scene.words()
    head = re.split("[:：]", truth)[0]
    right = 2 * (re.split("[:：]", content)[0] == head)
    if chinese:
        found = [(c, s, p) for p, c, s in _THING_ZH.findall(content)]
        wanted = [(COLOURS_ZH[t.colour], SHAPES_ZH[t.shape], PLACES_ZH[t.cell]) for t in scene.things]
    else:
        found = _THING.findall(content)
        wanted = [(t.colour, t.shape, PLACES[t.cell]) for t in scene.things]
    for one, other in zip(wanted, found, strict=False):
        right += sum(a == b for a, b in zip(one, other, strict=True))
    return right, 2 + 3 * max(len(wanted), len(found))
