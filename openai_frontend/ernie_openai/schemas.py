"""The two request bodies: which fields exist, what they mean, which are refused; knows no tensor and no response.

Fields marked `SkipValidation` carry their types for the reader only: preprocess checks them, for this face as for every other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SkipValidation, ValidationError

from ernie_backend.errors import InvalidRequestError
from ernie_backend.protocol import MAX_CHOICES, MAX_LOGPROBS

from .errors import naming_metadata

Request = TypeVar("Request", bound="_Request")
Model = TypeVar("Model", bound=BaseModel)

Number = Annotated[float | None, SkipValidation]
Integer = Annotated[int | None, SkipValidation]
Boolean = Annotated[bool | None, SkipValidation]

MAX_REQUEST_ID_CHARACTERS = 256
MAX_NAME_CHARACTERS = 256

NOT_SUPPORTED_YET: dict[str, tuple[Any, ...]] = {
    # field: values that ask for nothing, and therefore pass (null always does)
    "functions": ([],),
    "function_call": ("none", "auto"),
    "chat_template": (),
    "completion_token_ids": ([],),
    "logits_processors_args": ({},),
    "include_draft_logprobs": (False,),
    "temp_scaled_logprobs": (False,),
    "top_p_normalized_logprobs": (False,),
    "prompt_logprobs": (),
    "mm_hashes": ([],),
    "disaggregate_info": (),
    "priority": (0,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "verbosity": (),
    "web_search_options": (),
    "suffix": ("", {}),
    "best_of": (1,),
}

_WHY_NOT = {"mm_hashes": "is not supported: what was sent before is found again by its content, so send images and videos in messages"}

_NOT_IN_METADATA = frozenset(
    ("model", "messages", "prompt", "stream", "stream_options", "user", "store", "metadata", "request_id", "service_tier")
)


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    """One more chunk with the usage, before `[DONE]`."""
    continuous_usage_stats: bool = False
    """The usage so far in every chunk."""
    include_obfuscation: bool = False
    """Without effect: no chunk is padded."""


class _Request(BaseModel):
    """What both endpoints take."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = Field(default=None, max_length=MAX_NAME_CHARACTERS)
    """Repeated in the answer, and in each of its chunks."""
    stream: bool = False
    stream_options: StreamOptions | None = None

    n: int = Field(default=1, ge=1, le=MAX_CHOICES)

    # Sampling: OpenAI's fields, then FastDeploy's and vLLM's.
    max_tokens: Integer = None
    temperature: Number = None
    top_p: Number = None
    frequency_penalty: Number = None
    presence_penalty: Number = None
    logit_bias: Annotated[dict[str, float] | None, SkipValidation] = None
    seed: Integer = None
    stop: Annotated[str | list[str] | None, SkipValidation] = None
    max_completion_tokens: Integer = None
    min_tokens: Integer = None
    top_k: Integer = None
    min_p: Number = None
    repetition_penalty: Number = None
    bad_words: Annotated[list[str] | None, SkipValidation] = None
    bad_words_token_ids: Annotated[list[int] | None, SkipValidation] = None
    stop_token_ids: Annotated[list[int] | None, SkipValidation] = None
    include_stop_str_in_output: Boolean = None
    ignore_eos: Boolean = None
    skip_special_tokens: Boolean = None

    # What the answer must follow; at most one of them.
    response_format: Annotated[dict[str, Any] | None, SkipValidation] = None
    guided_json: Annotated[dict[str, Any] | str | None, SkipValidation] = None
    guided_regex: Annotated[str | None, SkipValidation] = None
    guided_choice: Annotated[list[str] | None, SkipValidation] = None
    guided_grammar: Annotated[str | None, SkipValidation] = None
    structural_tag: Annotated[dict[str, Any] | str | None, SkipValidation] = None
    reasoning_max_tokens: Integer = None
    """Most tokens of the thought; then it is closed, and the answer goes on."""
    response_max_tokens: Integer = None
    """Most tokens of the answer behind the thought."""

    # Beyond sampling, from FastDeploy.
    prompt_token_ids: Annotated[list[int] | list[list[int]] | None, SkipValidation] = None
    """The prompt as ids; takes the place of `messages` or `prompt`."""
    return_token_ids: bool = False
    """Each choice gets `prompt_token_ids` and `completion_token_ids`."""
    timings: bool = False
    """How long what took, in the answer or in its last chunk."""
    max_streaming_response_tokens: int = Field(default=1, ge=1)
    """Hold chunks back until they bring this many tokens."""
    request_id: str | None = Field(default=None, min_length=1, max_length=MAX_REQUEST_ID_CHARACTERS, pattern=r"^[!-~]+$")
    """Becomes the id of the response."""
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    """Who goes first when requests wait; the answer says what was used."""
    metadata: dict[str, Any] | None = None
    """Keys that name a parameter of the answer act like it, as in FastDeploy, if it is not given itself; others are OpenAI's free tags,
    without effect."""

    # Without effect, as documented.
    user: str | None = None
    store: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    _metadata_fields: frozenset[str] = PrivateAttr(default=frozenset())

    @property
    def metadata_fields(self) -> frozenset[str]:
        """Fields that have their value from metadata."""
        return self._metadata_fields

    def sampling(self) -> dict[str, Any]:
        """The sampling fields that were given, under the names that the ensemble knows; unchecked."""
        return {name: getattr(self, name) for name in _SAMPLING_FIELDS if name in self.model_fields_set}


class ChatRequest(_Request):
    """Body of `POST /v1/chat/completions`."""

    # Checked where the prompt is made, which is preprocess.
    messages: Annotated[list[dict[str, Any]] | list[int] | None, SkipValidation] = None
    """OpenAI's messages; or, as FastDeploy has it, the prompt's ids."""
    chat_template_kwargs: Annotated[dict[str, Any] | None, SkipValidation] = None
    enable_thinking: Boolean = None
    reasoning_effort: Annotated[Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None, SkipValidation] = None
    """Whether the model thinks, and for how much of its answer; what `enable_thinking` and `reasoning_max_tokens` say goes before."""
    disable_chat_template: Boolean = None
    """The one message's content is the whole prompt."""
    add_generation_prompt: Boolean = None
    continue_final_message: Boolean = None
    mm_processor_kwargs: Annotated[dict[str, Any] | None, SkipValidation] = None
    """How this request's images and videos are resized and sampled."""
    tools: Annotated[list[dict[str, Any]] | None, SkipValidation] = None
    tool_choice: Annotated[str | dict[str, Any] | None, SkipValidation] = None
    """auto, none, required, a function by its name, or `allowed_tools`."""
    parallel_tool_calls: Boolean = None
    """False: the answer ends with its first call."""

    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=MAX_LOGPROBS)

    def chat(self) -> dict[str, Any]:
        """The fields that make the prompt, as they were given; unchecked."""
        return {name: getattr(self, name) for name in _CHAT_FIELDS if name in self.model_fields_set}


class CompletionRequest(_Request):
    """Body of `POST /v1/completions`."""

    prompt: Annotated[str | list[str] | list[int] | list[list[int]] | None, SkipValidation] = None
    echo: bool = False
    """The prompt's text stands before the answer's."""
    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)

    def sampling(self) -> dict[str, Any]:
        more = {name: getattr(self, name) for name in ("echo", "logprobs") if name in self.model_fields_set}
        return super().sampling() | more


_CHAT_FIELDS = (
    "messages",
    "prompt_token_ids",
    "chat_template_kwargs",
    "enable_thinking",
    "reasoning_effort",
    "disable_chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "mm_processor_kwargs",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
)

_SAMPLING_FIELDS = (
    "n",
    "max_tokens",
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "seed",
    "stop",
    "max_completion_tokens",
    "min_tokens",
    "top_k",
    "min_p",
    "repetition_penalty",
    "bad_words",
    "bad_words_token_ids",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "skip_special_tokens",
    "return_token_ids",
    "timings",
    "response_format",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structural_tag",
    "reasoning_max_tokens",
    "response_max_tokens",
)


def parse_request(kind: type[Request], given: Mapping[str, Any]) -> Request:
    """The body as a `kind`. A field that is null counts as not given. Raises `InvalidRequestError` naming the first field at fault."""
    known = set(kind.model_fields) | set(NOT_SUPPORTED_YET)
    fields = {name: value for name, value in given.items() if value is not None or name not in known}
    metadata = fields.get("metadata")
    options = fields.get("stream_options")
    if isinstance(options, dict):
        fields["stream_options"] = {
            name: value for name, value in options.items() if value is not None or name not in StreamOptions.model_fields
        }
    given_there: dict[str, Any] = {}
    if isinstance(metadata, dict):
        parameters = set(kind.model_fields) - _NOT_IN_METADATA - set(fields)
        given_there = {name: value for name, value in metadata.items() if name in parameters and value is not None}
    fields = given_there | fields
    with naming_metadata(given_there):
        for name, harmless in NOT_SUPPORTED_YET.items():
            if name in fields and not _is_among(fields.pop(name), harmless):
                why = _WHY_NOT.get(name, "is not supported yet")
                raise InvalidRequestError(f"{name} {why}. Remove it from the request.", param=name)
        request = parse_model(kind, fields)
    request._metadata_fields = frozenset(given_there)
    return request


class AbortBody(BaseModel):
    """POST /v1/abort_requests."""

    model_config = ConfigDict(extra="forbid", strict=True)

    abort_all: bool = False
    """All answers under way that the same key asked for; with an administrator's key, of everybody."""
    req_ids: list[str] | None = Field(default=None, max_length=4096)
    """Ids of answers: `chatcmpl-…`, `cmpl-…`."""


def parse_model(kind: type[Model], given: Mapping[str, Any]) -> Model:
    """The object as a `kind`. Raises `InvalidRequestError` naming the first field at fault."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _first_error(error) from None


def _is_among(value: Any, harmless: tuple[Any, ...]) -> bool:
    """As JSON sees it: false is not 0."""
    return any(type(value) is type(other) and value == other for other in harmless)


def _first_error(error: ValidationError) -> InvalidRequestError:
    first = error.errors(include_url=False)[0]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])[1:81]
    if first["type"] == "extra_forbidden":
        return InvalidRequestError(f"Unknown field {name!r}. Remove it from the request.", param=name)
    rule = first["msg"].replace("Input should be", "must be").replace("String should", "must")
    try:
        shown = json.dumps(first["input"], ensure_ascii=False)[:80]
    except ValueError:
        shown = "something else"
    return InvalidRequestError(f"{name} {rule}, got {shown}.", param=name)
