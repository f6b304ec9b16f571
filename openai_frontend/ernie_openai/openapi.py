"""The OpenAPI document: FastAPI's list of routes, with what it cannot see added (bodies that are read by hand, streams, errors, keys).

Nothing here decides anything. Ranges are preprocess's; a test holds the two against each other.
"""

from __future__ import annotations

import warnings
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from .access import scope_of
from .answer_schemas import DOCUMENTED
from .schemas import NOT_SUPPORTED_YET, AbortBody, ChatRequest, CompletionRequest

JsonSchema = dict[str, Any]

_REF = "#/components/schemas/{model}"
_MAX_INT32, _MAX_INT64 = 2**31 - 1, 2**63 - 1

RANGES: dict[str, tuple[float, float]] = {
    "max_tokens": (1, _MAX_INT32),
    "max_completion_tokens": (0, _MAX_INT32),
    "min_tokens": (0, _MAX_INT32),
    "reasoning_max_tokens": (0, _MAX_INT32),
    "temperature": (0, 100),
    "top_p": (0, 1),
    "top_k": (-1, _MAX_INT32),
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 100),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "seed": (0, _MAX_INT64),
}
"""Numbers that preprocess checks, which takes them as strings, too."""
_NUMBER_AS_TEXT = r"^[+-]?[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?$"
_SWITCHES = ("include_stop_str_in_output", "ignore_eos", "skip_special_tokens")
THINKING_SWITCH = (1, "1", "true", "t", "yes", "y", "on", 0, "0", "false", "f", "no", "n", "off")
"""What `enable_thinking` may be besides a boolean."""

_TEXT: JsonSchema = {"type": "string"}
_OBJECT: JsonSchema = {"type": "object"}
_OF_AN_ANSWER = ("refusal", "annotations", "audio", "multimodal_content", "prompt_token_ids", "completion_token_ids")
_MESSAGE: JsonSchema = {
    "type": "object",
    "required": ["role"],
    "additionalProperties": False,
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool", "function"]},
        "content": {"anyOf": [_TEXT, {"type": "array", "items": {**_OBJECT, "required": ["type"]}}, {"type": "null"}]},
        "reasoning_content": {"anyOf": [_TEXT, {"type": "null"}]},
        "thoughts": {"anyOf": [_TEXT, {"type": "null"}]},
        "name": {"anyOf": [_TEXT, {"type": "null"}]},
        "tool_call_id": {"anyOf": [_TEXT, {"type": "null"}]},
        "tool_calls": {"anyOf": [{"type": "array", "items": _OBJECT}, {"type": "null"}]},
        **{name: {} for name in (*_OF_AN_ANSWER, "prompt_tokens", "completion_tokens")},
    },
}
_NAMED: JsonSchema = {"type": "object", "required": ["name"], "properties": {"name": {**_TEXT, "minLength": 1}}}
_FUNCTION: JsonSchema = {
    "type": "object",
    "required": ["type", "function"],
    "properties": {"type": {"const": "function"}, "function": _NAMED},
}
_ALLOWED_TOOLS: JsonSchema = {
    "type": "object",
    "required": ["mode", "tools"],
    "properties": {
        "mode": {"enum": ["auto", "required"]},
        "tools": {"type": "array", "minItems": 1, "maxItems": 128, "items": _FUNCTION},
    },
}
_TOOL_CHOICE: JsonSchema = {
    "description": "Who is called, if anybody. allowed_tools: all tools are shown, but only those named here can be called.",
    "anyOf": [
        {"enum": ["auto", "none", "required"]},
        {**_FUNCTION, "required": ["function"]},
        {
            "type": "object",
            "required": ["type", "allowed_tools"],
            "properties": {"type": {"const": "allowed_tools"}, "allowed_tools": _ALLOWED_TOOLS},
        },
    ],
}
_TOKEN_ID: JsonSchema = {"type": "integer", "minimum": 0, "maximum": _MAX_INT32}

_DESCRIPTIONS = {
    400: "The request is wrong; `param` names the field.",
    401: "No key, or one that is not known.",
    403: "The key lacks the scope.",
    404: "There is no such model, or no such path.",
    405: "Not with this method.",
    408: "The request, or its answer, was not there in time.",
    413: "The body is too large.",
    414: "The URL is too long.",
    415: "The body is not JSON, or is packed.",
    429: "Too much is under way. Try again after `Retry-After`.",
    431: "The headers are too large.",
    500: "The server failed.",
    503: "The server is not ready, or stops. Try again after `Retry-After`.",
}
_ALWAYS = (400, 405, 414, 431, 500, 503)
_WITH_KEY = (401, 403)
_WITH_BODY = (404, 408, 413, 415, 429)


def document(app: FastAPI) -> JsonSchema:
    """The document of the routes that `app` has now; made once."""
    if app.openapi_schema is None:
        app.openapi_schema = _make(app)
    return app.openapi_schema


def body_of(kind: type[ChatRequest] | type[CompletionRequest] | type[AbortBody]) -> JsonSchema:
    """For a route's `openapi_extra`: the body that it reads."""
    schema = {"$ref": _REF.format(model=kind.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def answer_or_stream(whole: str, chunk: str) -> dict[int | str, JsonSchema]:
    """For a route's `responses`: one object, or with `stream` server-sent events."""
    data = {
        "type": "string",
        "pattern": r"^(\{.*\}|\[DONE\])$",
        "description": f"A {chunk} as JSON; at the end [DONE], or an Error if the answer broke off.",
    }
    event = {"type": "object", "required": ["data"], "properties": {"data": data}}
    content = {
        "application/json": {"schema": {"$ref": _REF.format(model=whole)}},
        "text/event-stream": {"itemSchema": event},
    }
    return {200: {"description": "The answer.", "content": content}}


def answer_of(model: str) -> dict[int | str, JsonSchema]:
    return {200: {"description": "The answer.", "content": {"application/json": {"schema": {"$ref": _REF.format(model=model)}}}}}


def text_answer(description: str, media_type: str | None = None) -> dict[int | str, JsonSchema]:
    """Text of that type; None: no content."""
    return {200: {"description": description, **({"content": {media_type: {"schema": _TEXT}}} if media_type else {})}}


def _make(app: FastAPI) -> JsonSchema:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about ids of routes with several methods, which are replaced below
        made = get_openapi(title="ernie-triton", version="1", summary="OpenAI-compatible front end", routes=app.routes)
    _, definitions = models_json_schema([(model, "serialization") for model in DOCUMENTED], ref_template=_REF)
    schemas = definitions["$defs"] | {kind.__name__: _request(kind) for kind in (ChatRequest, CompletionRequest)}
    stream_options = schemas["ChatRequest"].pop("$defs")
    schemas["CompletionRequest"].pop("$defs")
    schemas["AbortBody"] = AbortBody.model_json_schema(ref_template=_REF)
    made["components"] = {
        "schemas": schemas | stream_options,
        "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
    }
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            operation["operationId"] = f"{method} {path}".strip("/").translate(str.maketrans(" /{}", "____"))
            _complete(operation, has_key=scope_of(path) is not None)
    return made


def _complete(operation: JsonSchema, *, has_key: bool) -> None:
    """Adds the errors that stand before every route, and the key."""
    responses = operation["responses"]
    responses.pop("422", None)  # FastAPI's own refusal, which no route here gives
    statuses = (*_ALWAYS, *(_WITH_KEY if has_key else ()), *(_WITH_BODY if "requestBody" in operation else ()))
    for status in statuses:
        responses.setdefault(str(status), error(status))
    operation["responses"] = dict(sorted(responses.items()))
    if has_key:
        operation["security"] = [{"key": []}, {}]  # the second: no key where the server has none


def error(status: int) -> JsonSchema:
    return {"description": _DESCRIPTIONS[status], "content": {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}}


# Request bodies ------------------------------------------------------------------------------------------------------------------


def _request(kind: type[ChatRequest] | type[CompletionRequest]) -> JsonSchema:
    schema = kind.model_json_schema(ref_template=_REF)
    properties = schema["properties"]
    for name, (low, high) in RANGES.items():
        whole = all(isinstance(bound, int) for bound in (low, high)) and properties[name]["anyOf"][0]["type"] == "integer"
        number = {"type": "integer" if whole else "number", "minimum": low, "maximum": high}
        properties[name]["anyOf"] = [number, {**_TEXT, "pattern": _NUMBER_AS_TEXT}]
    for name in _SWITCHES:
        properties[name]["anyOf"] = [{"type": "boolean"}, {"enum": ["true", "false"]}]
    properties.update(_by_hand(kind))
    for name, harmless in NOT_SUPPORTED_YET.items():
        properties.setdefault(name, {"enum": [*harmless, None], "description": "Not supported yet: values that ask for nothing pass."})
    for field in properties.values():
        _allow_null(field)
    return schema


def _by_hand(kind: type[ChatRequest] | type[CompletionRequest]) -> dict[str, JsonSchema]:
    ids = {"type": "array", "items": _TOKEN_ID}
    fields: dict[str, JsonSchema] = {
        "logit_bias": {
            "type": "object",
            "propertyNames": {"pattern": "^[0-9]{1,10}$"},
            "additionalProperties": {"anyOf": [{"type": "number", "minimum": -100, "maximum": 100}, {**_TEXT, "pattern": _NUMBER_AS_TEXT}]},
        },
        "prompt_token_ids": {"anyOf": [ids, {"type": "array", "items": ids}]},
    }
    if kind is ChatRequest:
        fields["messages"] = {"anyOf": [{"type": "array", "items": _MESSAGE}, ids]}
        fields["tool_choice"] = {**_TOOL_CHOICE, "anyOf": [*_TOOL_CHOICE["anyOf"]]}
        fields["enable_thinking"] = {"anyOf": [{"type": "boolean"}, {"enum": list(THINKING_SWITCH)}]}
    return fields


def _allow_null(field: JsonSchema) -> None:
    """A field that is null counts as not given."""
    if "anyOf" in field:
        if {"type": "null"} not in field["anyOf"]:
            field["anyOf"].append({"type": "null"})
    elif isinstance(field.get("type"), str):
        field["type"] = [field["type"], "null"]
