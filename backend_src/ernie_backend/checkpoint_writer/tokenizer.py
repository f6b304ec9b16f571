"""Makes a small, real sentencepiece tokenizer with ERNIE's special tokens; knows no weights.

The vocabulary covers every id below `vocab_size`, so that whatever a random model samples can be decoded: unknown, `<s>`, `</s>`, 256
byte pieces, the digits, a byte-pair vocabulary trained on a made-up text, the common Chinese characters, and readable pseudo-words as
filler. Special tokens are CONTROL pieces: text never encodes to them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from ..errors import ConfigError
from .chat_templates import TEXT
from .corpus import pseudo_words, sentences
from .sentencepiece_file import PieceKind, model_bytes

PUBLISHED_VOCAB_SIZE = 103424
BYTE_PIECES = 256
TRAINED_PIECES = 2000
"""Merges taken from training at most; enough that English text has about one token per word."""

_FIRST_MEDIA_ID = 100295
_NAMED: dict[int, str] = {
    # ids of the published vocabulary where known (100273, 100295 and the media tokens); the others have a place of our choosing between
    **{100272: "<|end_of_sentence|>", 100273: "<|begin_of_sentence|>"},
    **{
        100274 + i: name
        for i, name in enumerate(
            ["<think>", "</think>", "<response>", "</response>", "<tool_call>", "</tool_call>", "<|im_start|>", "<|im_end|>"]
            + [f"<mask:{i}>" for i in range(8)]
        )
    },
    **{100290 + i: f"<|RESERVED_{i}|>" for i in range(5)},
    **{100295: "<|IMAGE_PLACEHOLDER|>", 100296: "<|AUDIO_PLACEHOLDER|>"},
    **{100297 + i: f"<|LOC_{i}|>" for i in range(1001)},
    **{
        101298 + i: f"<|{name}|>"
        for i, name in enumerate(
            ["LOC_BEGIN", "LOC_END", "LOC_SEP", "CROP_COL_SEP", "CROP_ROW_SEP", "IMAGE_SEP", "IMAGE_START", "IMAGE_END"]
        )
    },
    **{101306 + i: f"<|{name}|>" for i, name in enumerate(["VIDEO_START", "VIDEO_END", "ASR_START", "ASR_END"])},
    **{i: f"<|IMAGE_UNUSED_{i}|>" for i in range(101310, _FIRST_MEDIA_ID + 2048)},
    **{i: f"<|AUDIO_UNUSED_{i}|>" for i in range(_FIRST_MEDIA_ID + 2048, 103367)},
    103367: "<|VIDEO_PLACEHOLDER|>",
}
_SMALL = [name for name in _NAMED.values() if "UNUSED" not in name and "RESERVED" not in name and not name.startswith("<|LOC_")]
"""What a small vocabulary has of them, at its end."""


def write_tokenizer(folder: str | Path, vocab_size: int, chat_template: str = TEXT) -> None:
    """Write `tokenizer.model` and `tokenizer_config.json` into `folder`. `ConfigError` if `vocab_size` is too small."""
    folder = Path(folder)
    (folder / "tokenizer.model").write_bytes(_model_bytes(vocab_size))
    config = {
        "tokenizer_class": "Ernie4_5_Tokenizer",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<unk>",
        "cls_token": "<|begin_of_sentence|>",
        "sep_token": "<|end_of_sentence|>",
        "mask_token": "<mask:1>",
        "additional_special_tokens": [
            name for name in special_tokens(vocab_size).values() if not name.startswith("<|LOC_") and "UNUSED" not in name
        ],
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "legacy": True,
        "model_max_length": 131072,
        "chat_template": chat_template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def special_tokens(vocab_size: int) -> dict[int, str]:
    """id → name of ERNIE's special tokens: at the published ids if they fit, else at the vocabulary's end (without ids 0 to 2)."""
    if vocab_size >= PUBLISHED_VOCAB_SIZE:
        return dict(_NAMED)
    return {vocab_size - len(_SMALL) + i: name for i, name in enumerate(_SMALL)}


def check_vocab_size(vocab_size: int) -> None:
    """Raise `ConfigError` if the indispensable does not fit: bytes, digits, the training text's characters, the special tokens."""
    characters, _ = _trained_pieces()
    least = 3 + BYTE_PIECES + 10 + len(characters) + len(_SMALL)
    if vocab_size < least:
        text = f"vocab_size must be at least {least} for a tokenizer with ERNIE's special tokens, got {vocab_size}."
        raise ConfigError(text, param="vocab_size")


def _model_bytes(vocab_size: int) -> bytes:
    """The serialised sentencepiece model of exactly `vocab_size` pieces."""
    check_vocab_size(vocab_size)
    return model_bytes(_pieces(vocab_size))


def _pieces(vocab_size: int) -> Iterator[tuple[str, PieceKind]]:
    """Every piece of the vocabulary in the order of its id."""
    yield "<unk>", PieceKind.UNKNOWN
    yield "<s>", PieceKind.CONTROL
    yield "</s>", PieceKind.CONTROL
    for byte in range(BYTE_PIECES):
        yield f"<0x{byte:02X}>", PieceKind.BYTE
    for digit in "0123456789":
        yield digit, PieceKind.USER_DEFINED  # one token per digit, whatever stands beside it
    special = special_tokens(vocab_size)
    normal = _normal_pieces()
    for token_id in range(3 + BYTE_PIECES + 10, vocab_size):
        name = special.get(token_id)
        yield (name, PieceKind.CONTROL) if name is not None else (next(normal), PieceKind.NORMAL)


def _normal_pieces() -> Iterator[str]:
    """Distinct pieces in the order of their ids: characters, merges, Chinese characters, then pseudo-words without end."""
    characters, merges = _trained_pieces()
    chinese = (bytes([row, cell]).decode("gb2312") for row in range(0xB0, 0xD7) for cell in range(0xA1, 0xFF if row < 0xD7 else 0xFA))
    seen: set[str] = set()
    words = pseudo_words()
    filler = (word if number % 4 == 0 else f"▁{word}" for number, word in enumerate(words))  # ▁ starts a word: most pieces do
    for source in (characters, merges, chinese, filler):
        for piece in source:
            if piece not in seen:
                seen.add(piece)
                yield piece


@lru_cache(maxsize=1)
def _trained_pieces() -> tuple[list[str], list[str]]:
    """(single characters, merges in the order they were learned) of a byte-pair vocabulary trained on the made-up text."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences()),
        model_writer=written,
        model_type="bpe",
        vocab_size=TRAINED_PIECES,
        hard_vocab_limit=False,
        character_coverage=1.0,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    trained = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    ids = (i for i in range(trained.get_piece_size()) if not (trained.is_unknown(i) or trained.is_control(i)))
    normal = [piece for piece in map(trained.id_to_piece, ids) if not any(c.isdigit() for c in piece)]
    return [piece for piece in normal if len(piece) == 1], [piece for piece in normal if len(piece) > 1]
