"""From a case to token ids, positions and patches, exactly as the server makes them: its tokenizer, template, resizing and placeholders."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops

from ernie_backend.config import EngineConfig, ModelConfig
from ernie_backend.execution.sequence_media import SequenceMedia
from ernie_backend.media.frames import FrameSampling, draw_stamp, time_stamp
from ernie_backend.media.image import resized
from ernie_backend.media.patches import LoadedMedia, content_hash, merged_order
from ernie_backend.media.resize import ernie_size
from ernie_backend.media_fields import AS_THE_MODEL_SAYS, MediaPart
from ernie_backend.protocol import MediaItem, MediaKind
from ernie_backend.text.chat_template import find_template
from ernie_backend.text.messages import normalize_messages
from ernie_backend.text.template_worker import make_environment
from ernie_backend.text.tokenizer import Tokenizer
from ernie_backend.text.tools import normalize_tools
from ernie_backend.triton_adapter.media_prompt import PromptMedia, placeholder_signs

from .cases import Case, Completion, Message

_SPELLED = re.compile(r"<[a-z]+>|[\s\S]")
_NO_ADDRESS = "data:,"
"""What stands for the address of an image that is at hand."""


@dataclass(frozen=True)
class Example:
    """A case as the model takes it."""

    token_ids: list[int]
    """Prompt and answer."""
    prompt_len: int
    positions: np.ndarray
    """[3, tokens] int32."""
    is_visual: np.ndarray
    """[tokens] bool: which experts serve a token."""
    media: tuple[MediaItem, ...]


class Encoder:
    """For one folder (`folder.write_folder`)."""

    def __init__(self, folder: Path) -> None:
        self.config = ModelConfig.from_folder(folder)
        self._media = PromptMedia(EngineConfig(str(folder)))
        assert self._media.config is not None
        self._settings = self._media.settings(AS_THE_MODEL_SAYS)
        self.tokenizer = Tokenizer.from_folder(folder, placeholder_signs(self._media.config))
        template = find_template(folder)
        assert template is not None
        self._end = self.config.eos_token_ids[:1]
        self._template = make_environment().from_string(template)

    def encode(self, case: Case | Completion) -> Example:
        if isinstance(case, Completion):
            prompt, media = self.tokenizer.encode_text(case.prompt), tuple[MediaItem, ...]()
            answer = [*self.tokenizer.encode_text(case.answer), *self._end]
        else:
            prompt, media = self.prompt(case)
            answer = self.answer(case)
        ids = prompt + answer
        if not media:
            positions = np.broadcast_to(np.arange(len(ids), dtype=np.int32), (3, len(ids)))
            return Example(ids, len(prompt), positions, np.zeros(len(ids), bool), ())
        places = SequenceMedia(media, prompt, self.config)
        return Example(ids, len(prompt), places.positions(0, len(ids)), places.visual(0, len(ids)), media)

    def prompt(self, case: Case) -> tuple[list[int], tuple[MediaItem, ...]]:
        """Ids up to where the answer begins, and what is seen."""
        parts: list[MediaPart] = []
        messages = normalize_messages([_with_addresses(message) for message in case.messages], parts, takes_tools=True)
        rendered = self._template.render(
            {
                **self.tokenizer.roles,
                "messages": messages,
                **({"tools": normalize_tools(list(case.tools))} if case.tools else {}),
                "add_generation_prompt": True,
                "enable_thinking": case.enable_thinking,
            }
        )
        return self._media.place(self.tokenizer.encode_template(rendered), [self._load(part) for part in _media_parts(case)])

    def answer(self, case: Case) -> list[int]:
        """Ids of what the model is to say, the end token included."""
        ids = [] if case.reasoning is None else self.tokenizer.encode_template(f"{case.reasoning}\n</think>\n\n")
        if case.facets.get("spelled"):  # letter by letter: that is how it is read
            for piece in _SPELLED.findall(case.answer):
                ids += self.tokenizer.encode_template(piece)
        else:
            ids += self.tokenizer.encode_template(case.answer)
        if case.tool_calls:
            calls = [json.dumps({"name": name, "arguments": given}, ensure_ascii=False) for name, given in case.tool_calls]
            text = "".join(f"<tool_call>\n{call}\n</tool_call>\n" for call in calls)
            ids += self.tokenizer.encode_template(f"\n{text}" if case.answer else text)
        return [*ids, *self._end]

    def _load(self, part: dict[str, Any]) -> LoadedMedia:
        return self._image(part["image"]) if "image" in part else self._video(part["frames"], part["fps"])

    def _image(self, image: Image.Image) -> LoadedMedia:
        settings = self._settings
        size = self._size(image, settings.image_min_pixels, settings.image_max_pixels)
        return self._cut(MediaKind.IMAGE, np.asarray(resized(image, *size))[np.newaxis])

    def _video(self, frames: list[Image.Image], fps: float) -> LoadedMedia:
        settings, seconds = self._settings, len(frames) / fps
        size = self._size(frames[0], settings.video_min_pixels, settings.video_max_pixels)
        sampling = FrameSampling(settings.video_fps, settings.video_min_frames, settings.video_max_frames)  # type: ignore[arg-type]
        pixels = []
        for index in sampling.indices(len(frames), sampling.num_frames(seconds)):
            pixels.append(np.asarray(resized(stamped(frames[index], time_stamp(index * seconds / len(frames))), *size)))
        pixels += pixels[-1:] * (len(pixels) % 2)
        return self._cut(MediaKind.VIDEO, np.stack(pixels))

    def _size(self, image: Image.Image, least: int | None, most: int | None) -> tuple[int, int]:
        assert self._media.config is not None and least is not None and most is not None
        return ernie_size(image.height, image.width, factor=self._media.config.factor, min_pixels=least, max_pixels=most)

    def _cut(self, kind: MediaKind, frames: np.ndarray) -> LoadedMedia:
        config = self._media.config
        assert config is not None
        grid = (len(frames), frames.shape[1] // config.patch_size, frames.shape[2] // config.patch_size)
        patches = merged_order(frames, config.patch_size, config.merge_size).tobytes()
        num_tokens = max(1, grid[0] // config.temporal_merge_size) * grid[1] * grid[2] // config.merge_size**2
        return LoadedMedia(kind, patches, grid, num_tokens, content_hash(kind, grid, patches))


def stamped(frame: Image.Image, text: str) -> Image.Image:
    """A copy with `draw_stamp`'s stamp, to a level of brightness: outlining letters anew for each frame takes longer than all else."""
    kept, added = _stamp_layers(frame.size, text)
    return ImageChops.add(ImageChops.multiply(frame, kept), added)


@lru_cache(maxsize=4096)
def _stamp_layers(size: tuple[int, int], text: str) -> tuple[Image.Image, Image.Image]:
    """(the share of a frame that shows through its stamp, what the stamp adds to it)."""
    black, white = Image.new("RGB", size, (0, 0, 0)), Image.new("RGB", size, (255, 255, 255))
    draw_stamp(black, text)
    draw_stamp(white, text)
    return ImageChops.subtract(white, black), black


def _media_parts(case: Case) -> list[dict[str, Any]]:
    contents = [message["content"] for message in case.messages if isinstance(message.get("content"), list)]
    return [part for content in contents for part in content if part["type"] != "text"]


def _with_addresses(message: Message) -> Message:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return message | {"content": [p if p["type"] == "text" else {"type": p["type"], p["type"]: {"url": _NO_ADDRESS}} for p in content]}
