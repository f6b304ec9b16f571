"""Incremental decoding: the sum of the pushes is the whole, whatever the split."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_backend.text.detokenizer import Detokenizer
from ernie_backend.text.tokenizer import Tokenizer

IDS = st.lists(st.one_of(st.integers(3, 258), st.integers(0, 4200)), max_size=40)
"""The first range are the byte pieces of the random checkpoints' tokenizer."""


@settings(deadline=None, max_examples=300)
@given(ids=IDS, sizes=st.lists(st.integers(0, 5), max_size=40), skip=st.booleans())
def test_every_split_gives_the_whole(tokenizer: Tokenizer, ids: list[int], sizes: list[int], skip: bool) -> None:
    detokenizer = Detokenizer(tokenizer, skip)
    text, at = "", 0
    for size in sizes:
        text += detokenizer.push(ids[at : at + size])
        at += size
    text += detokenizer.push(ids[at:], final=True)
    assert text == tokenizer.decode(ids, skip_special_tokens=skip)


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_one_by_one_shows_only_whole_characters(tokenizer: Tokenizer, text: str) -> None:
    detokenizer = Detokenizer(tokenizer)
    shown = ""
    for token in tokenizer.encode_text(text):
        shown += detokenizer.push([token])
        assert text.replace("▁", " ").startswith(shown)
    assert shown + detokenizer.push([], final=True) == text.replace("▁", " ")


def test_an_answer_that_begins_with_a_space_keeps_it(tokenizer: Tokenizer) -> None:
    """sentencepiece's own decode drops it where the model puts a space before texts."""
    token = tokenizer.encode_text(" hello")
    assert Detokenizer(tokenizer).push(token) == " hello"


def test_a_character_cut_off_at_the_end_shows_as_replacement(tokenizer: Tokenizer) -> None:
    parts = tokenizer.encode_text("😀")
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.push(parts[:-1]) == ""
    assert detokenizer.push([], final=True) == "�"


def test_bytes_that_are_no_text_show_as_replacement_and_hold_nothing_back(tokenizer: Tokenizer) -> None:
    broken = tokenizer.encode_text("😀")[:2]
    assert Detokenizer(tokenizer).push([*broken, *tokenizer.encode_text("a")]) == "�a"
