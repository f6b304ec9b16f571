"""The random checkpoints' tokenizer: every id decodes, specials have their places and are never met in text, the template renders."""

from __future__ import annotations

import json

import jinja2
import pytest
import sentencepiece

from ernie_backend.checkpoint_writer.chat_templates import TEXT as CHAT_TEMPLATE
from ernie_backend.checkpoint_writer.tokenizer import check_vocab_size, special_tokens, write_tokenizer
from ernie_backend.errors import ConfigError

BEGIN, END = "<|begin_of_sentence|>", "<|end_of_sentence|>"
PUBLISHED = {
    0: "<unk>",
    1: "<s>",
    2: "</s>",
    13: "<0x0A>",
    100272: END,
    100273: BEGIN,
    100295: "<|IMAGE_PLACEHOLDER|>",
    100296: "<|AUDIO_PLACEHOLDER|>",
    100297: "<|LOC_0|>",
    101297: "<|LOC_1000|>",
    101298: "<|LOC_BEGIN|>",
    101303: "<|IMAGE_SEP|>",
    101304: "<|IMAGE_START|>",
    101305: "<|IMAGE_END|>",
    101306: "<|VIDEO_START|>",
    101307: "<|VIDEO_END|>",
    101309: "<|ASR_END|>",
    103367: "<|VIDEO_PLACEHOLDER|>",
}
TEXT = "User: Hello, please introduce yourself.\nIn 2024,  two   spaces; 你好 😀 \ttab Ünïcode <|end_of_sentence|></s>"


@pytest.fixture(scope="module", params=[600, 103424])
def tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, request.param)
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")), folder, request.param


def test_every_id_is_a_piece_of_its_own(tokenizer):
    processor, _, vocab_size = tokenizer
    assert processor.get_piece_size() == vocab_size
    pieces = {processor.id_to_piece(i) for i in range(vocab_size)}
    assert len(pieces) == vocab_size
    assert all(processor.piece_to_id(piece) >= 3 for piece in special_tokens(vocab_size).values())


def test_text_survives_and_digits_stand_alone(tokenizer):
    processor, _, _ = tokenizer
    ids = processor.encode(TEXT)
    assert processor.decode(ids) == TEXT
    pieces = [processor.id_to_piece(i) for i in ids]
    assert all(len(piece) == 1 for piece in pieces if any(c.isdigit() for c in piece) and not piece.startswith("<0x"))
    assert "<0x0A>" in pieces
    assert processor.decode(processor.encode(" x")) == " x" and processor.encode("x", out_type=str) == ["x"]


def test_text_never_becomes_a_special_token(tokenizer):
    processor, _, vocab_size = tokenizer
    for name in ["</s>", *special_tokens(vocab_size).values()][:40]:
        token_id = processor.piece_to_id(name)
        assert processor.is_control(token_id) and token_id not in processor.encode(f"a {name} b")


def test_published_ids():
    names = special_tokens(103424)
    assert {i: name for i, name in PUBLISHED.items() if i > 13}.items() <= names.items()
    thinking = ["<think>", "</think>", "<response>", "</response>", "<tool_call>", "</tool_call>", "<|im_start|>", "<|im_end|>"]
    assert set(thinking) <= set(names.values())
    assert len(set(names.values())) == len(names)


def test_first_ids(tokenizer):
    processor, _, _ = tokenizer
    assert [processor.id_to_piece(i) for i in (0, 1, 2, 13)] == [PUBLISHED[i] for i in (0, 1, 2, 13)]


def test_small_vocabularies_end_in_the_special_tokens():
    assert sorted(special_tokens(600)) == list(range(600 - len(special_tokens(600)), 600))


def test_random_output_reads_as_words(tmp_path):
    write_tokenizer(tmp_path, 103424)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    text = processor.decode(list(range(20000, 20200)))
    words = [word for word in text.split() if word.isalpha() and word.islower()]
    assert len(words) > 100


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ConfigError, match="vocab_size must be at least"):
        check_vocab_size(100)


@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize(
    ("messages", "options", "expected"),
    [
        ("u hi", {}, f"{BEGIN}User: hi\nAssistant: "),
        ("s S|u a", {}, f"{BEGIN}S\nUser: a\nAssistant: "),
        ("s S|u a|a b|u c", {}, f"{BEGIN}S\nUser: a\nAssistant: b{END}User: c\nAssistant: "),
        ("u a|a b", {"add_generation_prompt": False}, f"{BEGIN}User: a\nAssistant: b{END}"),
        ("u a|t T", {}, f"{BEGIN}User: a\nAssistant: "),
        ("u a|a b", {"cls_token": "<C>", "sep_token": "<S>"}, "<C>User: a\nAssistant: b<S>Assistant: "),
    ],
)
def test_chat_template(messages, options, expected, trim):
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    listed = [{"role": roles[text[0]], "content": text[2:]} for text in messages.split("|")]
    environment = jinja2.Environment(trim_blocks=trim, lstrip_blocks=trim, autoescape=False)
    assert environment.from_string(CHAT_TEMPLATE).render(messages=listed, **options) == expected


def test_tokenizer_config(tokenizer):
    _, folder, vocab_size = tokenizer
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["chat_template"] == CHAT_TEMPLATE and config["add_bos_token"] is False
    assert (config["bos_token"], config["eos_token"], config["cls_token"], config["sep_token"]) == ("<s>", "</s>", BEGIN, END)
    assert set(config["additional_special_tokens"]) <= set(special_tokens(vocab_size).values())
