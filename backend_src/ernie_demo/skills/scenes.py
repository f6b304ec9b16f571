"""Scenes of one to four coloured shapes, drawn and put into words; knows no question."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from ..drawing import COLOURS, SHAPES, draw_shape, shade

PLACES = (
    *("at the top left", "at the top", "at the top right"),
    *("on the left", "in the centre", "on the right"),
    *("at the bottom left", "at the bottom", "at the bottom right"),
)
PLACES_ZH = ("左上角", "上方", "右上角", "左边", "中间", "右边", "左下角", "下方", "右下角")
COLOURS_ZH = dict(zip(COLOURS, ("红色", "橙色", "黄色", "绿色", "蓝色", "紫色", "粉色", "棕色", "黑色", "白色", "灰色"), strict=True))
SHAPES_ZH = dict(zip(SHAPES, ("圆形", "正方形", "三角形", "星形", "菱形", "十字"), strict=True))
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven")
NUMBERS_ZH = ("没有", "一", "两", "三", "四", "五", "六", "七")


@dataclass(frozen=True)
class Thing:
    shape: str
    colour: str
    cell: int
    """0 to 8, row by row."""

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def name_zh(self) -> str:
        return f"{COLOURS_ZH[self.colour]}{SHAPES_ZH[self.shape]}"

    @property
    def a_name(self) -> str:
        return f"{'an' if self.colour == 'orange' else 'a'} {self.name}"


@dataclass(frozen=True)
class Scene:
    ground: str
    things: tuple[Thing, ...]
    """In the order of their cells."""

    def words(self) -> str:
        shapes = "One shape" if len(self.things) == 1 else f"{NUMBERS[len(self.things)].capitalize()} shapes"
        on = f"{'an' if self.ground == 'orange' else 'a'} {self.ground} background"
        return f"{shapes} on {on}: {listed([f'{thing.a_name} {PLACES[thing.cell]}' for thing in self.things])}."

    def words_zh(self) -> str:
        things = "，".join(f"{PLACES_ZH[thing.cell]}有{thing.name_zh}" for thing in self.things)
        return f"{COLOURS_ZH[self.ground]}背景上有{NUMBERS_ZH[len(self.things)]}个图形：{things}。"

    def draw(self, rng: random.Random, size: tuple[int, int]) -> Image.Image:
        """`size`: (width, height)."""
        image = Image.new("RGB", size, shade(rng, self.ground))
        canvas = ImageDraw.Draw(image)
        width, height = size[0] / 3, size[1] / 3
        for thing in self.things:
            radius = min(width, height) * rng.uniform(0.3, 0.44)
            slack_x, slack_y = (max(0.0, side * 0.46 - radius) for side in (width, height))
            x = width * (thing.cell % 3 + 0.5) + rng.uniform(-slack_x, slack_x)
            y = height * (thing.cell // 3 + 0.5) + rng.uniform(-slack_y, slack_y)
            draw_shape(canvas, thing.shape, x, y, radius, shade(rng, thing.colour))
        return image


def random_scene(rng: random.Random, count: int) -> Scene:
    """No shape has the ground's colour; no two things are alike."""
    ground = rng.choice(tuple(COLOURS))
    others = [colour for colour in COLOURS if colour != ground]
    kinds = rng.sample([(shape, colour) for shape in SHAPES for colour in others], count)
    cells = sorted(rng.sample(range(9), count))
    return Scene(ground, tuple(Thing(shape, colour, cell) for (shape, colour), cell in zip(kinds, cells, strict=True)))


def random_size(rng: random.Random, low: int = 100, high: int = 400) -> tuple[int, int]:
    """(width, height) of a picture: mostly near the square, at times long."""
    side = rng.randint(low, high)
    ratio = rng.choice((1.0, 1.0, rng.uniform(0.6, 1.6)))
    return max(64, round(side * ratio**0.5)), max(64, round(side / ratio**0.5))


def listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
