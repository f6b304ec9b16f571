"""The demo model against transformers: what `python -m tests.demo.parity` does, for a few cases of every skill."""

from __future__ import annotations

from ernie_demo.mixture import SKILLS
from ernie_demo_model import FOLDER

from .parity import compare


def test_greedy_answers_equal_transformers_token_for_token() -> None:
    found = compare(FOLDER, 2)
    assert {one.skill for one in found} == set(SKILLS)
    for one in found:
        assert one.ours == one.theirs, one.skill
        assert len(one.ours) > 1
