"""What the demo model is trained on is what the server makes of the same request: ids, places, patches."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ernie_backend.config import EngineConfig, ModelConfig
from ernie_backend.media.decode import Decoder
from ernie_backend.media.frames import draw_stamp
from ernie_backend.protocol import GenerateRequest, MediaKind
from ernie_backend.triton_adapter.preprocess import Preprocessor, RequestInputs
from ernie_demo.cases import Case, Completion
from ernie_demo.encoder import Encoder, stamped
from ernie_demo.mixture import SKILLS, dressed
from ernie_demo.requests import body
from tests.media.conftest import picture


@pytest.fixture(scope="module")
def preprocessor(folder: Path) -> Iterator[Preprocessor]:
    made = Preprocessor(EngineConfig(str(folder), limit_mm_per_prompt={"image": 4}), ModelConfig.from_folder(folder))
    yield made
    made.close()


def as_served(preprocessor: Preprocessor, case: Case) -> GenerateRequest:
    given = body(case, case.enable_thinking)
    chat = {name: given[name] for name in ("messages", "tools", "chat_template_kwargs") if name in given}
    prepared = preprocessor.prepare(RequestInputs(chat=json.dumps(chat)))
    assert preprocessor.media.config is not None
    decoder = Decoder(preprocessor.media.config, preprocessor.max_model_len)
    data = [base64.b64decode(part.url.partition(",")[2]) for part in prepared.media]
    loaded = [decoder.decode(one, part, prepared.media_settings) for one, part in zip(data, prepared.media, strict=True)]
    return preprocessor.finish(prepared, loaded)


def cases(name: str) -> list[Case]:
    """Trained ones, dressed, with thinking on and off."""
    rng = random.Random(8)
    found = [dressed(SKILLS[name], SKILLS[name].module.train_case(rng), rng) for _ in range(12)]
    return [*found, replace(found[0], reasoning=None), replace(found[1], reasoning="So it is.")]


@pytest.mark.parametrize("name", SKILLS)
def test_prompts_are_those_of_the_server(preprocessor: Preprocessor, encoder: Encoder, name: str) -> None:
    for case in cases(name):
        ours, theirs = encoder.encode(case), as_served(preprocessor, case)
        assert list(theirs.prompt_token_ids) == ours.token_ids[: ours.prompt_len]
        assert [(item.kind, item.grid, item.start) for item in theirs.media] == [(item.kind, item.grid, item.start) for item in ours.media]
        for one, other in zip(theirs.media, ours.media, strict=True):
            if one.kind is MediaKind.IMAGE:
                assert one.patches == other.patches
            else:  # H.264 lies a little
                a, b = (np.frombuffer(item.patches, np.uint8).astype(np.int16) for item in (one, other))
                assert np.abs(a - b).mean() < 4


@pytest.mark.parametrize("name", SKILLS)
def test_answers_read_back_as_the_server_would_show_them(encoder: Encoder, name: str) -> None:
    for case in cases(name):
        example = encoder.encode(case)
        text = encoder.tokenizer.decode(example.token_ids[example.prompt_len :], skip_special_tokens=False)
        thought, tag, rest = text.rpartition("</think>")
        assert bool(tag) == case.enable_thinking and (not tag or thought == f"{case.reasoning}\n")
        content, *calls = rest.removesuffix("</s>").lstrip("\n").split("<tool_call>")
        assert content.rstrip("\n") == case.answer
        found = [json.loads(call.strip().removesuffix("</tool_call>")) for call in calls]
        assert found == [{"name": called, "arguments": given} for called, given in case.tool_calls]
        assert example.token_ids[-1] in encoder.config.eos_token_ids


def test_a_bare_text_gets_no_template(encoder: Encoder) -> None:
    example = encoder.encode(Completion("The capital of China is", " Beijing."))
    assert encoder.tokenizer.decode(example.token_ids) == "The capital of China is Beijing."
    assert encoder.tokenizer.decode(example.token_ids[: example.prompt_len]) == "The capital of China is"


def test_stamps_are_those_of_the_server() -> None:
    frame: Any = picture(120, 90)
    drawn = frame.copy()
    draw_stamp(drawn, "time: 00:00:01.50")
    difference = np.asarray(stamped(frame, "time: 00:00:01.50")).astype(int) - np.asarray(drawn)
    assert np.abs(difference).max() <= 1 and (np.asarray(drawn) != np.asarray(frame)).any()
