"""Checks a request's tools, its choice among them and the calls in its history, and brings them into the one form that templates take.

Knows no template and no grammar. Whatever cannot be rendered is refused by its place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidRequestError, json_kind
from ..json_depth import place_that_is_too_deep
from ..known_fields import WITHOUT_EFFECT, check_known
from ..strict_json import read_object
from .schema_check import check_schema

TOOL_ROLES = ("tool", "function")
MAX_TOOLS = 128
MAX_NAME_CHARACTERS = 128
_IN_A_FUNCTION = ("name", "description", "parameters", "strict")


@dataclass(frozen=True)
class ToolChoice:
    """`auto`: the model decides; `none`: it cannot call; `required`: it must."""

    mode: str
    allowed: tuple[str, ...] | None = None
    """The functions that may be called, though the model is shown all. None: every one, and nobody sees to it that there is no other."""
    one_call: bool = False

    @property
    def binds(self) -> bool:
        """Whether an answer has to be held to it."""
        return self.mode == "required" or self.allowed is not None

    def allows(self, name: str) -> bool:
        return self.allowed is None or name in self.allowed


NO_CALLS = ToolChoice("none")


def normalize_tools(given: Any) -> list[dict[str, Any]]:
    """The checked tools as {type, function {name, …}}; a bare function is wrapped."""
    if not isinstance(given, list):
        raise InvalidRequestError(f"tools must be a list of tools, got {json_kind(given)}.", param="tools")
    if len(given) > MAX_TOOLS:
        raise InvalidRequestError(f"tools may hold at most {MAX_TOOLS} tools, got {len(given)}.", param="tools")
    tools: list[dict[str, Any]] = []
    names: set[str] = set()
    for i, tool in enumerate(given):
        tools.append({"type": "function", "function": _function(tool, f"tools[{i}]")})
        name = tools[-1]["function"]["name"]
        if name in names:
            raise InvalidRequestError(f"tools[{i}].function.name: there are two functions {name!r}.", param=f"tools[{i}].function.name")
        names.add(name)
    return tools


def _function(tool: Any, place: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise InvalidRequestError(f"{place} must be an object, got {json_kind(tool)}.", param=place)
    function: Any = tool
    where = place
    if "function" in tool or "type" in tool:
        if tool.get("type", "function") != "function":
            raise InvalidRequestError(f"{place}.type must be 'function': there are no other tools here.", param=f"{place}.type")
        check_known(tool, ("type", "function"), place, without_effect=WITHOUT_EFFECT)
        function, where = tool.get("function"), f"{place}.function"
        if not isinstance(function, dict):
            raise InvalidRequestError(f"{where} must be an object with a name, got {json_kind(function)}.", param=where)
    check_known(function, _IN_A_FUNCTION, where, without_effect=WITHOUT_EFFECT if function is tool else ())
    checked = {key: value for key, value in function.items() if key in _IN_A_FUNCTION and value is not None}
    _check_name(checked.get("name"), f"{where}.name")
    if not isinstance(checked.get("description", ""), str):
        raise InvalidRequestError(f"{where}.description must be a string.", param=f"{where}.description")
    if not isinstance(checked.get("strict", False), bool):
        raise InvalidRequestError(f"{where}.strict must be true or false.", param=f"{where}.strict")
    parameters = checked.get("parameters", {})
    if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
        raise InvalidRequestError(f"{where}.parameters must be the JSON Schema of an object.", param=f"{where}.parameters")
    check_schema(parameters, f"{where}.parameters")
    return checked


def _check_name(name: Any, place: str) -> None:
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        raise InvalidRequestError(f"{place} must be a name of 1 to {MAX_NAME_CHARACTERS} characters.", param=place)


def read_tool_choice(given: Any, tools: Sequence[dict[str, Any]]) -> ToolChoice:
    """`auto` if there are tools and nothing is given; without tools only `none` and `auto`, which then are the same."""
    if given is None:
        return ToolChoice("auto" if tools else "none")
    if isinstance(given, str):
        if given not in ("auto", "none", "required"):
            raise InvalidRequestError(
                f"tool_choice must be auto, none, required, or an object that names a function, got {given[:40]!r}.", param="tool_choice"
            )
        if given == "required" and not tools:
            raise InvalidRequestError("tool_choice is required, but there are no tools.", param="tool_choice")
        return ToolChoice(given if tools else "none")
    if isinstance(given, dict) and given.get("type") == "allowed_tools":
        return _allowed_tools(given, tools)
    function = given.get("function") if isinstance(given, dict) and given.get("type", "function") == "function" else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequestError(
            'tool_choice must be auto, none, required, or an object such as {"type": "function", "function": {"name": "f"}} or '
            '{"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": […]}}.',
            param="tool_choice",
        )
    assert isinstance(given, dict)
    _check_fields(given, "tool_choice")
    return ToolChoice("required", (_known_name(function["name"], _names(tools), "tool_choice.function.name"),), one_call=True)


def _allowed_tools(choice: dict[str, Any], tools: Sequence[dict[str, Any]]) -> ToolChoice:
    place = "tool_choice.allowed_tools"
    given = choice.get("allowed_tools")
    if not isinstance(given, dict):
        raise InvalidRequestError(f"{place} must be an object with a mode and tools, got {json_kind(given)}.", param=place)
    check_known(choice, ("type", "allowed_tools"), "tool_choice")
    check_known(given, ("mode", "tools"), place)
    mode, listed = given.get("mode"), given.get("tools")
    if mode not in ("auto", "required"):
        shown = repr(mode[:40]) if isinstance(mode, str) else json_kind(mode)
        raise InvalidRequestError(f"{place}.mode must be auto or required, got {shown}.", param=f"{place}.mode")
    if not isinstance(listed, list) or not listed:
        raise InvalidRequestError(
            f"{place}.tools must be a list of tools that is not empty. So that nothing can be called, set tool_choice to 'none'.",
            param=f"{place}.tools",
        )
    if len(listed) > MAX_TOOLS:
        raise InvalidRequestError(f"{place}.tools may hold at most {MAX_TOOLS} tools, got {len(listed)}.", param=f"{place}.tools")
    known = _names(tools)
    names = [_known_name(_named(tool, f"{place}.tools[{i}]"), known, f"{place}.tools[{i}].function.name") for i, tool in enumerate(listed)]
    return ToolChoice(mode, tuple(dict.fromkeys(names)))


def _named(tool: Any, place: str) -> str:
    """The name in {type, function {name}}. A whole definition may stand there, too: what counts is the one in `tools`."""
    if not isinstance(tool, dict):
        raise InvalidRequestError(f"{place} must be an object, got {json_kind(tool)}.", param=place)
    if tool.get("type") != "function":
        raise InvalidRequestError(f"{place}.type must be 'function': there are no other tools here.", param=f"{place}.type")
    _check_fields(tool, place)
    function = tool["function"]
    _check_name(function.get("name"), f"{place}.function.name")
    name: str = function["name"]
    return name


def _check_fields(tool: dict[str, Any], place: str) -> None:
    """Of what names a function."""
    check_known(tool, ("type", "function"), place, without_effect=WITHOUT_EFFECT)
    function = tool.get("function")
    if not isinstance(function, dict):
        raise InvalidRequestError(f"{place}.function must be an object with a name, got {json_kind(function)}.", param=f"{place}.function")
    check_known(function, _IN_A_FUNCTION, f"{place}.function")


def _names(tools: Sequence[dict[str, Any]]) -> dict[str, None]:
    return {tool["function"]["name"]: None for tool in tools}


def _known_name(name: str, names: Collection[str], place: str) -> str:
    if name not in names:
        known = f"The tools are: {', '.join(names)[:200]}." if names else "There are no tools."
        raise InvalidRequestError(f"{place} is {name[:80]!r}, which is not among the tools. {known}", param=place)
    return name


# the history ---------------------------------------------------------------------------------------------------------------------


def normalize_tool_calls(given: Any, place: str) -> list[dict[str, Any]]:
    """An assistant message's calls as {id?, type, function {name, arguments: object}}; arguments may come as an object or as its JSON."""
    if not isinstance(given, list):
        raise InvalidRequestError(f"{place} must be a list of calls, got {json_kind(given)}.", param=place)
    return [_tool_call(call, f"{place}[{i}]") for i, call in enumerate(given)]


def _tool_call(call: Any, place: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or call.get("type", "function") != "function":
        raise InvalidRequestError(f"{place} must be an object with type 'function' and a function.", param=place)
    _check_name(function.get("name"), f"{place}.function.name")
    made: dict[str, Any] = {
        "type": "function",
        "function": {"name": function["name"], "arguments": _arguments(function.get("arguments"), f"{place}.function.arguments")},
    }
    if call.get("id") is not None:
        if not isinstance(call["id"], str):
            raise InvalidRequestError(f"{place}.id must be a string, got {json_kind(call['id'])}.", param=f"{place}.id")
        made["id"] = call["id"]
    return made


def _arguments(given: Any, place: str) -> dict[str, Any]:
    if given is None:
        return {}
    if isinstance(given, str):
        if place_that_is_too_deep(given) is not None:  # for the template's reader, if not for ours
            raise InvalidRequestError(f"{place} is nested too deeply.", param=place)
        return {} if given.strip() in ("", "null") else read_object(given, place, place, within=place)
    if not isinstance(given, dict):
        raise InvalidRequestError(f"{place} must be an object or the JSON of one, got {json_kind(given)}.", param=place)
    return given


def order_of_results(messages: Sequence[Any]) -> list[int]:
    """The places of the messages, still unchecked, in the order to show them: results that follow a message's calls stand in the order of
    those, however they came in. All of them must say which call they answer, or they stay as they are."""
    order: list[int] = []
    for start, end in _turns(messages):
        places: dict[Any, int | None] = {}
        for k, call in enumerate(_list_field(messages[start], "tool_calls")):
            call_id = _string_field(call, "id")
            places[call_id] = k if call_id not in places else None  # two calls of one id: which is meant, nobody knows
        results = [(places.get(_string_field(messages[i], "tool_call_id") or None), i) for i in range(start + 1, end)]
        known = [(place, i) for place, i in results if place is not None]
        order += [start, *(i for _, i in (sorted(known) if len(known) == len(results) else results))]
    return order


def _turns(messages: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """Each message that is no result, and where the results behind it end."""
    start = 0
    while start < len(messages):
        end = start + 1
        while end < len(messages) and isinstance(messages[end], dict) and messages[end].get("role") in TOOL_ROLES:
            end += 1
        yield start, end
        start = end


def _string_field(given: Any, name: str) -> str | None:
    found = given.get(name) if isinstance(given, dict) else None
    return found if isinstance(found, str) else None


def _list_field(given: Any, name: str) -> list[Any]:
    found = given.get(name) if isinstance(given, dict) else None
    return found if isinstance(found, list) else []


def check_tool_results(messages: Sequence[dict[str, Any]]) -> None:
    """Every tool message answers a call of the assistant message before it (and before other tool messages)."""
    calls: list[dict[str, Any]] = []
    known: set[str] = set()
    for i, message in enumerate(messages):
        if message["role"] != "tool":
            calls = message.get("tool_calls", [])
            known = {call["id"] for call in calls if "id" in call}  # once for all results: both may be many thousand
            continue
        if not calls:
            raise InvalidRequestError(
                f"messages[{i}] has the role 'tool', but no assistant message with tool_calls stands before it.", param=f"messages[{i}]"
            )
        given = message.get("tool_call_id")
        if given is not None and known and given not in known:
            raise InvalidRequestError(
                f"messages[{i}].tool_call_id is {given[:80]!r}, which is no call of the assistant message before it.",
                param=f"messages[{i}].tool_call_id",
            )
