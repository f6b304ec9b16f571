"""Draws what the demo model learns to see: coloured shapes, landscapes, lettering; knows no question and no answer.

Everything is drawn with Pillow in plain colours, a little jittered, at whatever size is asked for: the server resizes as it does in use.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ernie_backend.media.frames import FONT as ROBOTO

Colour = tuple[int, int, int]
Canvas = ImageDraw.ImageDraw

COLOURS: dict[str, Colour] = {
    "red": (214, 34, 34),
    "orange": (245, 140, 20),
    "yellow": (248, 220, 40),
    "green": (40, 150, 60),
    "blue": (36, 80, 210),
    "purple": (125, 45, 160),
    "pink": (250, 150, 190),
    "brown": (125, 75, 35),
    "black": (18, 18, 18),
    "white": (248, 248, 248),
    "grey": (140, 140, 140),
}
SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
_JITTER = 10
_DEJAVU = Path("/usr/share/fonts/truetype/dejavu")
"""Read where a machine has it; the two fonts that come with the packages are always there."""


def shade(rng: random.Random, colour: str) -> Colour:
    """One of the colour's many shades, never that of another."""
    red, green, blue = (max(0, min(255, value + rng.randint(-_JITTER, _JITTER))) for value in COLOURS[colour])
    return red, green, blue


def draw_shape(canvas: Canvas, shape: str, x: float, y: float, radius: float, fill: Colour) -> None:
    """Around (x, y), within `radius`."""
    if shape == "circle":
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    elif shape == "square":
        half = radius * 0.85
        canvas.rectangle((x - half, y - half, x + half, y + half), fill=fill)
    elif shape == "cross":
        arm = radius * 0.33
        canvas.rectangle((x - radius, y - arm, x + radius, y + arm), fill=fill)
        canvas.rectangle((x - arm, y - radius, x + arm, y + radius), fill=fill)
    else:
        canvas.polygon([(x + radius * px, y + radius * py) for px, py in _OUTLINES[shape]], fill=fill)


def _star() -> list[tuple[float, float]]:
    points = []
    for corner in range(10):
        length, angle = 1.05 if corner % 2 == 0 else 0.42, math.pi * (corner / 5 - 0.5)
        points.append((length * math.cos(angle), length * math.sin(angle)))
    return points


_OUTLINES = {
    "triangle": [(0.0, -1.0), (0.95, 0.8), (-0.95, 0.8)],
    "diamond": [(0.0, -1.05), (0.75, 0.0), (0.0, 1.05), (-0.75, 0.0)],
    "star": _star(),
}


# landscapes ----------------------------------------------------------------------------------------------------------------------

_SKIES = {"blue": ((120, 185, 250), (255, 225, 60)), "evening": ((250, 150, 80), (235, 70, 40)), "night": ((20, 25, 70), (235, 235, 215))}
"""Its colour and that of the sun, or moon, in it."""
ACTIONS = ("standing", "walking", "sitting", "waving")


def draw_landscape(
    rng: random.Random, size: tuple[int, int], sky: str, *, clouds: bool, lake: bool, trees: int, people: int, action: str
) -> Image.Image:
    """`size`: (width, height). Sky above grass; a lake in the middle, trees at the horizon, people in front, all doing the same."""
    width, height = size
    image = Image.new("RGB", size, _near(rng, _SKIES[sky][0]))
    canvas = ImageDraw.Draw(image)
    horizon = height * rng.uniform(0.42, 0.55)
    glow = min(size) * rng.uniform(0.06, 0.09)
    sun_x, sun_y = width * rng.uniform(0.1, 0.9), height * rng.uniform(0.1, 0.2)
    canvas.ellipse((sun_x - glow, sun_y - glow, sun_x + glow, sun_y + glow), fill=_SKIES[sky][1])
    if clouds:
        for x in _apart(rng, rng.choice((1, 2, 2)), width):
            _draw_cloud(canvas, x, height * rng.uniform(0.1, 0.24), min(size) * rng.uniform(0.07, 0.1))
    canvas.rectangle((0, horizon, width, height), fill=_near(rng, (70, 165, 60) if sky != "night" else (30, 90, 40)))
    if lake:
        middle, half = width * rng.uniform(0.25, 0.75), width * rng.uniform(0.18, 0.26)
        top = horizon + height * rng.uniform(0.03, 0.06)
        canvas.ellipse((middle - half, top, middle + half, top + height * rng.uniform(0.13, 0.18)), fill=_near(rng, (40, 105, 220)))
    for x in _apart(rng, trees, width):
        _draw_tree(canvas, x, horizon + height * 0.02, min(height, width) * rng.uniform(0.2, 0.26))
    foot = height * rng.uniform(0.9, 0.96)
    for x in _apart(rng, people, width):
        _draw_person(canvas, x, foot, min(height * 0.3, width * 0.3), action, _near(rng, rng.choice(_CLOTHES)))
    return image


_CLOTHES: tuple[Colour, ...] = ((190, 30, 40), (30, 30, 30), (245, 245, 245), (110, 40, 140))


def _near(rng: random.Random, colour: Colour) -> Colour:
    red, green, blue = (max(0, min(255, value + rng.randint(-_JITTER, _JITTER))) for value in colour)
    return red, green, blue


def _apart(rng: random.Random, count: int, width: int) -> list[float]:
    """Places from left to right that do not touch."""
    slots = sorted(rng.sample(range(4), count))
    return [width * (0.13 + 0.245 * slot + rng.uniform(-0.03, 0.03)) for slot in slots]


def _draw_cloud(canvas: Canvas, x: float, y: float, size: float) -> None:
    for shift, half in ((-1.0, 0.6), (0.0, 0.9), (1.0, 0.6)):
        canvas.ellipse((x + (shift - 0.8) * size, y - half * size, x + (shift + 0.8) * size, y + half * 0.7 * size), fill=(250, 250, 250))


def _draw_tree(canvas: Canvas, x: float, foot: float, height: float) -> None:
    trunk, crown = height * 0.08, height * 0.3
    canvas.rectangle((x - trunk, foot - height * 0.5, x + trunk, foot), fill=(100, 65, 30))
    canvas.ellipse((x - crown, foot - height, x + crown, foot - height * 0.35), fill=(20, 100, 35))


def _draw_person(canvas: Canvas, x: float, foot: float, height: float, action: str, clothes: Colour) -> None:
    head, line = height * 0.13, max(2, round(height * 0.1))
    hip = foot - height * (0.42 if action != "sitting" else 0.15)
    neck = hip - height * 0.34
    canvas.ellipse((x - head, neck - 2 * head, x + head, neck), fill=(240, 195, 160))
    canvas.line((x, neck, x, hip), fill=clothes, width=line + 1)
    arm, reach = neck + height * 0.08, height * 0.24
    if action == "waving":
        canvas.line((x, arm, x + reach, arm - height * 0.3), fill=clothes, width=line)
        canvas.line((x, arm, x - reach * 0.7, hip), fill=clothes, width=line)
    else:
        canvas.line((x, arm, x + reach * 0.7, hip), fill=clothes, width=line)
        canvas.line((x, arm, x - reach * 0.7, hip), fill=clothes, width=line)
    if action == "sitting":
        canvas.line((x, hip, x + height * 0.3, hip), fill=clothes, width=line)
        canvas.line((x + height * 0.3, hip, x + height * 0.3, foot), fill=clothes, width=line)
        return
    stride = height * (0.22 if action == "walking" else 0.05)
    canvas.line((x, hip, x - stride, foot), fill=clothes, width=line)
    canvas.line((x, hip, x + stride, foot), fill=clothes, width=line)


# lettering -----------------------------------------------------------------------------------------------------------------------

PACKAGED_FONTS = ("roboto", "pillow")


@lru_cache(maxsize=1)
def font_names() -> tuple[str, ...]:
    """The two packaged fonts, and DejaVu's faces where the machine has them."""
    faces = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "DejaVuSansCondensed", "DejaVuSerif-Bold")
    return (*PACKAGED_FONTS, *(face for face in faces if (_DEJAVU / f"{face}.ttf").is_file()))


@lru_cache(maxsize=512)
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    if name == "roboto":
        return ImageFont.truetype(str(ROBOTO), size)
    if name == "pillow":
        built_in = ImageFont.load_default(size)
        assert isinstance(built_in, ImageFont.FreeTypeFont), "Pillow without FreeType draws one size only"
        return built_in
    return ImageFont.truetype(str(_DEJAVU / f"{name}.ttf"), size)


def ink_and_paper(rng: random.Random) -> tuple[Colour, Colour]:
    """Two colours that differ enough to be read: mostly dark on light."""
    if rng.random() < 0.5:
        ink, paper = (rng.randint(0, 60),) * 3, (rng.randint(215, 255),) * 3
        return (ink, paper) if rng.random() < 0.8 else (paper, ink)
    while True:
        one, other = (shade(rng, rng.choice(tuple(COLOURS))) for _ in range(2))
        if abs(_brightness(one) - _brightness(other)) > 90:
            return one, other


def _brightness(colour: Colour) -> float:
    return 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]


def draw_lines(rng: random.Random, lines: Sequence[str], name: str, size: int) -> Image.Image:
    """Text on paper just large enough for it, with a margin."""
    ink, paper = ink_and_paper(rng)
    face = font(name, size)
    pitch = round(size * rng.uniform(1.2, 1.5))
    left, right, top, bottom = (round(size * rng.uniform(0.2, 1.2)) for _ in range(4))
    width = left + right + max(math.ceil(face.getlength(line)) for line in lines)
    image = Image.new("RGB", (width, top + bottom + pitch * len(lines)), paper)
    canvas = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        canvas.text((left, top + number * pitch), line, font=face, fill=ink)
    return image


def draw_table(rng: random.Random, rows: Sequence[Sequence[str]], name: str, size: int, *, ruled: bool) -> Image.Image:
    """Columns as wide as their longest cell; ruled, or with space between."""
    ink, paper = ink_and_paper(rng)
    face = font(name, size)
    pitch, gap = round(size * rng.uniform(1.4, 1.8)), round(size * rng.uniform(0.5, 1.2))
    widths = [max(math.ceil(face.getlength(row[i])) for row in rows) + 2 * gap for i in range(len(rows[0]))]
    margin = round(size * rng.uniform(0.3, 0.9))
    image = Image.new("RGB", (2 * margin + sum(widths) + 1, 2 * margin + pitch * len(rows) + 1), paper)
    canvas = ImageDraw.Draw(image)
    for number, row in enumerate(rows):
        x, y = margin, margin + number * pitch
        for width, cell in zip(widths, row, strict=True):
            canvas.text((x + gap, y + (pitch - size * 1.2) / 2), cell, font=face, fill=ink)
            x += width
    if ruled:
        right, end = margin + sum(widths), margin + pitch * len(rows)
        for number in range(len(rows) + 1):
            canvas.line((margin, margin + number * pitch, right, margin + number * pitch), fill=ink)
        x = margin
        for width in (0, *widths):
            x += width
            canvas.line((x, margin, x, end), fill=ink)
    return image
