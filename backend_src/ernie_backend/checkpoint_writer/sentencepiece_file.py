"""Writes a sentencepiece model file from a list of pieces; knows neither ERNIE nor training.

The file is a protobuf message (`sentencepiece_model.proto`). It is written by hand because sentencepiece's generated module demands a
newer protobuf runtime than the server's other packages allow, and the few fields needed are three kinds of wire value.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum

_VARINT, _BYTES, _FLOAT = 0, 2, 5
_BPE = 2  # TrainerSpec.ModelType


class PieceKind(IntEnum):
    """`ModelProto.SentencePiece.Type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    BYTE = 6


def model_bytes(pieces: Iterable[tuple[str, PieceKind]]) -> bytes:
    """A byte-pair model with byte fallback whose ids are the order of `pieces`; earlier pieces merge first.

    No dummy prefix, no normalisation, spaces kept. Ids 0, 1 and 2 must be the unknown piece, the start and the end.
    """
    body = bytearray()
    count = 0
    for piece, kind in pieces:
        score = -float(count) if kind is PieceKind.NORMAL else 0.0
        body += _bytes(1, _bytes(1, piece.encode()) + _tag(2, _FLOAT) + struct.pack("<f", score) + _integer(3, kind))
        count += 1
    trainer = (
        _integer(3, _BPE)
        + _integer(4, count)
        + _integer(25, 1)  # split_digits
        + _integer(35, 1)  # byte_fallback
        + _integer(40, 0)  # unk_id
        + _integer(41, 1)  # bos_id
        + _integer(42, 2)  # eos_id
        + _integer(43, -1)  # pad_id
    )
    normalizer = (
        _bytes(1, b"identity")
        + _integer(3, 0)  # add_dummy_prefix
        + _integer(4, 0)  # remove_extra_whitespaces
        + _integer(5, 1)  # escape_whitespaces
    )
    return bytes(body + _bytes(2, trainer) + _bytes(3, normalizer))


def _varint(value: int) -> bytes:
    value &= 2**64 - 1  # a negative int32 is written as its 64-bit two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tag(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _integer(field: int, value: int) -> bytes:
    return _tag(field, _VARINT) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _tag(field, _BYTES) + _varint(len(value)) + value
