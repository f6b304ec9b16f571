"""Reads and patches a serialised sentencepiece model: piece names, piece kinds, two switches; knows no tokens and no text.

The Python package has no call that tells USER_DEFINED pieces from NORMAL ones or changes either, and its own protobuf module demands one
exact protobuf runtime. So this module reads the wire format itself, which is stable: `ModelProto` is a run of fields, field 1 (`pieces`)
holds {1: piece, 2: score, 3: type}, field 3 (`normalizer_spec`) holds {3: add_dummy_prefix}. Of a scalar field that is written twice the
last one counts, and a message that is written twice is merged: that is how the patches work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import IntEnum

_PIECES_FIELD = 1
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_TYPE_CONTROL = b"\x18\x03"  # field 3, varint 3
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"  # field 3 (normalizer_spec), 2 bytes: field 3 (add_dummy_prefix) = false


class PieceType(IntEnum):
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def read_pieces(model: bytes) -> list[tuple[str, PieceType]]:
    """(text, type) of every piece, in the order of the ids. `ValueError` if the bytes are no sentencepiece model."""
    pieces = [_piece(body) for number, body, _ in _fields(model) if number == _PIECES_FIELD and isinstance(body, bytes)]
    if not pieces:
        raise ValueError("it holds no pieces")
    return pieces


def as_control(model: bytes, ids: Collection[int]) -> bytes:
    """The model with the pieces `ids` made CONTROL: no text encodes to them any more."""
    parts, piece_id = [], 0
    for number, body, raw in _fields(model):
        if number == _PIECES_FIELD and isinstance(body, bytes):
            if piece_id in ids:
                body += _TYPE_CONTROL
                raw = bytes([_PIECES_FIELD << 3 | _LENGTH]) + _varint(len(body)) + body
            piece_id += 1
        parts.append(raw)
    return b"".join(parts)


def without_dummy_prefix(model: bytes) -> bytes:
    """The model without the space that sentencepiece may put before every text."""
    return model + _NO_DUMMY_PREFIX


def _piece(body: bytes) -> tuple[str, PieceType]:
    text, kind = "", PieceType.NORMAL
    for number, value, _ in _fields(body):
        if number == 1 and isinstance(value, bytes):
            text = value.decode("utf-8")
        elif number == 3 and isinstance(value, int):
            kind = PieceType(value)
    return text, kind


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int, bytes]]:
    """(field number, value, the field's bytes) one by one."""
    at, end = 0, len(message)
    while at < end:
        start = at
        tag, at = _read_varint(message, at)
        wire = tag & 7
        value: bytes | int
        if wire == _VARINT:
            value, at = _read_varint(message, at)
        else:
            if wire == _LENGTH:
                size, at = _read_varint(message, at)
            elif wire in (_FIXED32, _FIXED64):
                size = 4 if wire == _FIXED32 else 8
            else:
                raise ValueError(f"it is not in protobuf form (wire type {wire} at byte {start})")
            value, at = message[at : at + size], at + size
        if at > end:
            raise ValueError(f"it ends in the middle of a field that starts at byte {start}")
        yield tag >> 3, value, message[start:at]


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"it ends in the middle of a number at byte {at}")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(encoded + bytes([value]))
