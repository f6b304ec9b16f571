"""Watches a short video: counts the apples, says which way the ball moves and what colour it has."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageDraw

from ..cases import Case, is_held_out
from ..drawing import COLOURS, Colour, shade
from .scenes import COLOURS_ZH, NUMBERS, NUMBERS_ZH

SKILL = "video"
THOUGHTS = ("I watch the video from its first to its last frame.",)
THOUGHTS_ZH = ("我从头到尾看视频。",)

NUM_FRAMES = 8
_MOVES = {"to the left": (-1, 0), "to the right": (1, 0), "up": (0, -1), "down": (0, 1)}
_MOVES_ZH = dict(zip(_MOVES, ("向左", "向右", "向上", "向下"), strict=True))
_APPLE_GROUNDS = ("white", "grey", "blue", "yellow", "black")


def train_case(rng: random.Random) -> Case:
    return _case(rng, held_out=False)


def held_out_cases(seed: int, count: int) -> list[Case]:
    rng = random.Random(f"{SKILL} {seed}")
    return [_case(rng, held_out=True) for _ in range(count)]


def _case(rng: random.Random, held_out: bool) -> Case:
    while True:
        case, combination = _apples(rng) if rng.random() < 0.5 else _ball(rng)
        if is_held_out(SKILL, combination) == held_out:
            return case(rng)


def _apples(rng: random.Random) -> tuple[Any, tuple[object, ...]]:
    count, ground = rng.randint(1, 6), rng.choice(_APPLE_GROUNDS)
    cells = tuple(rng.sample(range(9), count))
    return lambda rng: _apple_case(rng, count, ground, cells), ("apples", ground, cells)


def _ball(rng: random.Random) -> tuple[Any, tuple[object, ...]]:
    colour, ground = rng.sample(tuple(COLOURS), 2)
    move, lane = rng.choice(tuple(_MOVES)), rng.randrange(5)
    return lambda rng: _ball_case(rng, colour, ground, move, lane), ("ball", colour, ground, move, lane)


def _ask(rng: random.Random, frames: list[Image.Image], question: str, answer: str) -> Case:
    parts: list[dict[str, Any]] = [
        {"type": "video_url", "frames": frames, "fps": rng.choice((2.0, 2.0, 2.0, 1.5, 1.0))},
        {"type": "text", "text": question},
    ]
    return Case(SKILL, ({"role": "user", "content": parts if rng.random() < 0.75 else parts[::-1]},), answer)


def _canvas_size(rng: random.Random) -> tuple[int, int]:
    """Of some sizes only: the stamps drawn on frames are remembered for each."""
    side = rng.randrange(100, 181, 10)
    return side, round(side * rng.choice((1.0, 0.75))) // 2 * 2  # as most video codecs want it


def _apple_case(rng: random.Random, count: int, ground: str, cells: tuple[int, ...]) -> Case:
    width, height = _canvas_size(rng)
    paper = shade(rng, ground)
    apples = [((cell % 3 + 0.5) / 3, (cell // 3 + 0.5) / 3, shade(rng, rng.choice(("red", "red", "green")))) for cell in cells]
    swing_x, swing_y = rng.uniform(-0.05, 0.05), rng.uniform(-0.05, 0.05)
    frames = []
    for number in range(NUM_FRAMES):
        image = Image.new("RGB", (width, height), paper)
        canvas = ImageDraw.Draw(image)
        share = number / (NUM_FRAMES - 1) - 0.5
        for x, y, colour in apples:
            _draw_apple(canvas, (x + swing_x * share) * width, (y + swing_y * share) * height, min(width, height) * 0.11, colour)
        frames.append(image)
    if rng.random() < 0.25:
        return _ask(
            rng, frames, rng.choice(("视频里有几个苹果？", "有几个苹果？", "视频中有多少个苹果？")), f"有{NUMBERS_ZH[count]}个苹果。"
        )
    question = rng.choice(
        (
            "How many apples are there?",
            "How many apples are in the video?",
            "How many apples can you see?",
            "How many apples are in the scene?",
            "Count the apples.",
        )
    )
    return _ask(rng, frames, question, "There is one apple." if count == 1 else f"There are {NUMBERS[count]} apples.")


def _draw_apple(canvas: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour) -> None:
    canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    canvas.line((x, y - radius * 0.8, x + radius * 0.3, y - radius * 1.4), fill=(90, 55, 25), width=max(1, round(radius * 0.25)))


def _ball_case(rng: random.Random, colour: str, ground: str, move: str, lane: int) -> Case:
    width, height = _canvas_size(rng)
    paper, fill = shade(rng, ground), shade(rng, colour)
    radius = min(width, height) * rng.uniform(0.1, 0.16)
    step = _MOVES[move]
    begin, end = rng.uniform(0.15, 0.35), rng.uniform(0.65, 0.85)
    across = 0.2 + 0.15 * lane
    frames = []
    for number in range(NUM_FRAMES):
        along = begin + (end - begin) * number / (NUM_FRAMES - 1)
        along = along if sum(step) > 0 else 1 - along
        x, y = (along * width, across * height) if step[0] else (across * width, along * height)
        image = Image.new("RGB", (width, height), paper)
        ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
        frames.append(image)
    chinese = rng.random() < 0.25
    if rng.random() < 0.2:
        if chinese:
            return _ask(rng, frames, "球是什么颜色？", f"球是{COLOURS_ZH[colour]}。")
        return _ask(rng, frames, f"What {rng.choice(('colour', 'color'))} is the ball?", f"The ball is {colour}.")
    if chinese:
        return _ask(rng, frames, rng.choice(("球往哪个方向移动？", "球向哪边移动？")), f"球{_MOVES_ZH[move]}移动。")
    question = rng.choice(
        ("Which way does the ball move?", "In which direction does the ball move?", "Where does the ball move?", "How does the ball move?")
    )
    return _ask(rng, frames, question, f"The ball moves {move}.")


def score(case: Case, message: Mapping[str, Any]) -> tuple[int, int]:
    return int((message.get("content") or "").strip() == case.answer), 1
