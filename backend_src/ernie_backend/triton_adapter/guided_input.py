"""What a request wants its answer to follow: reads and checks the fields that say so; compiles nothing."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidRequestError, json_kind
from ..known_fields import check_known
from ..sampling_fields import SamplingFields
from ..strict_json import read_object
from ..text.grammar import Body, Tag
from ..text.schema_check import check_end, check_schema

MAX_REGEX_CHARACTERS = 8192
MAX_GRAMMAR_CHARACTERS = 2**16
MAX_CHOICES = 1024
MAX_TAGS = 64
MAX_TAG_CHARACTERS = 1024
_BESIDE_TYPE = {"text": (), "json_object": (), "json_schema": ("json_schema",), "structural_tag": ("structures", "triggers")}
"""What belongs to each type of response_format."""


def read_guided(fields: SamplingFields) -> Body | None:
    """Raises `InvalidRequestError` naming the place."""
    if fields.guided is None:
        return None
    name, value = fields.guided
    if name == "response_format":
        return _response_format(value)
    if name == "guided_json":
        return Body("json", _schema(_parsed(value, name), name), name)
    if name == "structural_tag":
        return Body("tags", _tags(_parsed(value, name), name), name)
    if name == "guided_choice":
        return Body("choice", _choices(value, name), name)
    most = MAX_REGEX_CHARACTERS if name == "guided_regex" else MAX_GRAMMAR_CHARACTERS
    if not 1 <= len(value) <= most:
        raise InvalidRequestError(f"{name} must have 1 to {most} characters, got {len(value)}.", param=name)
    return Body("regex" if name == "guided_regex" else "ebnf", value, name)


def check_combination(fields: SamplingFields, place: str) -> None:
    """A constrained answer ends where its grammar ends, and says nothing else."""
    for name, given in (("ignore_eos", fields.ignore_eos), ("min_tokens", fields.min_tokens)):
        if given:
            raise InvalidRequestError(f"{name} cannot be combined with {place}, which decides where the answer ends.", param=name)
    if fields.bad_words or fields.bad_words_token_ids:
        raise InvalidRequestError(f"bad_words cannot be combined with {place}, which decides what is said.", param="bad_words")


def _response_format(given: dict[str, Any]) -> Body | None:
    kind = given.get("type")
    for key, value in given.items():
        if value is not None and key != "type" and isinstance(kind, str) and key not in _BESIDE_TYPE.get(kind, given):
            place = f"response_format.{key[:80]}"
            raise InvalidRequestError(f"{place} has no meaning with the type {kind!r}. Remove it, or choose another type.", param=place)
    if kind == "json_object":
        return Body("json", {"type": "object"}, "response_format")
    if kind == "structural_tag":
        return Body("tags", _tags(given, "response_format"), "response_format")
    if kind != "json_schema":
        shown = repr(kind[:40]) if isinstance(kind, str) else json_kind(kind)
        raise InvalidRequestError(
            f"response_format.type must be text, json_object, json_schema or structural_tag, got {shown}.", param="response_format.type"
        )
    place = "response_format.json_schema"
    described = given.get("json_schema")
    if not isinstance(described, dict) or described.get("schema") is None:
        raise InvalidRequestError(f"{place} must be an object with a name and a schema.", param=place)
    check_known(described, ("name", "description", "schema", "strict"), place)
    for key, type_, rule in ("name", str, "a string"), ("description", str, "a string"), ("strict", bool, "true or false"):
        if described.get(key) is not None and not isinstance(described[key], type_):
            raise InvalidRequestError(f"{place}.{key} must be {rule}, got {json_kind(described[key])}.", param=f"{place}.{key}")
    return Body("json", _schema(described["schema"], f"{place}.schema"), f"{place}.schema")


def _parsed(value: Any, place: str) -> Any:
    return read_object(value, place, place, within=place) if isinstance(value, str) else value


def _schema(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{place} must be a JSON Schema, which is an object, got {json_kind(value)}.", param=place)
    check_schema(value, place)
    check_end(value, place)
    return value


def _tags(value: Any, place: str) -> list[Tag]:
    """Each structure with the trigger that its beginning starts with."""
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{place} must be an object with structures and triggers, got {json_kind(value)}.", param=place)
    check_known(value, ("type", "structures", "triggers"), place)
    if value.get("type", "structural_tag") != "structural_tag":
        raise InvalidRequestError(f"{place}.type must be 'structural_tag', or left out.", param=f"{place}.type")
    structures, triggers = value.get("structures"), value.get("triggers")
    if not isinstance(triggers, list) or not 1 <= len(triggers) <= MAX_TAGS or not all(isinstance(t, str) and t for t in triggers):
        raise InvalidRequestError(
            f"{place}.triggers must be a list of 1 to {MAX_TAGS} strings that are not empty.", param=f"{place}.triggers"
        )
    if not isinstance(structures, list) or not 1 <= len(structures) <= MAX_TAGS:
        raise InvalidRequestError(f"{place}.structures must be a list of 1 to {MAX_TAGS} objects.", param=f"{place}.structures")
    tags = []
    for i, structure in enumerate(structures):
        here = f"{place}.structures[{i}]"
        given = structure if isinstance(structure, dict) else {}
        begin, end = given.get("begin"), given.get("end")
        if not isinstance(begin, str) or not isinstance(end, str) or "schema" not in given:
            raise InvalidRequestError(f"{here} must be an object with a begin, a schema and an end.", param=here)
        check_known(given, ("begin", "schema", "end"), here)
        if len(begin) + len(end) > MAX_TAG_CHARACTERS:
            raise InvalidRequestError(f"{here}: begin and end may have at most {MAX_TAG_CHARACTERS} characters together.", param=here)
        trigger = min((trigger for trigger in triggers if begin.startswith(trigger)), key=len, default=None)  # it is said first
        if trigger is None:
            raise InvalidRequestError(f"{here}.begin must start with one of the triggers.", param=f"{here}.begin")
        tags.append(Tag(trigger=trigger, begin=begin, schema=_schema(given["schema"], f"{here}.schema"), end=end))
    return tags


def _choices(value: list[Any], place: str) -> list[str]:
    if not 1 <= len(value) <= MAX_CHOICES or not all(isinstance(choice, str) and choice for choice in value):
        raise InvalidRequestError(f"{place} must be a list of 1 to {MAX_CHOICES} strings that are not empty.", param=place)
    if sum(map(len, value)) > MAX_GRAMMAR_CHARACTERS:
        raise InvalidRequestError(f"{place} may have at most {MAX_GRAMMAR_CHARACTERS} characters altogether.", param=place)
    return value
