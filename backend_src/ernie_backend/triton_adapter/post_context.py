"""What postprocess must know of a request: written by preprocess, carried unread by the engine, read by postprocess."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..text.answer import AnswerReader
from ..text.answer_format import PLAIN, AnswerFormat
from ..text.tokenizer import Tokenizer


@dataclass(frozen=True)
class PostContext:
    num_prompt_tokens: int
    num_image_tokens: int = 0
    """Of the prompt's tokens."""
    num_video_tokens: int = 0
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    """Show the stop string, or the stop token's text."""
    min_tokens: int = 0
    """Before so many, no stop string ends the answer."""
    skip_special_tokens: bool = True
    end_token_ids: tuple[int, ...] = ()
    """Ids that end an answer (the checkpoint's and stop_token_ids): the last one's text is not shown."""
    logprobs: bool = False
    echo: str = ""
    """The prompt as text, to be repeated before the answer."""
    prompt_token_ids: tuple[int, ...] | None = None
    """When the client wants them back."""
    answer_format: AnswerFormat = PLAIN
    streamed: bool = True
    """If not, a choice is one response, and its calls are told whole."""
    timings: bool = False
    """The client wants to know how long what took."""
    request_id: str = ""
    """For logs."""
    traceparent: str = ""
    """The trace that postprocess's span belongs to."""

    def reader(self, tokenizer: Tokenizer) -> AnswerReader:
        """Of one choice's answer."""
        return AnswerReader(
            tokenizer,
            self.answer_format,
            stop=self.stop,
            include_stop=self.include_stop,
            min_tokens=self.min_tokens,
            skip_special_tokens=self.skip_special_tokens,
        )

    @property
    def can_stop(self) -> bool:
        """Whether the answer may have to end for a reason that the engine does not see."""
        return bool(self.stop) or (self.answer_format.calls and self.answer_format.one_call)

    def to_json_object(self) -> dict[str, Any]:
        return vars(self) | {"answer_format": vars(self.answer_format)}

    @classmethod
    def from_json_object(cls, given: Mapping[str, Any]) -> PostContext:
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        return cls(**{**values, "answer_format": AnswerFormat(**given.get("answer_format", {}))})
