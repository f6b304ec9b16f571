"""Reads short rendered text: words, numbers, a few lines, and two-column tables, which are written in OTSL."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any

from PIL import Image

from ..cases import Case, is_held_out
from ..drawing import PACKAGED_FONTS, draw_lines, draw_table, font_names

SKILL = "ocr"
THOUGHTS = ("I read the text from left to right and from top to bottom.",)
THOUGHTS_ZH = ("我从左到右、从上到下读文字。",)

OTSL = ("<fcel>", "<ecel>", "<lcel>", "<ucel>", "<xcel>", "<nl>")
"""A filled cell, an empty one, one joined to its left, upper or both neighbours, and a row's end."""
MOST_PIXELS = 224 * 224
"""Of a picture as the model sees it."""
_LEAST_TYPE = 12
"""Pixels of the type's size as the model sees it, below which letters cannot be told apart."""

_QUESTIONS = (
    "OCR:",
    "OCR:",
    "OCR:",
    "OCR:",
    "Read the text.",
    "What does the text say?",
    "What is written here?",
    "读出文字。",
    "图中写了什么？",
)
_TABLE_QUESTIONS = ("OCR:", "OCR:", "OCR:", "Table Recognition:")

_COMMON = """
the and you that was for are with his they this have from one had word but not what all were when your can said there use each which she
how their will other about out many then them these some her would make like him into time has look two more write see number way could
people than first water been call who oil now find long down day did get come made may part over new sound take only little work know
place year live back give most very after thing our just name good sentence man think say great where help through much before line
right too mean old any same tell boy follow came want show also around form three small set put end does another well large must big
even such because turn here why ask went men read need land different home move try kind hand picture again change off play spell air
away animal house point page letter mother answer found study still learn should world total price tax date sum order server client
model token image video table open close start stop north south east west monday tuesday wednesday thursday friday saturday sunday
january february march april june july august september october november december apple bread coffee tea milk sugar salt train ticket
hotel garden river lake stone green blue red yellow black white orange hello welcome thanks exit menu sale free error warning
"""
_WORDS = tuple(_COMMON.split())
_ONSETS = tuple("b|br|c|ch|d|dr|f|fl|g|gr|h|j|k|l|m|n|p|pl|qu|r|s|st|t|tr|v|w|x|y|z".replace("|", " ").split())
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "io", "ou")
_ENDINGS = ("", "", "l", "n", "r", "s", "t", "m", "nd", "ck", "x", "z")


def train_case(rng: random.Random) -> Case:
    return _case(rng, held_out=False)


def held_out_cases(seed: int, count: int) -> list[Case]:
    rng = random.Random(f"{SKILL} {seed}")
    return [_case(rng, held_out=True) for _ in range(count)]


def _case(rng: random.Random, held_out: bool) -> Case:
    """Held-out cases keep to the packaged fonts: they are the same on every machine."""
    names = PACKAGED_FONTS if held_out else font_names()
    while True:
        is_table = rng.random() < 0.35
        rows = _table(rng) if is_table else [[line] for line in _lines(rng)]
        if is_held_out(SKILL, rows) == held_out:
            break
    image = _drawn(rng, rows, rng.choice(names), is_table)
    if is_table:
        question, answer = rng.choice(_TABLE_QUESTIONS), "".join("".join(f"<fcel>{cell}" for cell in row) + "<nl>" for row in rows)
    else:
        question, answer = rng.choice(_QUESTIONS), "\n".join(row[0] for row in rows)
    parts: list[dict[str, Any]] = [{"type": "image_url", "image": image}, {"type": "text", "text": question}]
    messages = ({"role": "user", "content": parts if rng.random() < 0.85 else parts[::-1]},)
    return Case(SKILL, messages, answer, facets={"spelled": True})


def _drawn(rng: random.Random, rows: list[list[str]], name: str, is_table: bool) -> Image.Image:
    """In the largest type of a random choice that still is legible when the picture has been brought to the model's size."""
    size = rng.randint(14, 34)
    zoom = rng.choice((1.0, 1.0, rng.uniform(0.9, 1.8)))
    while True:
        if is_table:
            image = draw_table(rng, rows, name, round(size * zoom), ruled=rng.random() < 0.8)
        else:
            image = draw_lines(rng, [row[0] for row in rows], name, round(size * zoom))
        shrunk = min(1.0, (MOST_PIXELS / (image.width * image.height)) ** 0.5) * round(size * zoom)
        if shrunk >= _LEAST_TYPE or (size <= 14 and zoom == 1.0):
            return image
        size, zoom = max(14, size - 4), 1.0


def _lines(rng: random.Random) -> list[str]:
    count = rng.choice((1, 1, 1, 1, 2, 3))
    longest = 22 if count == 1 else 16
    return [_line(rng, longest) for _ in range(count)]


def _line(rng: random.Random, longest: int) -> str:
    """Not empty, of at most `longest` characters."""
    kind = rng.random()
    if kind < 0.3:
        return _number(rng, longest)
    if kind < 0.42:
        return "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ0123456789") for _ in range(rng.randint(3, 8)))
    words = [_word(rng) for _ in range(rng.choice((1, 1, 2, 2, 3, 4)))]
    while len(" ".join(words)) > longest:
        words.pop()
        if not words:
            words = [rng.choice(_WORDS)[:longest]]
    line = " ".join(words)
    if rng.random() < 0.15:
        line += rng.choice(".!?:,")
    return line[:longest]


def _word(rng: random.Random) -> str:
    if rng.random() < 0.4:
        word = rng.choice(_WORDS)
    else:
        word = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((1, 2, 2, 3)))) + rng.choice(_ENDINGS)
    style = rng.random()
    return word if style < 0.55 else word.capitalize() if style < 0.85 else word.upper()


def _number(rng: random.Random, longest: int) -> str:
    digits = "".join(rng.choice("0123456789") for _ in range(rng.randint(1, min(10, longest))))
    kind = rng.random()
    if kind < 0.5:
        return digits
    if kind < 0.65:
        return f"{rng.choice('$€£') if rng.random() < 0.4 else ''}{rng.randint(0, 999)}.{rng.randint(0, 99):02d}"
    if kind < 0.75:
        return f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
    if kind < 0.85:
        return f"{rng.randint(1900, 2099)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
    return f"{rng.randint(0, 100)}%"


def _table(rng: random.Random) -> list[list[str]]:
    rows = []
    if rng.random() < 0.4:
        rows.append([rng.choice(("Name", "Item", "City", "Day", "Key", "Fruit")), rng.choice(("Price", "Count", "Value", "Age", "Total"))])
    for _ in range(rng.randint(2 - len(rows), 4 - len(rows))):
        rows.append([_word(rng)[:9], _number(rng, 5)[:6] if rng.random() < 0.7 else _word(rng)[:8]])
    return rows


def score(case: Case, message: Mapping[str, Any]) -> tuple[int, int]:
    """Characters: those of the answer less the edit distance. An OTSL tag counts as one character."""
    wanted, found = (_characters(text) for text in (case.answer, (message.get("content") or "").strip("\n")))
    return max(0, len(wanted) - _distance(wanted, found)), len(wanted)


def _characters(text: str) -> list[str]:
    return re.findall("|".join(OTSL) + r"|[\s\S]", text)


def _distance(one: list[str], other: list[str]) -> int:
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]
