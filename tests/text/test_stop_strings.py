"""Stop strings against their definition on the whole text, for every split."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_backend.text.stop_strings import StopStringMatcher

LETTERS = st.text("ab", max_size=30)
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4).map(tuple)


def by_definition(text: str, stop: tuple[str, ...], include_stop: bool) -> tuple[str, bool]:
    """The first end of a stop string; of those that end there, the longest."""
    for end in range(1, len(text) + 1):
        found = [len(word) for word in stop if text[:end].endswith(word)]
        if found:
            return text[: end if include_stop else end - max(found)], True
    return text, False


@settings(deadline=None, max_examples=500)
@given(text=LETTERS, stop=STOPS, include=st.booleans(), sizes=st.lists(st.integers(0, 4), max_size=30))
def test_every_split_finds_the_same(text: str, stop: tuple[str, ...], include: bool, sizes: list[int]) -> None:
    matcher = StopStringMatcher(stop, include)
    shown, stopped, at = "", False, 0
    for size in sizes:
        emitted, stopped = matcher.push(text[at : at + size])
        shown, at = shown + emitted, at + size
    emitted, stopped = matcher.push(text[at:], final=True)
    assert (shown + emitted, stopped) == by_definition(text, stop, include)


@settings(deadline=None, max_examples=300)
@given(text=LETTERS, stop=STOPS)
def test_no_more_is_held_back_than_may_become_a_stop_string(text: str, stop: tuple[str, ...]) -> None:
    matcher = StopStringMatcher(stop)
    shown = ""
    for end, character in enumerate(text, 1):
        emitted, stopped = matcher.push(character)
        shown += emitted
        if stopped:
            return
        held = max(
            (size for size in range(end + 1) for word in stop if word[:size] == text[end - size : end] and size < len(word)), default=0
        )
        assert shown == text[: end - held]


def test_straddling_pushes() -> None:
    matcher = StopStringMatcher(("出去走走", "明天"))
    assert matcher.push("我们明") == ("我们", False)
    assert matcher.push("年出去") == ("明年", False)
    assert matcher.push("走走吧") == ("", True)
    assert matcher.push("more", final=True) == ("", True), "nothing is shown behind a stop string"


@pytest.mark.parametrize(("include", "shown"), [(False, "a"), (True, "aSTOP")])
def test_include(include: bool, shown: str) -> None:
    assert StopStringMatcher(("STOP",), include).push("aSTOPb") == (shown, True)


def test_the_end_releases_what_was_held() -> None:
    matcher = StopStringMatcher(("STOP",))
    assert matcher.push("aSTO") == ("a", False)
    assert matcher.push("", final=True) == ("STO", False)


def test_without_stop_strings_everything_passes() -> None:
    assert StopStringMatcher(()).push("abc") == ("abc", False)
