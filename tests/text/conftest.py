"""Two tokenizers: the random checkpoints' own, and one as awkward as sentencepiece allows."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import sentencepiece

from ernie_backend.checkpoint_writer.corpus import sentences
from ernie_backend.checkpoint_writer.tokenizer import write_tokenizer
from ernie_backend.text.tokenizer import Tokenizer

USER_DEFINED_MARKERS = ("<mask:1>", "<|begin_of_sentence|>", "<|end_of_sentence|>", "<|im_end|>", "<think>", "</think>")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `random-checkpoint` writes it: markers are CONTROL pieces, nothing is normalised."""
    folder = tmp_path_factory.mktemp("control_pieces")
    write_tokenizer(folder, 4096)
    return folder


@pytest.fixture(scope="session")
def tokenizer(model_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(model_folder)


def train(folder: Path, **options: object) -> None:
    """A sentencepiece model whose markers are USER_DEFINED pieces: sentencepiece itself finds those in any text."""
    written = io.BytesIO()
    settings: dict[str, object] = {
        "model_type": "bpe",
        "vocab_size": 900,
        "byte_fallback": True,
        "user_defined_symbols": [*USER_DEFINED_MARKERS, *"0123456789"],
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "hard_vocab_limit": False,
        "num_threads": 1,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(sentences()), model_writer=written, **{**settings, **options})
    (folder / "tokenizer.model").write_bytes(written.getvalue())


@pytest.fixture(scope="session")
def awkward_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Markers are USER_DEFINED pieces, full-width letters become ASCII, and the model puts a space before every text."""
    folder = tmp_path_factory.mktemp("user_defined_pieces")
    train(folder, normalization_rule_name="nmt_nfkc", add_dummy_prefix=True)
    config = {"add_prefix_space": False, "cls_token": "<|begin_of_sentence|>", "sep_token": {"content": "<|end_of_sentence|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def awkward(awkward_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(awkward_folder)


@pytest.fixture(params=["control pieces", "user-defined pieces"])
def either(request: pytest.FixtureRequest, tokenizer: Tokenizer, awkward: Tokenizer) -> Tokenizer:
    return tokenizer if request.param == "control pieces" else awkward
