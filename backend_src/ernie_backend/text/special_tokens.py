"""Which tokens of a checkpoint are control tokens, by name; knows no sentencepiece and encodes nothing.

Three places name them: the sentencepiece model (piece types), tokenizer_config.json with its relatives (special_tokens_map.json,
added_tokens.json), and a piece's own form. Two sets come out:

* *markers*: have a meaning for the model. A template or a raw prompt may write them; inside a user's message they are only text.
* *specials* ⊂ markers: left out of the answer's text (`skip_special_tokens`).

A digit or a run of spaces that a checkpoint lists as a piece of its own is neither.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError, json_kind
from .sentencepiece_model import PieceType

log = logging.getLogger(__name__)

ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
MAX_TOKEN_ID = 2**22
"""Of a token that a configuration adds; the largest vocabularies have a tenth of it, and a table is made of so many."""
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_MARKER_FORM = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
"""What a user-defined piece must look like to be a marker: `<think>`, `<|im_end|>`, `[MASK]`; not a digit, not spaces."""


@dataclass(frozen=True)
class SpecialTokens:
    markers: Mapping[str, int]
    """name → id."""
    special_ids: frozenset[int]
    names: Mapping[int, str]
    """Text of the ids that have no sentencepiece piece or another one."""
    roles: Mapping[str, str]
    """`cls_token` → its name, …: the variables that chat templates know."""


def resolve_special_tokens(
    pieces: Sequence[tuple[str, PieceType]], config: Mapping[str, Any], special_map: Mapping[str, Any], added: Mapping[str, Any]
) -> SpecialTokens:
    """From the model's pieces and the contents of tokenizer_config.json, special_tokens_map.json and added_tokens.json. `CheckpointError`
    naming file and key."""
    ids = {text: i for i, (text, _) in enumerate(pieces)}
    declared = _declared_ids(config, added)
    roles = {role: name for role in ROLES if (name := _name(config.get(role)) or _name(special_map.get(role)))}
    named = set(roles.values()) | {*_listed(config, "tokenizer_config.json"), *_listed(special_map, "special_tokens_map.json")}
    named |= {name for name, (_, special) in declared.items() if special}
    ids.update({name: token_id for name, (token_id, _) in declared.items()})

    markers: dict[str, int] = {}
    specials: set[int] = set()
    for text, kind in pieces:
        if kind in (PieceType.CONTROL, PieceType.UNKNOWN):
            markers[text] = ids[text]
            specials.add(ids[text])
        elif kind is PieceType.USER_DEFINED and _MARKER_FORM.fullmatch(text):
            markers[text] = ids[text]
    for name in declared:
        if _MARKER_FORM.fullmatch(name) or ids[name] >= len(pieces):
            markers[name] = ids[name]
    for name in sorted(named):
        if name not in ids:
            log.warning(
                "The tokenizer configuration names the special token %r, which the vocabulary does not hold; it stays plain text.", name
            )
        elif len(name) > 1:
            markers[name] = ids[name]
            specials.add(ids[name])
    return SpecialTokens(markers, frozenset(specials), {token_id: name for name, (token_id, _) in declared.items()}, roles)


def _declared_ids(config: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, tuple[int, bool]]:
    """name → (id, special) of the tokens that the configuration gives an id."""
    declared = {str(name): (_token_id(token_id, f"added_tokens.json: {name}"), False) for name, token_id in added.items()}
    decoder = config.get("added_tokens_decoder")
    for token_id, token in decoder.items() if isinstance(decoder, Mapping) else ():
        name = _name(token)
        if name:
            special = bool(token.get("special")) if isinstance(token, Mapping) else False
            declared[name] = (_token_id(token_id, f"tokenizer_config.json: added_tokens_decoder: {name}"), special)
    return declared


def _token_id(value: Any, place: str) -> int:
    """An integer, or one in digits, as JSON's keys are."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_TOKEN_ID:
        raise CheckpointError(f"{place} must have an id from 0 to {MAX_TOKEN_ID}, got {value!r}.", param="model")
    return value


def _listed(source: Mapping[str, Any], file: str) -> list[str]:
    found: list[str] = []
    for key in _LISTS:
        value = source.get(key) or ()
        if isinstance(value, str) or not isinstance(value, Sequence | Mapping):
            raise CheckpointError(f"{file}: {key} must be a list of tokens or an object, got {json_kind(value)}.", param="model")
        found += [name for token in (value.values() if isinstance(value, Mapping) else value) if (name := _name(token))]
    return found


def _name(token: Any) -> str | None:
    """A token is given as its text or as an object with `content`."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) and token else None
