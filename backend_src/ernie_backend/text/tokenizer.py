"""Text to token ids and back, with the checkpoint's sentencepiece model; knows no template, no request and no tensors.

Control tokens come from names only (`special_tokens.py`): the sentencepiece model is loaded with every marker turned into a CONTROL
piece, so that no text encodes to one, and whoever may write markers gets them by cutting the text at their names first.

A whole conversation is rendered by one template, where the template's own markers count and those that a user typed do not. `shield` puts
a sign into every marker within a user's string before rendering; `encode_template` does not recognise a marker with the sign in it, takes
the sign out again, and encodes the text around it uncut. The sign is a lone surrogate, which no valid text holds (preprocess refuses it),
which is neither space nor letter to a template's string operations, and which a slice cannot cut in two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import sentencepiece

from ..errors import CheckpointError
from .sentencepiece_model import PieceType, as_control, read_pieces, without_dummy_prefix
from .special_tokens import SpecialTokens, resolve_special_tokens

MODEL_FILES = ("tokenizer.model", "spm.model", "ernie_token_100k.model")
SHIELD = "\ud800"


class Tokenizer:
    """One checkpoint's tokenizer. Ids lie in [0, `vocab_size`); the model's embedding may have more rows."""

    def __init__(
        self,
        model: bytes,
        pieces: list[tuple[str, PieceType]],
        special: SpecialTokens,
        *,
        dummy_prefix: bool = True,
        placeholders: Mapping[str, int] | None = None,
    ) -> None:
        """`dummy_prefix`: leave the model's own choice (True), or switch the space before every text off (False).

        `placeholders`: further markers with the numbers, all negative, that `encode_template` gives in their place.
        """
        if not dummy_prefix:
            model = without_dummy_prefix(model)
        found_in_text = (PieceType.NORMAL, PieceType.USER_DEFINED)
        marker_ids = {i for i in special.markers.values() if i < len(pieces) and pieces[i][1] in found_in_text}
        self._text = sentencepiece.SentencePieceProcessor(model_proto=as_control(model, marker_ids))
        self._bytes = _token_bytes(pieces, special)
        self._special = special
        self._longest_bytes = max(len(text.encode("utf-8")) for text, _ in pieces)
        self._byte_fallback = sum(kind is PieceType.BYTE for _, kind in pieces) == 256
        self._markers = {**special.markers, **(placeholders or {})}
        self._split = re.compile(f"({_any_of(self._markers)})") if self._markers else None
        self._shield_patterns: dict[frozenset[str], re.Pattern[str]] = {}
        self.vocab_size = len(self._bytes)

    @classmethod
    def from_folder(cls, folder: str | Path, placeholders: Mapping[str, int] | None = None) -> Tokenizer:
        """The tokenizer of a model folder. `CheckpointError` if it has none or a broken one."""
        folder = Path(folder)
        path = next((folder / name for name in MODEL_FILES if (folder / name).is_file()), None)
        if path is None:
            raise CheckpointError(
                f"The model folder {str(folder)!r} has no tokenizer: none of {', '.join(MODEL_FILES)} is there.", param="model"
            )
        model = path.read_bytes()
        if model.startswith(b"version https://git-lfs"):
            raise CheckpointError(
                f"{str(path)!r} is not the file itself but a pointer of Git LFS to it. Run `git lfs pull` in the model folder.",
                param="model",
            )
        try:
            pieces = read_pieces(model)
            config = _read_json(folder / "tokenizer_config.json")
            special = resolve_special_tokens(
                pieces, config, _read_json(folder / "special_tokens_map.json"), _read_json(folder / "added_tokens.json")
            )
            dummy_prefix = config.get("add_prefix_space") is not False
            return cls(model, pieces, special, dummy_prefix=dummy_prefix, placeholders=placeholders)
        except (ValueError, RuntimeError) as error:
            raise CheckpointError(f"{str(path)!r} is not a usable sentencepiece model: {str(error).rstrip('.')}.", param="model") from None

    # names ---------------------------------------------------------------------------------------------------------------------

    @property
    def roles(self) -> Mapping[str, str]:
        """`cls_token`, `sep_token`, … → text, as the checkpoint names them."""
        return self._special.roles

    def token_id(self, name: str) -> int | None:
        """The id of a marker, or None."""
        return self._special.markers.get(name)

    @property
    def control_ids(self) -> frozenset[int]:
        """Ids that no text encodes to."""
        return self._special.special_ids | frozenset(self._special.markers.values())

    def is_special(self, token_id: int) -> bool:
        """Whether `skip_special_tokens` leaves the token out of the text."""
        return token_id in self._special.special_ids

    # text → ids ----------------------------------------------------------------------------------------------------------------

    def fewest_tokens(self, text: str) -> int:
        """A number of tokens that `text` surely has: its normalised bytes over the longest piece's. Costs a hundredth of encoding."""
        if not self._byte_fallback:  # then a run of unknown characters of any length is one token
            return 0
        normalised = self._text.normalize(text.replace(SHIELD, ""))
        return -(-len(normalised.encode("utf-8")) // self._longest_bytes)

    def encode_text(self, text: str) -> list[int]:
        """Ids of a text in which no marker counts. No control token, nothing put before or behind."""
        return self._text.encode(text) if text else []

    def encode_template(self, rendered: str) -> list[int]:
        """Ids of a rendered conversation or a raw prompt: markers count, save those that `shield` signed. Placeholders are negative."""
        ids: list[int] = []
        parts = self._split.split(rendered) if self._split is not None else [rendered]
        for i, part in enumerate(parts):
            if i % 2:
                ids.append(self._markers[part])
            else:
                ids += self.encode_text(part.replace(SHIELD, ""))
        return ids

    def shield(self, text: str, keep: frozenset[str] = frozenset()) -> str:
        """`text` with a sign in every marker but those of `keep`, and in a marker's beginning at the end, whatever may follow there."""
        pattern = self._shield_patterns.get(keep)
        if pattern is None:
            names = [name for name in self._markers if name not in keep]
            pattern = re.compile(f"(?={_any_of(names, or_cut_short=True)})." if names else r"(?!)", re.DOTALL)
            self._shield_patterns[keep] = pattern
        # a function, because `re` looks a replacement text up in a cache by the hash of the pattern: 0.1 ms for one of this size
        return pattern.sub(_sign, text)

    # ids → text ----------------------------------------------------------------------------------------------------------------

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes that a token stands for, maybe a part of a character; empty for an id that the tokenizer does not know."""
        return self._bytes[token_id] if 0 <= token_id < len(self._bytes) else b""

    def token_text(self, token_id: int) -> str:
        """The token alone, as log-probabilities show it: U+FFFD stands for a part of a character."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """What the ids say, no space added or taken away; bytes that are not UTF-8 become U+FFFD."""
        kept = (i for i in ids if not (skip_special_tokens and self.is_special(i)))
        return b"".join(map(self.token_bytes, kept)).decode("utf-8", "replace")


def _token_bytes(pieces: list[tuple[str, PieceType]], special: SpecialTokens) -> list[bytes]:
    table = [
        bytes([int(text[3:5], 16)]) if kind is PieceType.BYTE else text.replace("▁", " ").encode("utf-8")  # <0x0A> → newline
        for text, kind in pieces
    ]
    for token_id, name in special.names.items():
        if token_id >= len(table):
            table += [b""] * (token_id + 1 - len(table))
        table[token_id] = name.encode("utf-8")
    return table


def _sign(match: re.Match[str]) -> str:
    return match.group() + SHIELD


def _any_of(words: Iterable[str], *, or_cut_short: bool = False) -> str:
    """A pattern for the longest of the words at a place; with `or_cut_short` also for a word's beginning that the text's end cuts off.

    Written as a trie: a plain alternation of 4,000 names would try them all at every `<`.
    """
    trie: dict[str, Any] = {}
    for word in words:
        node = trie
        for character in word:
            node = node.setdefault(character, {})
        node[""] = {}

    def pattern(node: dict[str, Any]) -> str:
        branches = [re.escape(character) + pattern(child) for character, child in node.items() if character]
        if not branches:
            return ""
        if "" in node:
            branches.append("")  # last: the longest word wins
        elif or_cut_short and node is not trie:
            branches.append(r"\Z")
        return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"

    return pattern(trie)


def _read_json(path: Path) -> dict[str, Any]:
    """The object in the file; empty if there is no file."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error.strerror}.", param="model") from None
    except RecursionError:
        raise CheckpointError(f"{str(path)!r} is nested too deeply.", param="model") from None
    except ValueError as error:
        raise CheckpointError(f"{str(path)!r} is not valid JSON: {error}.", param="model") from None
    if not isinstance(given, dict):
        raise CheckpointError(f"{str(path)!r} must hold a JSON object.", param="model")
    return given
