"""One conversation of the demo model's training or evaluation, and what a module of cases offers; knows no skill, tokenizer or model.

A skill is a module with

    train_case(rng: random.Random) -> Case
        Any of the training combinations. Cheap: tens of thousands of cases a second are drawn, in many processes.
    held_out_cases(seed: int, count: int) -> list[Case]
        Combinations that `train_case` never gives; the same ones for the same arguments.
    score(case: Case, message: Mapping[str, Any]) -> tuple[int, int]
        (right, of) of a server's answer: OpenAI's message with `content`, `reasoning_content` and `tool_calls`, each maybe None or absent.

`is_held_out` decides which combinations are whose.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
"""As in OpenAI's API: {role, content, …}; `content` is a string or a list of parts {type: text, text}, {type: image_url, image: an RGB
`PIL.Image`} and {type: video_url, frames: RGB `PIL.Image`s of one size, fps}. In the history `tool_calls`, role `tool` and
`reasoning_content` stand as clients send them (`arguments` a JSON string)."""


@dataclass(frozen=True)
class Case:
    """What is asked, and the one answer that is learnt for it."""

    skill: str
    """The module's name: `ocr`, `facts`, …"""
    messages: tuple[Message, ...]
    answer: str
    """The answer's content without thought and calls; may be empty if there are calls."""
    reasoning: str | None = None
    """The thought before the answer, one line or more, without the think tags. None: the model is asked not to think."""
    tool_calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    """(function, arguments) the answer calls."""
    tools: tuple[dict[str, Any], ...] = ()
    """As a request gives them: {type: function, function: {name, description, parameters}}."""
    facets: Mapping[str, Any] = field(default_factory=dict)
    """What `score` needs to know of the truth."""

    @property
    def enable_thinking(self) -> bool:
        """What the request says, always explicitly."""
        return self.reasoning is not None


@dataclass(frozen=True)
class Completion:
    """A text that the model goes on with, without messages or template."""

    prompt: str
    answer: str


def is_held_out(*combination: object, share: float = 0.05) -> bool:
    """Whether a combination belongs to the evaluation: decided by its content alone, so that no seed can mix the two. `share`: of all."""
    digest = hashlib.blake2b(repr(combination).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


Draw = Callable[[random.Random], tuple[Case, bool]]
"""A case, and whether it belongs to the evaluation."""


def for_training(draw: Draw, rng: random.Random) -> Case:
    """The next case that does not belong to the evaluation."""
    while True:
        case, held_out = draw(rng)
        if not held_out:
            return case


def for_evaluation(draw: Draw, rng: random.Random, count: int) -> list[Case]:
    """The next cases that do."""
    cases: list[Case] = []
    while len(cases) < count:
        case, held_out = draw(rng)
        if held_out:
            cases.append(case)
    return cases
