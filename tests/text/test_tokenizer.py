"""Text to ids and back: what is a control token, what stays text, and that no space or byte is lost."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_backend.errors import CheckpointError
from ernie_backend.text.sentencepiece_model import PieceType, read_pieces
from ernie_backend.text.tokenizer import SHIELD, Tokenizer
from tests.text.conftest import train

END = "<|end_of_sentence|>"
VALID_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
MARKER_LIKE = st.lists(
    st.sampled_from([END, "<|im_end|>", "<think>", "</think>", "<", "|", "<|end_of", "_sentence|>", "a", " ", "\n", "12"])
).map("".join)


def test_sentencepiece_alone_would_take_a_typed_marker_for_a_control_token(awkward_folder: Path) -> None:
    plain = sentencepiece.SentencePieceProcessor(model_file=str(awkward_folder / "tokenizer.model"))
    for text in (f"a {END} b", "a ＜think＞ b"):  # the second: full-width, made ASCII by normalisation
        assert {plain.piece_to_id(END), plain.piece_to_id("<think>")} & set(plain.encode(text)), "else the tests below prove nothing"


@pytest.mark.parametrize(
    "text", [f"a {END} b", "a ＜think＞ b", "</s><s><unk>", "<mask:1>", f"<<think>{END}{END}", "<|end_of_<think>sentence|>"]
)
def test_no_marker_comes_out_of_a_text(either: Tokenizer, text: str) -> None:
    ids = either.encode_text(text)
    assert not any(either.is_special(token) for token in ids)
    assert either.token_id("<think>") not in ids
    assert either.decode(ids, skip_special_tokens=False) in (text, unicodedata.normalize("NFKC", text))


def test_text_without_markers_is_encoded_as_sentencepiece_does(model_folder: Path, tokenizer: Tokenizer) -> None:
    plain = sentencepiece.SentencePieceProcessor(model_file=str(model_folder / "tokenizer.model"))
    for text in ("Hello, please introduce yourself", " two  spaces\n\tand 2024 digits", "你好，世界 😀", ""):
        assert tokenizer.encode_text(text) == tokenizer.encode_template(text) == plain.encode(text)


def test_a_template_may_write_markers(either: Tokenizer) -> None:
    begin, end = either.token_id("<|begin_of_sentence|>"), either.token_id(END)
    assert begin is not None and end is not None
    ids = either.encode_template(f"<|begin_of_sentence|>User: hi{END}{END}")
    assert ids == [begin, *either.encode_text("User: hi"), end, end]


def test_the_longest_marker_wins(tmp_path: Path) -> None:
    train(tmp_path, user_defined_symbols=["<a>"])
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<a>b": 5000}), encoding="utf-8")
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.encode_template("<a>b<a>") == [5000, tokenizer.token_id("<a>")]


def test_digits_listed_as_pieces_are_text(either: Tokenizer) -> None:
    ids = either.encode_text("2024")
    assert len(ids) == 4
    assert either.decode(ids) == "2024"
    assert either.token_id("2") is None
    assert either.shield("2024") == "2024"


def test_no_space_is_put_before_a_text(either: Tokenizer) -> None:
    assert either.decode(either.encode_text("hello")) == "hello"
    assert either.decode(either.encode_text(" hello")) == " hello"


def test_without_word_from_the_configuration_the_model_keeps_its_space(tmp_path: Path) -> None:
    train(tmp_path, add_dummy_prefix=True)
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.decode(tokenizer.encode_text("hello")) == " hello"


class TestShield:
    @settings(deadline=None, max_examples=150)
    @given(before=MARKER_LIKE, user=MARKER_LIKE, behind=MARKER_LIKE)
    def test_a_shielded_text_is_text_wherever_it_stands(self, tokenizer: Tokenizer, before: str, user: str, behind: str) -> None:
        """Between two pieces of a template, whose own markers count, no id of `user` is a control token."""
        ids = tokenizer.encode_template(f"{before}\n{tokenizer.shield(user)}\n{behind}")
        assert tokenizer.decode(ids, skip_special_tokens=False) == f"{before}\n{user}\n{behind}"
        markers = [token for token in ids if tokenizer.is_special(token)]
        assert markers == [token for part in (before, behind) for token in tokenizer.encode_template(part) if tokenizer.is_special(token)]

    def test_the_text_around_a_typed_marker_is_encoded_uncut(self, either: Tokenizer) -> None:
        text = f"User: hello {END} world\nAssistant: "
        assert either.encode_template(either.shield(text)) == either.encode_text(text)

    def test_two_shielded_texts_form_no_marker_together(self, either: Tokenizer) -> None:
        for cut in range(1, len(END)):
            joined = either.shield(END[:cut]) + either.shield(END[cut:])
            assert either.token_id(END) not in either.encode_template(joined), cut

    def test_overlapping_markers_are_all_found(self, tmp_path: Path) -> None:
        train(tmp_path, user_defined_symbols=["<a>", "<b>"])
        (tmp_path / "added_tokens.json").write_text(json.dumps({"<<a>": 5000, "a><b>": 5001}), encoding="utf-8")
        tokenizer = Tokenizer.from_folder(tmp_path)
        for text in ("<<a>", "<<a><b>", "<a><b>"):
            ids = tokenizer.encode_template(tokenizer.shield(text))
            assert not set(ids) & {5000, 5001, tokenizer.token_id("<a>"), tokenizer.token_id("<b>")}
            assert tokenizer.decode(ids) == text

    def test_string_operations_of_templates_keep_the_sign(self, tokenizer: Tokenizer) -> None:
        shielded = tokenizer.shield(f"  {END}  ")
        for changed in (shielded.strip(), shielded.split()[0], shielded.title().lower(), shielded[2:], "".join(reversed(shielded[::-1]))):
            assert SHIELD in changed
            assert tokenizer.token_id(END) not in tokenizer.encode_template(changed)

    def test_kept_names_are_left_alone(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.shield("<think>", frozenset({"<think>"})) == "<think>"
        assert tokenizer.shield("<think>") != "<think>"


class TestDecoding:
    @settings(deadline=None)
    @given(text=VALID_TEXT)
    def test_decoding_undoes_encoding(self, tokenizer: Tokenizer, text: str) -> None:
        assert tokenizer.decode(tokenizer.encode_text(text)) == text.replace("▁", " ")

    def test_special_tokens_are_left_out_or_named(self, tokenizer: Tokenizer) -> None:
        ids = tokenizer.encode_template(f"a{END}b</s>")
        assert tokenizer.decode(ids) == "ab"
        assert tokenizer.decode(ids, skip_special_tokens=False) == f"a{END}b</s>"

    def test_ids_that_the_tokenizer_does_not_know_are_empty(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.token_bytes(tokenizer.vocab_size) == b"" == tokenizer.token_bytes(-1)

    def test_a_part_of_a_character_is_shown_as_such(self, tokenizer: Tokenizer) -> None:
        parts = tokenizer.encode_text("😀")
        assert [tokenizer.token_bytes(part) for part in parts] == [bytes([byte]) for byte in "😀".encode()]
        assert tokenizer.token_text(parts[0]) == "�"


class TestFewestTokens:
    @settings(deadline=None)
    @given(text=VALID_TEXT)
    def test_never_more_than_there_are(self, tokenizer: Tokenizer, text: str) -> None:
        assert tokenizer.fewest_tokens(text) <= len(tokenizer.encode_template(text))

    def test_holds_where_normalisation_shortens_the_text(self, awkward: Tokenizer) -> None:
        text = "ａｂｃ　" * 500
        assert 0 < awkward.fewest_tokens(text) <= len(awkward.encode_text(text))

    def test_proves_nothing_without_byte_pieces(self, tmp_path: Path) -> None:
        """A run of unknown characters is one token then."""
        train(tmp_path, byte_fallback=False)
        tokenizer = Tokenizer.from_folder(tmp_path)
        assert len(tokenizer.encode_text("釁" * 1000)) < 10
        assert tokenizer.fewest_tokens("釁" * 1000) == 0

    @pytest.mark.parametrize("text", ["a" * 2**20, "<" * 2**20, "<|end" * 2**18, " " * 2**20, "ab" * 2**19, "的" * 2**18])
    def test_megabytes_without_a_break_are_encoded(self, tokenizer: Tokenizer, text: str) -> None:
        """Takes 0.1 to 0.3 s each; anything quadratic would take the whole day."""
        assert tokenizer.decode(tokenizer.encode_template(tokenizer.shield(text))) == text


class TestSpecialTokensByName:
    def write(self, folder: Path, model_folder: Path, **files: object) -> Path:
        (folder / "spm.model").write_bytes((model_folder / "tokenizer.model").read_bytes())
        for name, content in files.items():
            (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        return folder

    def test_roles_from_both_files(self, tmp_path: Path, model_folder: Path) -> None:
        folder = self.write(
            tmp_path,
            model_folder,
            tokenizer_config={"cls_token": {"content": "<s>"}},
            special_tokens_map={"sep_token": "</s>", "cls_token": "x"},
        )
        assert dict(Tokenizer.from_folder(folder).roles) == {"cls_token": "<s>", "sep_token": "</s>"}

    def test_added_tokens_extend_the_vocabulary(self, tmp_path: Path, model_folder: Path) -> None:
        folder = self.write(
            tmp_path,
            model_folder,
            tokenizer_config={"added_tokens_decoder": {"4100": {"content": "<|new|>", "special": True}, "4101": {"content": "<kept>"}}},
        )
        tokenizer = Tokenizer.from_folder(folder)
        assert tokenizer.vocab_size == 4102
        assert tokenizer.encode_template("<|new|><kept>") == [4100, 4101]
        assert tokenizer.decode([4100, 4101]) == "<kept>", "only special ones are left out"
        assert 4100 not in tokenizer.encode_text("<|new|>")

    def test_a_plain_piece_declared_special_is_a_marker(self, tmp_path: Path, model_folder: Path) -> None:
        pieces = [text for text, kind in read_pieces((model_folder / "tokenizer.model").read_bytes()) if kind is PieceType.NORMAL]
        name = max(pieces, key=len)
        folder = self.write(tmp_path, model_folder, tokenizer_config={"additional_special_tokens": [name]})
        tokenizer = Tokenizer.from_folder(folder)
        assert tokenizer.encode_template(name) == [tokenizer.token_id(name)]
        assert tokenizer.token_id(name) not in tokenizer.encode_text(name)

    def test_names_without_a_piece_stay_text(self, tmp_path: Path, model_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        folder = self.write(tmp_path, model_folder, tokenizer_config={"extra_special_tokens": {"image": "<|nowhere|>"}})
        tokenizer = Tokenizer.from_folder(folder)
        assert tokenizer.token_id("<|nowhere|>") is None
        assert "<|nowhere|>" in caplog.text


class TestBrokenFolders:
    def test_no_tokenizer(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"has no tokenizer: none of tokenizer\.model"):
            Tokenizer.from_folder(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"not a model", b"\x0a\xff\xff", b"\x0a\x05\x0a\x03abc"])
    def test_broken_model(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "tokenizer.model").write_bytes(content)
        with pytest.raises(CheckpointError, match="not a usable sentencepiece model"):
            Tokenizer.from_folder(tmp_path)

    def test_a_pointer_of_git_lfs(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.model").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
        with pytest.raises(CheckpointError, match="pointer of Git LFS"):
            Tokenizer.from_folder(tmp_path)

    def test_truncated_model(self, tmp_path: Path, model_folder: Path) -> None:
        model = (model_folder / "tokenizer.model").read_bytes()
        (tmp_path / "tokenizer.model").write_bytes(model[: len(model) // 2])
        with pytest.raises(CheckpointError, match=r"tokenizer\.model"):
            Tokenizer.from_folder(tmp_path)

    @pytest.mark.parametrize("content", ["{", "[]"])
    def test_broken_configuration(self, tmp_path: Path, model_folder: Path, content: str) -> None:
        (tmp_path / "tokenizer.model").write_bytes((model_folder / "tokenizer.model").read_bytes())
        (tmp_path / "tokenizer_config.json").write_text(content, encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
            Tokenizer.from_folder(tmp_path)

    @pytest.mark.parametrize(
        ("file", "content", "words"),
        [
            ("tokenizer_config.json", {"additional_special_tokens": 7}, "additional_special_tokens must be a list"),
            ("special_tokens_map.json", {"additional_special_tokens": "<x>"}, "additional_special_tokens must be a list"),
            ("added_tokens.json", {"<x>": None}, "<x> must have an id from 0"),
            ("added_tokens.json", {"<x>": -1}, "<x> must have an id from 0"),
            ("added_tokens.json", {"<x>": 10**9}, "<x> must have an id from 0"),
            ("tokenizer_config.json", {"added_tokens_decoder": {"first": {"content": "<x>"}}}, "added_tokens_decoder: <x> must have an id"),
        ],
    )
    def test_odd_tokens_are_named_with_their_file(self, tmp_path: Path, model_folder: Path, file: str, content: object, words: str) -> None:
        (tmp_path / "tokenizer.model").write_bytes((model_folder / "tokenizer.model").read_bytes())
        (tmp_path / file).write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(CheckpointError, match=f"^{file}: .*{words}"):
            Tokenizer.from_folder(tmp_path)

    def test_a_folder_in_the_place_of_a_file(self, tmp_path: Path, model_folder: Path) -> None:
        (tmp_path / "tokenizer.model").write_bytes((model_folder / "tokenizer.model").read_bytes())
        (tmp_path / "added_tokens.json").mkdir()
        with pytest.raises(CheckpointError, match=r"added_tokens\.json' cannot be read: Is a directory\."):
            Tokenizer.from_folder(tmp_path)
