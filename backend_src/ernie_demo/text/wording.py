"""How the demo model's questions are worded: templates, and roughness as people type it; knows no skill and no answer.

A template is text with choices, `[What|Which city] is it?` (they nest; an empty choice is fine), and slots, `{city}`.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

_T = TypeVar("_T")
LANGUAGES = ("en", "zh")

_Node = str | tuple[tuple["_Node", ...], ...]
"""Text as it stands, or a choice among sequences of nodes."""
_TOKENS = re.compile(r"[\[|\]]|[^\[|\]]+")
_NOT_WORDS = re.compile(r"[\W_]+")
_LATIN_WORD = re.compile(r"(?<![\w{])[A-Za-z]{4,}(?![\w}])")


def _sequence(tokens: list[str], position: int) -> tuple[tuple[_Node, ...], int]:
    nodes: list[_Node] = []
    while position < len(tokens) and tokens[position] not in "|]":
        if tokens[position] == "[":
            choices: list[tuple[_Node, ...]] = []
            while not choices or tokens[position] == "|":
                choice, position = _sequence(tokens, position + 1)
                choices.append(choice)
            nodes.append(tuple(choices))
        else:
            nodes.append(tokens[position])
        position += 1
    return tuple(nodes), position


@lru_cache(maxsize=20_000)
def _parsed(template: str) -> tuple[_Node, ...]:
    return _sequence(_TOKENS.findall(template), 0)[0]


def _expanded(rng: random.Random, nodes: tuple[_Node, ...]) -> str:
    return "".join(node if isinstance(node, str) else _expanded(rng, node[int(rng.random() * len(node))]) for node in nodes)


def wording(rng: random.Random, templates: str | Sequence[str]) -> str:
    """One of the templates with its choices made and its slots left open."""
    template = templates if isinstance(templates, str) else pick(rng, templates)
    return _expanded(rng, _parsed(template))


def pick(rng: random.Random, options: Sequence[_T]) -> _T:
    """`rng.choice`, three times as fast."""
    return options[int(rng.random() * len(options))]


def fill(text: str, slots: dict[str, str]) -> str:
    """Puts values into the slots; unlike `str.format` it takes text with other braces."""
    for name, value in slots.items():
        text = text.replace("{" + name + "}", value)
    return text


def key(text: str) -> str:
    """What is left of a text when case and punctuation do not count: two wordings with one key are one wording."""
    return _NOT_WORDS.sub("", text).casefold()


def plain(text: str) -> str:
    """For comparing: without case and accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).casefold()


def roughened(rng: random.Random, text: str) -> str:
    """Most texts as they are; some without capitals or full stops, with a typo or with blanks, as people type. Slots stay whole."""
    luck = rng.random()
    if luck < 0.72:
        return text
    if luck < 0.80:
        return text[:1].lower() + text[1:] if text[:2] not in ("I ", "I'") else text
    if luck < 0.86:
        return text.rstrip("?.!？。！")
    if luck < 0.89:
        return text.replace("？", "?").replace("，", ",").replace("。", ".")
    if luck < 0.91:
        return pick(rng, (" ", "\n", "")) + text + pick(rng, (" ", "\n", "  "))
    if luck < 0.93:
        return text + pick(rng, ("?", "!", "..", "？", "！"))
    if luck < 0.95:
        return text.lower()
    return _with_typo(rng, text)


def _with_typo(rng: random.Random, text: str) -> str:
    words = list(_LATIN_WORD.finditer(text))
    if not words:
        return text
    word = pick(rng, words)
    place = word.start() + 1 + int(rng.random() * (len(word.group()) - 2))
    what = rng.random()
    if what < 0.4:
        return text[:place] + text[place + 1] + text[place] + text[place + 2 :]
    if what < 0.7:
        return text[:place] + text[place + 1 :]
    return text[:place] + text[place] + text[place:]
