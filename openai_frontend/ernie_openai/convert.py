"""From an OpenAI request to the ensemble's tensors; renders no template, counts no token, and knows no response."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

from ernie_backend.errors import InvalidRequestError

from .client import EnsembleRequest
from .schemas import ChatRequest, CompletionRequest
from .settings import FrontendSettings

MAX_PROMPTS = 256
_MAX_TOKEN_ID = 2**31 - 1


@dataclass(frozen=True)
class AnswerPlan:
    """What to ask the ensemble, and how the answer shall look."""

    id: str
    created: int
    """Unix time, seconds."""
    model: str
    prompts: tuple[EnsembleRequest, ...]
    """Choice i of prompt p becomes choice p · choices_per_prompt + i of the answer."""
    choices_per_prompt: int
    stream: bool
    include_usage: bool
    continuous_usage: bool
    logprobs: bool
    return_token_ids: bool
    tokens_per_chunk: int

    @property
    def num_choices(self) -> int:
        return len(self.prompts) * self.choices_per_prompt


def plan_chat(request: ChatRequest, settings: FrontendSettings) -> AnswerPlan:
    """Raises `InvalidRequestError` for what can be seen without the model; preprocess checks the rest."""
    sampling = request.sampling()
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequestError("When using top_logprobs, logprobs must be true.", param="top_logprobs")
    if request.logprobs:
        sampling["logprobs"] = request.top_logprobs
    return _plan("chatcmpl-", request, settings, sampling, [_chat_tensors(request)], logprobs=request.logprobs)


def plan_completion(request: CompletionRequest, settings: FrontendSettings) -> AnswerPlan:
    """Raises `InvalidRequestError` for what can be seen without the model; preprocess checks the rest."""
    if request.echo and request.logprobs is not None:
        raise InvalidRequestError(
            "echo with logprobs is not supported yet: there are no log-probabilities of the prompt.", param="logprobs"
        )
    prompts = [{"text_input": prompt} if isinstance(prompt, str) else _token_ids_tensors(prompt) for prompt in _prompts(request)]
    return _plan("cmpl-", request, settings, request.sampling(), prompts, logprobs=request.logprobs is not None)


def _plan(
    prefix: str,
    request: ChatRequest | CompletionRequest,
    settings: FrontendSettings,
    sampling: dict[str, Any],
    prompts: list[dict[str, str]],
    *,
    logprobs: bool,
) -> AnswerPlan:
    if request.stream_options is not None and not request.stream:
        raise InvalidRequestError("stream_options can only be given when stream is true.", param="stream_options")
    model = settings.name_to_answer_with(request.model)
    given_id = request.request_id or uuid.uuid4().hex
    answer_id = given_id if given_id.startswith(prefix) else prefix + given_id
    sampling_json = _dumps(sampling)
    return AnswerPlan(
        id=answer_id,
        created=int(time.time()),
        model=model,
        prompts=tuple(
            EnsembleRequest(
                request_id=answer_id if len(prompts) == 1 else f"{answer_id}-{i}",
                sampling_parameters=sampling_json,
                num_choices=request.n,
                **tensors,
            )
            for i, tensors in enumerate(prompts)
        ),
        choices_per_prompt=request.n,
        stream=request.stream,
        include_usage=request.stream_options is not None and request.stream_options.include_usage,
        continuous_usage=request.stream_options is not None and request.stream_options.continuous_usage_stats,
        logprobs=logprobs,
        return_token_ids=request.return_token_ids,
        tokens_per_chunk=request.max_streaming_response_tokens,
    )


def _chat_tensors(request: ChatRequest) -> dict[str, str]:
    if request.prompt_token_ids is not None:
        return _token_ids_tensors(_token_ids("prompt_token_ids", request.prompt_token_ids))
    messages = request.messages
    if messages is None:
        raise InvalidRequestError("messages is required.", param="messages", code="missing_required_parameter")
    if not isinstance(messages, list):
        raise InvalidRequestError("messages must be a list of messages.", param="messages")
    if not messages:
        raise InvalidRequestError("messages must not be an empty list, unless prompt_token_ids is given.", param="messages")
    if _is_token_id(messages[0]):
        return _token_ids_tensors(_token_ids("messages", messages))
    if request.disable_chat_template:
        return {"text_input": _raw_prompt(messages)}
    chat: dict[str, Any] = {"messages": messages}
    template_kwargs = dict(request.chat_template_kwargs or {})
    if request.enable_thinking is not None:
        template_kwargs.setdefault("enable_thinking", request.enable_thinking)
    if template_kwargs:
        chat["chat_template_kwargs"] = template_kwargs
    return {"chat": _dumps(chat)}


def _raw_prompt(messages: list[Any]) -> str:
    content = messages[0].get("content") if isinstance(messages[0], dict) else None
    if len(messages) != 1 or not isinstance(content, str) or not content:
        raise InvalidRequestError(
            "With disable_chat_template, messages must hold one message whose content is the prompt, a non-empty string.", param="messages"
        )
    return content


def _prompts(request: CompletionRequest) -> list[str] | list[list[int]]:
    """The prompts, one by one: a string, a list of strings, ids, or a list of lists of ids."""
    name = "prompt" if request.prompt_token_ids is None else "prompt_token_ids"
    given: Any = getattr(request, name)
    if given is None:
        raise InvalidRequestError("prompt is required.", param="prompt", code="missing_required_parameter")
    one = isinstance(given, str) or (isinstance(given, list) and bool(given) and _is_token_id(given[0]))
    prompts = [given] if one else given
    if not isinstance(prompts, list):
        raise InvalidRequestError(f"{name} must be a string, a list of strings, a list of token ids or a list of such lists.", param=name)
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise InvalidRequestError(f"{name} must hold 1 to {MAX_PROMPTS} prompts, got {len(prompts)}.", param=name)
    named = [(name if one else f"{name}[{i}]", prompt) for i, prompt in enumerate(prompts)]
    if name == "prompt" and isinstance(prompts[0], str):
        return [_text(*pair) for pair in named]
    return [_token_ids(*pair) for pair in named]


def _text(name: str, given: Any) -> str:
    if not isinstance(given, str) or not given:
        raise InvalidRequestError(f"{name} must be a non-empty string.", param=name)
    return given


def _is_token_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _token_ids(name: str, given: Any) -> list[int]:
    if not isinstance(given, list) or not given:
        raise InvalidRequestError(f"{name} must be a non-empty list of token ids.", param=name)
    for i, token in enumerate(given):
        if not _is_token_id(token) or not 0 <= token <= _MAX_TOKEN_ID:
            raise InvalidRequestError(f"{name}[{i}] must be a token id, an integer from 0 up, got {str(token)[:40]}.", param=f"{name}[{i}]")
    return given


def _token_ids_tensors(token_ids: list[int]) -> dict[str, str]:
    return {"chat": _dumps({"prompt_token_ids": token_ids})}


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
