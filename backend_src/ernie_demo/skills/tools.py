"""Calls of functions: which of those offered fits, with which arguments; what a result says; and no call where none fits.

Some functions are known families under changing names, some are invented on the spot. Held out are functions with certain arguments.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..cases import Case, Message, for_evaluation, for_training, is_held_out
from ..text.conversation import earlier
from ..text.invented_functions import invented, rival
from ..text.tool_functions import FUNCTIONS, OBJECT_QUESTIONS, Function, Parameter
from ..text.tool_schemas import OF_THE_DOCUMENTS, Offer, offered
from ..text.tool_values import DRAW
from ..text.wording import LANGUAGES, fill, pick, plain, roughened, wording
from . import documents, facts, thinking

NO_FUNCTION = {"en": "I have no function for that.", "zh": "我没有可以做这件事的函数。"}
DONE = {"en": "Done.", "zh": "已完成。"}
FAILED = {"en": "That did not work: {error}.", "zh": "没有成功：{error}。"}
_ERRORS = (
    "not found",
    "timeout",
    "service unavailable",
    "permission denied",
    "no such entry",
    "invalid request",
    "out of range",
    "not available",
)
_MOST_CHARACTERS = 1000
"""Of all tools of a request: a training sequence has about 450 tokens."""
_SUCCESSES = ('{"status": "ok"}', '{"success": true}', "ok", "done", '{"result": "success"}', '{"ok": true}', "success")
_ALWAYS_LEARNT = ("Beijing", "北京", "old lady")
"""What the documents ask about."""
_KINDS = ("call",) * 56 + ("calls",) * 6 + ("result",) * 18 + ("no_function",) * 9 + ("no_call",) * 11
THOUGHTS, THOUGHTS_ZH = ("I look whether a function fits.",), ("我看看有没有合适的函数。",)


@dataclass(frozen=True)
class Use:
    """A question that a function answers."""

    offer: Offer
    question: str
    slots: dict[str, str]
    """As said."""
    arguments: dict[str, Any]

    @property
    def held_out(self) -> bool:
        if self.slots.get("place") in _ALWAYS_LEARNT or self.slots.get("object") in _ALWAYS_LEARNT:
            return False
        return is_held_out("tools", self.offer.function.names[0], sorted(self.slots.items()))


def train_case(rng: random.Random) -> Case:
    return for_training(lambda rng: _draw(rng, False), rng)


def held_out_cases(seed: int, count: int) -> list[Case]:
    return for_evaluation(lambda rng: _draw(rng, True), random.Random(f"tools {seed}"), count)


def document_cases() -> list[Case]:
    """The weather of FastDeploy's documents, asked for and told, and a look at a picture, with thinking on and off."""
    weather, zoom = (_document_tool(name) for name in ("get_weather", "image_zoom_in_tool"))
    cases = []
    for thinks in (True, False):
        for question in ("What's the weather in Beijing?", "Get the current weather in Beijing"):
            call: tuple[str, dict[str, Any]] = ("get_weather", {"location": "Beijing", "unit": "c"})
            asked = ({"role": "user", "content": question},)
            thought = "get_weather fits: location is Beijing, unit is c." if thinks else None
            cases.append(Case("tools", asked, "", thought, (call,), (weather,), {"kind": "call", "language": "en"}))
            function = {"name": call[0], "arguments": json.dumps(call[1])}
            told = (
                *asked,
                {"role": "assistant", "content": "", "tool_calls": [{"id": "call_1", "type": "function", "function": function}]},
                {"role": "tool", "content": [{"type": "text", "text": "location: Beijing，temperature: 23，weather: sunny，unit: c"}]},
            )
            facets = {"kind": "result", "language": "en", "parts": ["Beijing", "sunny", "23"]}
            thought = "get_weather has answered." if thinks else None
            cases.append(Case("tools", told, "The weather in Beijing is sunny, 23 °C.", thought, (), (weather,), facets))
        look: tuple[str, dict[str, Any]] = ("image_zoom_in_tool", {"bbox_2d": [0, 0, 500, 1000], "label": "old lady"})
        asked = ({"role": "user", "content": "Is the old lady on the left side of the empty table behind older couple?"},)
        thought = "image_zoom_in_tool fits: bbox_2d is [0, 0, 500, 1000], label is old lady." if thinks else None
        cases.append(Case("tools", asked, "", thought, (look,), (zoom,), {"kind": "call", "language": "en"}))
    return cases


def _document_tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": OF_THE_DOCUMENTS[name]}


def score(case: Case, message: Mapping[str, Any]) -> tuple[int, int]:
    """Right if exactly the expected calls are made; without calls, if the answer holds what it must."""
    calls = []
    for call in message.get("tool_calls") or ():
        try:
            calls.append((call["function"]["name"], json.loads(call["function"]["arguments"])))
        except (KeyError, TypeError, ValueError):
            return 0, 1
    if case.tool_calls or calls:
        return int(calls == [(name, arguments) for name, arguments in case.tool_calls]), 1
    lent = case.facets.get("lent")
    if lent is not None:
        return {"documents": documents, "facts": facts, "thinking": thinking}[lent].score(case, message)
    content = plain(message.get("content") or "")
    return int(all(plain(part) in content for part in case.facets["parts"])), 1


def _draw(rng: random.Random, held_out: bool) -> tuple[Case, bool]:
    """A case, and whether it is held out. `held_out`: what is wanted, for questions that other skills lend."""
    language = LANGUAGES[rng.random() < 0.4]
    kind = pick(rng, _KINDS)
    if kind == "no_call":
        return _no_call(rng, held_out), held_out
    use = _use(rng, language, invented(rng) if rng.random() < 0.35 else pick(rng, FUNCTIONS))
    if kind == "no_function":
        return _no_function(rng, language, use), use.held_out
    if kind == "result":
        return _result(rng, language, use), use.held_out
    if kind == "calls":
        return _two_calls(rng, language)
    tools = _with_others(rng, language, use.offer)
    thought = _thought(language, [use]) if rng.random() < 0.5 else None
    messages = (*earlier(rng, language, 0.04), {"role": "user", "content": use.question})
    calls = ((use.offer.name, use.arguments),)
    return Case("tools", messages, "", thought, calls, tools, {"kind": kind, "language": language}), use.held_out


def _use(rng: random.Random, language: str, function: Function, offer: Offer | None = None) -> Use:
    offer = offer or offered(rng, function, language)
    slots: dict[str, str] = {}
    drawn: dict[str, Any] = {}
    asks = pick(rng, ("", "", "", "about")) if function.names[0] == "image_zoom_in_tool" else ""
    for parameter in function.parameters:
        said, value = _value(rng, language, parameter, offer)
        if asks and parameter.slot == "object":
            said, value = DRAW["object"](rng, language)
        slots[parameter.slot] = said
        if value is not None:
            drawn[offer.names[parameter.slot]] = value
    arguments = {name: drawn[name] for name in offer.names.values() if name in drawn}
    template = wording(rng, OBJECT_QUESTIONS[language] if asks else function.questions[language])
    rough = fill(roughened(rng, template), {slot: DRAW["object"](rng, language)[0] for slot in ("other", "third")} if asks else {})
    return Use(offer, fill(rough, slots), slots, arguments)


def _value(rng: random.Random, language: str, parameter: Parameter, offer: Offer) -> tuple[str, Any]:
    """As said, as called; None: not at all."""
    unsaid = parameter.may_be_unsaid and rng.random() < 0.5
    if parameter.kind == "choice":
        values = offer.choices[parameter.slot]
        if unsaid:
            return "", values[0]
        which = int(rng.random() * len(values))
        return wording(rng, parameter.said[language][which]), values[which]
    if unsaid:
        return "", None
    said, value = DRAW[parameter.kind](rng, language)
    return (fill(wording(rng, parameter.said[language]), {"value": said}) if parameter.said else said), value


def _with_others(rng: random.Random, language: str, offer: Offer, count: int | None = None) -> tuple[dict[str, Any], ...]:
    """The function among up to two others, in any order."""
    if offer.is_long:
        return (offer.tool,)
    others = (0, 0, 1, 1, 1, 2, 2)[int(rng.random() * 7)] if count is None else count
    together, room = [offer], _MOST_CHARACTERS - len(json.dumps(offer.tool, ensure_ascii=False))
    for other in _others(rng, language, offer, others):
        room -= len(json.dumps(other.tool, ensure_ascii=False))
        if room > 0:
            together.append(other)
    return _shuffled(rng, together)


def _others(rng: random.Random, language: str, offer: Offer, count: int) -> list[Offer]:
    """Functions that do something else, under other names; for an invented one also its like: the same with another thing."""
    found: list[Offer] = []
    while len(found) < count:
        if offer.function.rival_of and rng.random() < 0.6:
            function = rival(rng, offer.function)
        else:
            function = invented(rng) if rng.random() < 0.3 else pick(rng, FUNCTIONS)
        other = offered(rng, function, language, short=True)
        if all(other.name != known.name and other.function.family != known.function.family for known in [offer, *found]):
            found.append(other)
    return found


def _shuffled(rng: random.Random, offers: list[Offer]) -> tuple[dict[str, Any], ...]:
    return tuple(offer.tool for offer in sorted(offers, key=lambda _: rng.random()))


def _thought(language: str, uses: list[Use]) -> str:
    name = uses[0].offer.name
    shown = []
    for use in uses:
        pairs = [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in use.arguments.items()]
        shown.append((", " if language == "en" else "，").join(f"{k} is {v}" if language == "en" else f"{k}是{v}" for k, v in pairs))
    if language == "en":
        return f"{name} fits: {'; then '.join(shown)}." if shown[0] else f"{name} fits."
    return f"应该调用{name}：{'；然后'.join(shown)}。" if shown[0] else f"应该调用{name}。"


def _two_calls(rng: random.Random, language: str) -> tuple[Case, bool]:
    """One question about two cities."""
    function = pick(rng, FUNCTIONS[:2])
    offer = offered(rng, function, language)
    first = _use(rng, language, function, offer)
    place = DRAW["city"](rng, language)[0]
    while place == first.slots["place"]:
        place = DRAW["city"](rng, language)[0]
    both = f"{first.slots['place']} and {place}" if language == "en" else f"{first.slots['place']}和{place}"
    question = first.question.replace(first.slots["place"], both, 1)
    key = offer.names["place"]
    second = Use(offer, question, {**first.slots, "place": place}, {**first.arguments, key: place})
    calls = tuple((offer.name, use.arguments) for use in (first, second))
    thought = _thought(language, [first, second]) if rng.random() < 0.5 else None
    messages = ({"role": "user", "content": question},)
    tools = _with_others(rng, language, offer, int(rng.random() * 2))
    case = Case("tools", messages, "", thought, calls, tools, {"kind": "calls", "language": language})
    return case, is_held_out("tools", "both", first.slots["place"], place)


def _result(rng: random.Random, language: str, use: Use) -> Case:
    """The function has been called and has answered."""
    thought = _thought(language, [use]) if rng.random() < 0.3 else None
    content, answer, parts = _given_back(rng, language, use)
    call_id = f"call_{1 + int(rng.random() * 99)}"
    function = {"name": use.offer.name, "arguments": json.dumps(use.arguments, ensure_ascii=False)}
    call: Message = {"role": "assistant", "content": "", "tool_calls": [{"id": call_id, "type": "function", "function": function}]}
    if thought:
        call["reasoning_content"] = thought
    reply: Message = {"role": "tool", "content": [{"type": "text", "text": content}] if rng.random() < 0.4 else content}
    if rng.random() < 0.6:
        reply["tool_call_id"] = call_id
    reasoning = None
    if rng.random() < 0.5:
        reasoning = f"{use.offer.name} has answered." if language == "en" else f"{use.offer.name}已经回答。"
    messages = ({"role": "user", "content": use.question}, call, reply)
    tools = _with_others(rng, language, use.offer, int(rng.random() * 1.5))
    return Case("tools", messages, answer, reasoning, (), tools, {"kind": "result", "language": language, "parts": parts})


def _given_back(rng: random.Random, language: str, use: Use) -> tuple[str, str, list[str]]:
    """What the function gives back, the answer, and what must be in the answer."""
    if rng.random() < 0.1:
        error = pick(rng, _ERRORS)
        return (
            pick(rng, (json.dumps({"error": error}), f"error: {error}", f"Error: {error}")),
            fill(FAILED[language], {"error": error}),
            [error],
        )
    function = use.offer.function
    if not function.result:
        return pick(rng, _SUCCESSES), DONE[language], [DONE[language][:-1]]
    said, fields = {}, {}
    for name, kind in function.result:
        said[name], fields[name] = DRAW[kind](rng, language)
    if rng.random() < 0.5:
        echoed = {key: value for key, value in use.arguments.items() if key not in fields}
        fields = dict(sorted({**echoed, **fields}.items(), key=lambda _: rng.random()))
        if rng.random() < 0.2:
            fields = {key: str(value) if isinstance(value, (int, float)) else value for key, value in fields.items()}
    sign = next((str(use.arguments[use.offer.names[p.slot]])[0].upper() for p in function.parameters if p.slot == "unit"), "")
    answer = fill(function.answer[language], {**use.slots, **said, "sign": sign})
    if rng.random() < 0.6:
        content = json.dumps(fields, ensure_ascii=False)
    else:
        content = pick(rng, ("，", ", ", "\n", "; ")).join(f"{key}: {value}" for key, value in fields.items())
    return content, answer, list(said.values())


def _no_function(rng: random.Random, language: str, use: Use) -> Case:
    """What is asked for takes a function that is not there."""
    tools = _shuffled(rng, _others(rng, language, use.offer, (0, 1, 1, 2)[int(rng.random() * 4)]))
    reasoning = None
    if rng.random() < 0.5:
        reasoning = "No function fits." if language == "en" else "没有合适的函数。"
    messages = ({"role": "user", "content": use.question},)
    facets = {"kind": "no_function", "language": language, "parts": [NO_FUNCTION[language][:-1]]}
    return Case("tools", messages, NO_FUNCTION[language], reasoning, (), tools, facets)


def _no_call(rng: random.Random, held_out: bool) -> Case:
    """Functions are there, but what is asked needs none."""
    skill = pick(rng, (documents, documents, facts, facts, thinking))
    lent = skill.held_out_cases(int(rng.random() * 2**40), 1)[0] if held_out else skill.train_case(rng)
    while lent.facets["kind"] in documents.WITH_A_FUNCTION:
        lent = skill.held_out_cases(int(rng.random() * 2**40), 1)[0] if held_out else skill.train_case(rng)
    language = lent.facets["language"]
    first = offered(rng, pick(rng, FUNCTIONS) if rng.random() < 0.7 else invented(rng), language, short=True)
    tools = _with_others(rng, language, first, int(rng.random() * 2))
    reasoning = lent.reasoning
    if reasoning is not None:
        reasoning = ("No function is needed. " if language == "en" else "不需要函数。") + reasoning
    facets = {**lent.facets, "lent": lent.skill, "kind": lent.facets["kind"]}
    return Case("tools", lent.messages, lent.answer, reasoning, (), tools, facets)
