"""A prompt's images and videos: which a model takes, where they stand, and each one's tokens in its place. Loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..config import EngineConfig
from ..errors import CheckpointError, ConfigError, InvalidRequestError
from ..media.config import MediaConfig, ProcessorKind
from ..media.contradictions import check_request
from ..media.patches import LoadedMedia
from ..media_fields import AS_THE_MODEL_SAYS, MediaPart, ProcessorKwargs, check_counts, read_limits, read_processor_kwargs
from ..protocol import MediaItem, MediaKind
from ..text.tokenizer import Tokenizer
from ..text.vl_templates import ERNIE_VL, ERNIE_VL_THINKING, PADDLEOCR_VL

_SIGNS = {MediaKind.IMAGE: -1, MediaKind.VIDEO: -2}
"""What stands in a prompt's ids for an item that is not loaded yet; no token has such an id."""
_KINDS = {sign: kind for kind, sign in _SIGNS.items()}


def placeholder_signs(config: MediaConfig | None) -> dict[str, int]:
    """For `Tokenizer`: what the placeholders become."""
    return {} if config is None else {name: _SIGNS[kind] for name, kind in config.placeholders.items()}


def check_token_ids(config: MediaConfig | None, tokenizer: Tokenizer, vocab_size: int) -> None:
    """`CheckpointError` if config.json's placeholder ids lie outside the vocabulary or are not those of the tokenizer."""
    if config is None:
        return
    for kind in config.kinds:
        token = config.token_id(kind)
        if token >= vocab_size:
            raise CheckpointError(
                f"config.json: the {kind.value} placeholder {token} is outside the vocabulary of {vocab_size}.", param="vocab_size"
            )
    named = tokenizer.token_id("<|IMAGE_PLACEHOLDER|>")
    if named is not None and named != config.image_token_id:
        raise CheckpointError(
            f"The image placeholder is {config.image_token_id} in config.json and {named} in the tokenizer: they do not belong together.",
            param="im_patch_id",
        )


def check_placeholders(ids: Sequence[int], parts: Sequence[MediaPart], param: str) -> None:
    """`InvalidRequestError` unless the prompt has one placeholder for each part, in their order."""
    found = [_KINDS[token] for token in ids if token < 0]
    wanted = [part.kind for part in parts]
    if found == wanted:
        return
    for kind in MediaKind:
        if found.count(kind) != wanted.count(kind):
            name, upper = kind.value, kind.value.upper()
            raise InvalidRequestError(
                f"{param}: the prompt has {found.count(kind)} {name} placeholders for {wanted.count(kind)} {name} items. A raw prompt must "
                f"hold one for each (such as <|{upper}_START|><|{name}@placeholder|><|{upper}_END|>); a chat template puts them there by "
                "itself, if it shows the message.",
                param=param,
            )
    raise InvalidRequestError(f"{param}: the prompt's image and video placeholders are not in the order of the items.", param=param)


def check_given_ids(ids: Sequence[int], config: MediaConfig | None) -> None:
    """`InvalidRequestError` if a prompt given as ids holds placeholders, which no image would ever fill."""
    media_ids = set() if config is None else {config.token_id(kind) for kind in config.kinds}
    place = next((i for i, token in enumerate(ids) if token in media_ids), None)
    if place is not None:
        raise InvalidRequestError(
            f"prompt_token_ids[{place}] is the placeholder of an image or video, but a prompt of ids brings none. Send messages instead.",
            param=f"prompt_token_ids[{place}]",
        )


class PromptMedia:
    """What one model does with the images and videos of prompts; a model that takes none refuses them here."""

    def __init__(self, engine: EngineConfig) -> None:
        """Reads the model folder. Raises `ConfigError` or `CheckpointError`."""
        self.config = MediaConfig.from_folder(engine.model)
        self._limits = read_limits(engine.limit_mm_per_prompt or {}, "limit_mm_per_prompt", ConfigError)
        self._settings = AS_THE_MODEL_SAYS
        if self.config is not None:
            given = read_processor_kwargs(engine.mm_processor_kwargs or {}, "mm_processor_kwargs", ConfigError)
            self._settings = self.config.server_defaults(given)

    @property
    def is_taken(self) -> bool:
        return self.config is not None

    @property
    def template(self) -> dict[str, Any]:
        """What `ChatTemplate.from_folder` must know of a model that sees."""
        if self.config is None:
            return {}
        if self.config.processor is ProcessorKind.PADDLEOCR_VL:
            return {"built_in": PADDLEOCR_VL, "wants_parts": True}
        return {"built_in": ERNIE_VL_THINKING if self.config.thinks else ERNIE_VL}

    def settings(self, of_request: ProcessorKwargs, parts: Sequence[MediaPart] = ()) -> ProcessorKwargs:
        """The request's over the server's over the model's. Raises `InvalidRequestError` naming the request's field if the parts cannot be
        brought to them."""
        settings = of_request.over(self._settings)
        if self.config is not None:
            self.config.check_sizes(of_request)
            for part in parts:
                check_request(of_request, settings, part, self.config.factor)
        return settings

    def image_parts(self, images: Sequence[str]) -> tuple[MediaPart, ...]:
        """Of the ensemble's `image` input: base64 or `data:` URLs, checked."""
        if images and self.config is None:
            raise InvalidRequestError("image: this model takes no images.", param="image")
        urls = [image if image.startswith("data:") else f"data:;base64,{image}" for image in images]
        parts = tuple(MediaPart(MediaKind.IMAGE, url, f"image[{i}]") for i, url in enumerate(urls))
        self.check(parts)
        return parts

    def check(self, parts: Sequence[MediaPart]) -> None:
        """Kinds and counts, before anything is fetched. Raises `InvalidRequestError` naming the part."""
        for part in parts:
            if self.config is not None and part.kind not in self.config.kinds:
                raise InvalidRequestError(f"{part.place}: this model takes no {part.kind.value}s.", param=part.place)
        check_counts(parts, self._limits)

    def place(self, ids: Sequence[int], loaded: Sequence[LoadedMedia]) -> tuple[list[int], tuple[MediaItem, ...]]:
        """(the prompt with each sign replaced by as many placeholders as its item has tokens, the items with their places)."""
        prompt: list[int] = []
        items: list[MediaItem] = []
        for token in ids:
            if token >= 0:
                prompt.append(token)
                continue
            assert self.config is not None, "only its placeholders become signs"
            item = loaded[len(items)]
            items.append(MediaItem(item.kind, item.patches, item.grid, len(prompt), item.num_tokens, item.content_hash))
            prompt += [self.config.token_id(item.kind)] * item.num_tokens
        return prompt, tuple(items)


def num_tokens(items: Sequence[MediaItem], kind: MediaKind) -> int:
    """Of the prompt's tokens, those of one kind of media."""
    return sum(item.num_tokens for item in items if item.kind is kind)
