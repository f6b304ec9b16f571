"""How much work and memory schemas that speak of themselves may cost: bounded by their size, however they are built."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Iterator
from types import FrameType, ModuleType
from typing import Any

import pytest

from ernie_backend.text import schema_recursion
from tests.text.test_schema_recursion import END, check
from tests.text.test_tools import refused

LONG = "a" * 20_000
BASE = f"http://a/{LONG}/"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": f"#/{LONG}", LONG: {"anyOf": [{} for _ in range(2000)]}},
        {"$id": BASE, "anyOf": [{"$anchor": f"b{i}"} for i in range(2000)]},
        {"$id": BASE, "anyOf": [{"$id": f"b{i}"} for i in range(2000)]},
    ],
)
def test_long_pointers_and_urls_are_not_kept_for_each_schema(schema: dict[str, Any]) -> None:
    tracemalloc.start()
    try:
        check(schema, "s")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2**22, "40 MB are 2,000 of them"


def test_a_long_chain_of_references_is_followed_in_no_time() -> None:
    """Each is looked at once: looking at all again for each would take minutes."""
    chain = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": "#/$defs/d0"}]} for i in range(3000)}
    refused(check, {"$ref": "#/$defs/d0", "$defs": chain}, "s")
    check({"$ref": "#/$defs/d0", "$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(6000)}}, "s")
    chain = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}", "type": "object", "required": ["a"]} for i in range(3000)}
    check({"$ref": "#/$defs/d0", "$defs": chain}, "s")


def test_many_names_are_held_against_many_patterns_in_no_time() -> None:
    """As many as are likely to tell something: all of them would take hours."""
    both = {"allOf": [{"$ref": "#/$defs/names"}, {"$ref": "#/$defs/patterns"}]}
    names = {"type": "object", "required": [f"n{i}" for i in range(4000)]}
    patterns = {"patternProperties": {f"^p{i}": END for i in range(1500)}}
    check({"anyOf": [dict(both) for _ in range(2000)], "$defs": {"names": names, "patterns": patterns}}, "s")


class Counted(list[Any]):
    """How often its items are looked at."""

    looks = 0

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            self.looks += 1
            yield item


@pytest.mark.parametrize("target", [{"type": "object", "required": Counted(["a"] * 3000)}, {"type": Counted(["object"] * 3000)}])
def test_names_and_kinds_are_looked_at_once_however_often_their_schema_holds(target: dict[str, Any]) -> None:
    check({"anyOf": [{"$ref": "#/$defs/a"} for _ in range(500)], "$defs": {"a": target}}, "s")
    (counted,) = (value for value in target.values() if isinstance(value, Counted))
    assert counted.looks <= 3 * len(counted)


def lines_run(action: Callable[[], Any], module: ModuleType) -> int:
    """By the code of this module."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != module.__file__:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


SOME = {"type": "object", "minProperties": 1, "properties": {f"p{i}": {} for i in range(60)}}


@pytest.mark.parametrize("joined", [[{} for _ in range(1000)], [dict(SOME) for _ in range(30)]])
def test_the_work_is_bounded_however_often_many_schemas_hold(joined: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_recursion, "MAX_LOOKS", 2000)
    schema = {"anyOf": [{"$ref": "#/$defs/a"} for _ in range(100)], "$defs": {"a": {"allOf": joined}}}
    lines = lines_run(lambda: check(schema, "s"), schema_recursion)
    assert lines < 150_000
