"""What postprocess must know of a request: written by preprocess, carried unread by the engine, read by postprocess."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class PostContext:
    num_prompt_tokens: int
    num_image_tokens: int = 0
    """Of the prompt's tokens."""
    num_video_tokens: int = 0
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    """Show the stop string, or the stop token's text."""
    skip_special_tokens: bool = True
    end_token_ids: tuple[int, ...] = ()
    """Ids that end an answer (the checkpoint's and stop_token_ids): the last one's text is not shown."""
    logprobs: bool = False
    echo: str = ""
    """The prompt as text, to be repeated before the answer."""
    prompt_token_ids: tuple[int, ...] | None = None
    """When the client wants them back."""

    def to_json_object(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json_object(cls, given: Mapping[str, Any]) -> PostContext:
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        return cls(**values)
