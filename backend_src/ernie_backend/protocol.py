"""The plain objects that cross the engine's borders; a leaf: standard library only, no tensors, no text processing.

`GenerateRequest` goes in, `GenerateEvent` comes out. How sampling fields are read from a user's JSON stands in `sampling_fields.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, NamedTuple

MAX_CHOICES = 128
"""Of one prompt: `n`."""
MAX_LOGPROBS = 20
"""Beside each token's own: OpenAI's bound, and what the kernels have room for."""
GRAMMAR_LIMITS: dict[str, Any] = {
    "max_grammar_size": 100_000,
    "max_lexer_states": 20_000,
    "step_lexer_fuel": 50_000,
    "step_max_items": 20_000,
    "verbose_errors": False,
}
"""Under which preprocess tries a grammar out and the engine follows it. llguidance's own are five times as large or more: 500 MB for one
lexer, and 15 ms for one mask, for which the whole batch would wait. The largest of usual schemas need a tenth of these."""


class FinishReason(str, Enum):
    """Why an answer ended. `ABORT`: the client left or the server stops; `ERROR`: our fault, `GenerateEvent.error` says more."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    ABORT = "abort"
    ERROR = "error"


class Level(IntEnum):
    """Who is admitted first; the numbers are KServe's (`priority` 1 is the highest), the names OpenAI's service tiers."""

    PRIORITY = 1
    DEFAULT = 2
    FLEX = 3


@dataclass(frozen=True)
class SamplingParams:
    """How to choose the next token; already checked and with every default filled in (`sampling_fields.parse_sampling_params`).

    Greedy iff `temperature == 0`, `top_p == 0` or `top_k == 1`. Order of operations: penalties, logit_bias, bad words, min_tokens →
    temperature → min_p → top_k → top_p → draw. Log-probabilities are those of the raw logits (before all of it), as in vLLM and FastDeploy.
    """

    max_tokens: int
    """Most tokens to generate; preprocess fills in what is left of the context when the user gave none."""
    min_tokens: int = 0
    """Before so many, no end token is chosen, and no stop string ends the answer (postprocess sees to the latter)."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: off."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """Over prompt and output tokens: positive logits are divided by it, negative ones multiplied (as transformers does)."""
    frequency_penalty: float = 0.0
    """Times the count among output tokens."""
    presence_penalty: float = 0.0
    """Once for each distinct output token."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    bad_words_token_ids: tuple[tuple[int, ...], ...] = ()
    """Sequences that must not be completed: the last id is forbidden when the output ends with the ids before it."""
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    """End the answer with `STOP`; the id stays in the output ids."""
    eos_token_ids: tuple[int, ...] = ()
    """The checkpoint's own ends; empty with `ignore_eos`."""
    thought_end_id: int | None = None
    """The answer begins inside a thought, which this id ends."""
    reasoning_max_tokens: int | None = None
    """Most tokens of the thought (≥ 1); then `thought_closing_ids` follow, and the answer goes on behind them."""
    thought_closing_ids: tuple[int, ...] = ()
    response_max_tokens: int | None = None
    """Most tokens behind the thought (≥ 1), within `max_tokens`; only with `thought_end_id`."""
    grammar: str | None = None
    """What the answer behind the thought must follow, in llguidance's notation. A thought that it waits for cannot end the answer."""
    grammar_field: str = ""
    """The user's field that the grammar comes from, for an error about it."""
    logprobs: int | None = None
    """None: none. k ≥ 0: the chosen token's and the k most likely ones'."""

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0 or self.top_p == 0.0 or self.top_k == 1


class MediaKind(str, Enum):
    IMAGE = "image"
    VIDEO = "video"


@dataclass(frozen=True)
class MediaItem:
    """One image or video of a prompt as the engine takes it: resized and cut into patches in the model's order, not yet normalised."""

    kind: MediaKind
    patches: bytes
    """uint8 [t · h · w, 3 · patch²], each row (channel, y, x)."""
    grid: tuple[int, int, int]
    """Frames, then height and width in patches."""
    start: int
    """Index in `prompt_token_ids` of its first placeholder."""
    num_tokens: int
    """Placeholders, which the encoder's rows replace."""
    content_hash: bytes
    """16 bytes of the pixels and the processing: what the encoder's output depends on."""


@dataclass(frozen=True)
class GenerateRequest:
    """One prompt to be answered `n` times."""

    key: str
    """Minted by preprocess (32 hex digits): names the request on every inner channel, so that no client can name another's."""
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    n: int = 1
    stream: bool = True
    """False: one response per choice, with the whole answer."""
    matcher: Any = field(default=None, compare=False)
    """The compiled `sampling.grammar`, which the engine's side adds; never sent."""
    post: dict[str, Any] = field(default_factory=dict)
    """What postprocess needs to know of the request. The engine repeats it on the first response of each choice; its adapter reads it only
    to watch answers that are not streamed for their end."""
    media: tuple[MediaItem, ...] = ()
    """In the order of their places in the prompt."""
    request_id: str = ""
    """What the client or the front end calls the request: for logs, and nothing is looked up by it."""
    arrived_at: float = 0.0
    """When preprocess got it, in seconds of CLOCK_MONOTONIC. 0: unknown."""
    traceparent: str = ""
    """The W3C trace context that its spans belong to. Empty: it is not traced."""
    may_call: bool = False
    """If the answer stops, only its text tells whether it has called tools."""
    answer_id: str = ""
    """What the client knows the answer by (`chatcmpl-…`). It need not be unique: with `tenant`, it says what an abort ends."""
    tenant: str = ""
    """Who asks, as an opaque name: shares the queue fairly with others, and ends no answer but its own."""
    level: int = Level.DEFAULT
    deadline: float | None = None
    """When it must have ended: seconds of `time.monotonic`, which is one clock for all processes of a machine. None: whenever."""

    def to_json(self) -> str:
        """Everything but the prompt ids and the media, which travel as tensors of their own."""
        fields = vars(self) | {"sampling": vars(self.sampling)}  # dataclasses.asdict would copy every id of the prompt first
        del fields["prompt_token_ids"], fields["media"], fields["matcher"]
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, prompt_token_ids: tuple[int, ...], media: tuple[MediaItem, ...] = ()) -> GenerateRequest:
        fields = json.loads(text)
        sampling = fields.pop("sampling")
        sampling["logit_bias"] = tuple((int(i), float(b)) for i, b in sampling["logit_bias"])
        sampling["bad_words_token_ids"] = tuple(tuple(ids) for ids in sampling["bad_words_token_ids"])
        for name in ("stop_token_ids", "eos_token_ids", "thought_closing_ids"):
            sampling[name] = tuple(sampling[name])
        return cls(prompt_token_ids=prompt_token_ids, sampling=SamplingParams(**sampling), media=media, **fields)


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural-log probabilities at one output position."""

    logprob: float
    """Of the chosen token."""
    top_token_ids: tuple[int, ...] = ()
    """Most likely first; as many as were asked for."""
    top_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Timings:
    """When what happened to one answer, in seconds of CLOCK_MONOTONIC. None: it ended before."""

    arrived_at: float
    """At preprocess."""
    queued_at: float
    """At the engine."""
    started_at: float | None
    """Its first step was scheduled."""
    first_token_at: float | None
    finished_at: float


class GenerateEvent(NamedTuple):
    """One thing told about one choice of a request: new token ids, and on the last one why it ended. (A named tuple: see
    `core.outputs.ScheduledSequence`.)"""

    key: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    """As long as `token_ids` when asked for, else empty."""
    finish_reason: FinishReason | None = None
    num_cached_tokens: int = 0
    """Prompt tokens that the prefix cache already held."""
    error: str | None = None
    """With `FinishReason.ERROR`: an `ErnieError` in its wire form."""
    timings: Timings | None = None
    """On the last event, if the engine took the request up."""


@dataclass(frozen=True)
class Usage:
    """Token counts of one request, all choices together."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    image_tokens: int = 0
    video_tokens: int = 0
