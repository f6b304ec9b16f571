"""How a function is offered in a request: its name, its parameters' names and order, descriptions or none; asks for nothing."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from .tool_functions import Function
from .tool_values import SCHEMAS
from .wording import pick

OF_THE_DOCUMENTS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "name": "get_weather",
        "description": "Determine weather in my location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "The city and state e.g. San Francisco, CA"},
                "unit": {"type": "string", "enum": ["c", "f"]},
            },
            "additionalProperties": False,
            "required": ["location", "unit"],
        },
        "strict": True,
    },
    "image_zoom_in_tool": {
        "name": "image_zoom_in_tool",
        "description": "Zoom in on a specific region of an image by cropping it based on a bounding box (bbox) and an optional object label.",
        "parameters": {
            "type": "object",
            "properties": {
                "bbox_2d": {
                    "type": "array",
                    "items": {"type": "number"},
                    "minItems": 4,
                    "maxItems": 4,
                    "description": "The bounding box of the region to zoom in, as [x1, y1, x2, y2], where (x1, y1) is the top-left corner and "
                    "(x2, y2) is the bottom-right corner, and the values of x1, y1, x2, y2 are all normalized to the range 0–1000 based on the "
                    "original image dimensions.",
                },
                "label": {"type": "string", "description": "The name or label of the object in the specified bounding box (optional)."},
            },
            "required": ["bbox_2d"],
        },
        "strict": False,
    },
}
"""As FastDeploy's documents write them."""
_SLOTS_OF_THE_DOCUMENTS = {
    "get_weather": {"place": "location", "unit": "unit"},
    "image_zoom_in_tool": {"box": "bbox_2d", "object": "label"},
}


@dataclass(frozen=True)
class Offer:
    function: Function
    tool: dict[str, Any]
    names: dict[str, str]
    """Slot → parameter, in the schema's order."""
    choices: dict[str, tuple[str, ...]]
    """Slot of an enumeration → its values."""

    @property
    def name(self) -> str:
        return self.tool["function"]["name"]

    @property
    def is_long(self) -> bool:
        """Leaves no room for other functions in a training sequence."""
        return self.tool["function"] is OF_THE_DOCUMENTS["image_zoom_in_tool"]


def offered(rng: random.Random, function: Function, language: str, short: bool = False) -> Offer:
    """One way to offer the function. `short`: not in the documents' long form."""
    known = function.names[0]
    if not short and known in OF_THE_DOCUMENTS and rng.random() < 0.2:
        return Offer(function, _tool(OF_THE_DOCUMENTS[known]), _SLOTS_OF_THE_DOCUMENTS[known], {"unit": ("c", "f")})
    described = language if rng.random() < 0.6 else "en"
    parameters = list(function.parameters)
    if rng.random() < 0.25:
        parameters.sort(key=lambda _: rng.random())
    names: dict[str, str] = {}
    choices: dict[str, tuple[str, ...]] = {}
    properties: dict[str, Any] = {}
    with_descriptions = rng.random() < 0.5
    for parameter in parameters:
        free = [name for name in parameter.names if name not in properties]
        names[parameter.slot] = pick(rng, free)
        schema: dict[str, Any] = dict(SCHEMAS.get(parameter.kind, {"type": "string"}))
        if parameter.kind == "choice":
            choices[parameter.slot] = pick(rng, parameter.choices)
            schema["enum"] = list(choices[parameter.slot])
        if with_descriptions:
            schema["description"] = parameter.about[described]
        properties[names[parameter.slot]] = schema
    body: dict[str, Any] = {
        "name": pick(rng, function.names),
        "description": pick(rng, function.about[described]),
        "parameters": _parameters(rng, properties, [names[p.slot] for p in parameters if p.required]),
    }
    if rng.random() < 0.1:
        body["strict"] = rng.random() < 0.5
    return Offer(function, _tool(body), names, choices)


def _parameters(rng: random.Random, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if rng.random() < 0.85:
        parameters["required"] = required
    if rng.random() < 0.12:
        parameters["additionalProperties"] = False
    return parameters


def _tool(body: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": body}
