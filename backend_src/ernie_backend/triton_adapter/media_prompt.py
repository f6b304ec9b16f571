"""Where a prompt's images and videos stand: counts the placeholders, and puts each item's tokens in the place of one. Loads nothing."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import CheckpointError, InvalidRequestError
from ..media.config import MediaConfig
from ..media.patches import LoadedMedia
from ..media_fields import MediaPart
from ..protocol import MediaItem, MediaKind
from ..text.tokenizer import Tokenizer

_SIGNS = {MediaKind.IMAGE: -1, MediaKind.VIDEO: -2}
"""What stands in a prompt's ids for an item that is not loaded yet; no token has such an id."""
_KINDS = {sign: kind for kind, sign in _SIGNS.items()}


def placeholder_signs(config: MediaConfig | None) -> dict[str, int]:
    """For `Tokenizer`: what the placeholders become."""
    return {} if config is None else {name: _SIGNS[kind] for name, kind in config.placeholders.items()}


def check_token_ids(config: MediaConfig, tokenizer: Tokenizer, vocab_size: int) -> None:
    """`CheckpointError` if config.json's placeholder ids lie outside the vocabulary or are not those of the tokenizer."""
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


def place_media(ids: Sequence[int], loaded: Sequence[LoadedMedia], config: MediaConfig) -> tuple[list[int], tuple[MediaItem, ...]]:
    """(the prompt with each sign replaced by as many placeholders as its item has tokens, the items with their places)."""
    prompt: list[int] = []
    items: list[MediaItem] = []
    for token in ids:
        if token >= 0:
            prompt.append(token)
            continue
        item = loaded[len(items)]
        items.append(MediaItem(item.kind, item.patches, item.grid, len(prompt), item.num_tokens, item.content_hash))
        prompt += [config.token_id(item.kind)] * item.num_tokens
    return prompt, tuple(items)
