"""The demo model's tokenizer: byte pairs of what its skills say, with ERNIE's special tokens; trains it and writes its files.

`python -m ernie_demo.tokenizer FILE` trains it anew. The trained pieces lie in the package, because weights are worth nothing without
the ids they were trained with.
"""

from __future__ import annotations

import argparse
import io
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from ernie_backend.checkpoint_writer.sentencepiece_file import PieceKind, model_bytes
from ernie_backend.checkpoint_writer.tokenizer import BYTE_PIECES, special_tokens

from .skills.ocr import OTSL

VOCAB_SIZE = 5120
PIECES_FILE = Path(__file__).with_name("pieces.json")
_CASES_PER_SKILL = 12000


def write_tokenizer(folder: Path, chat_template: str) -> None:
    """`tokenizer.model` and `tokenizer_config.json`."""
    pieces = json.loads(PIECES_FILE.read_text(encoding="utf-8"))
    (folder / "tokenizer.model").write_bytes(model_bytes(_all_pieces(pieces)))
    config = {
        "tokenizer_class": "Ernie4_5_Tokenizer",
        **{"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"},
        **{"cls_token": "<|begin_of_sentence|>", "sep_token": "<|end_of_sentence|>", "mask_token": "<mask:1>"},
        "additional_special_tokens": list(special_tokens(VOCAB_SIZE).values()),
        **{"add_bos_token": False, "add_eos_token": False, "add_prefix_space": False, "clean_up_tokenization_spaces": False},
        **{"legacy": True, "model_max_length": 4096},
        "chat_template": chat_template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _all_pieces(trained: Iterable[str]) -> Iterator[tuple[str, PieceKind]]:
    """In the order of their ids: the indispensable, what was trained, then tables' tags and ERNIE's special tokens at the end."""
    yield "<unk>", PieceKind.UNKNOWN
    yield "<s>", PieceKind.CONTROL
    yield "</s>", PieceKind.CONTROL
    for byte in range(BYTE_PIECES):
        yield f"<0x{byte:02X}>", PieceKind.BYTE
    for digit in "0123456789":
        yield digit, PieceKind.USER_DEFINED
    for piece in trained:
        yield piece, PieceKind.NORMAL
    for tag in OTSL:
        yield tag, PieceKind.USER_DEFINED
    for _, name in sorted(special_tokens(VOCAB_SIZE).items()):
        yield name, PieceKind.CONTROL


def num_trained() -> int:
    return VOCAB_SIZE - 3 - BYTE_PIECES - 10 - len(OTSL) - len(special_tokens(VOCAB_SIZE))


def train(lines: Iterable[str]) -> list[str]:
    """Exactly `num_trained()` pieces without digits: characters first, then merges in the order they were learned."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=written,
        model_type="bpe",
        vocab_size=num_trained() + 400,
        hard_vocab_limit=False,
        character_coverage=1.0,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        max_sentencepiece_length=24,
        num_threads=2,
        minloglevel=2,
    )
    trained = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    ids = (i for i in range(trained.get_piece_size()) if not (trained.is_unknown(i) or trained.is_control(i)))
    normal = [piece for piece in map(trained.id_to_piece, ids) if not any(c.isdigit() for c in piece) and piece not in OTSL]
    ordered = [piece for piece in normal if len(piece) == 1] + [piece for piece in normal if len(piece) > 1]
    assert len(ordered) >= num_trained(), f"the text gives {len(ordered)} pieces, {num_trained()} are needed: more text, or a smaller one"
    return ordered[: num_trained()]


def corpus(cases_per_skill: int = _CASES_PER_SKILL) -> Iterator[str]:
    """What the skills say, a text per line; every printable ASCII character once."""
    from .mixture import SKILLS, dressed, prompt_texts

    yield " ".join(chr(code) for code in range(33, 127))
    for skill in SKILLS.values():
        rng = random.Random(0)
        for _ in range(cases_per_skill if skill.is_text else cases_per_skill // 4):
            for text in prompt_texts(dressed(skill, skill.module.train_case(rng), rng)):
                yield from (line for line in text.split("\n") if line)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo model's tokenizer on what its skills say.")
    parser.add_argument("file", nargs="?", type=Path, default=PIECES_FILE)
    args = parser.parse_args()
    args.file.write_text(json.dumps(train(corpus()), ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
