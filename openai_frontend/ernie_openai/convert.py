"""From an OpenAI request to the ensemble's tensors; renders no template, counts no token, and knows no response."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

from ernie_backend.errors import InvalidRequestError
from ernie_backend.log_format import current_request
from ernie_backend.protocol import Level

from .client import EnsembleRequest
from .errors import naming_metadata
from .schemas import ChatRequest, CompletionRequest
from .settings import FrontendSettings
from .terms import Terms

MAX_PROMPTS = 256
MAX_ANSWERS = 1024
"""Of one request: prompts times n. More would fill the queue that all clients share."""


_TIERS = {"auto": "default", "default": "default", "flex": "flex", "priority": "priority"}
_LEVELS = {"default": Level.DEFAULT, "flex": Level.FLEX, "priority": Level.PRIORITY}


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
    service_tier: str | None = None
    """What was used, where the request says something about it."""


@dataclass(frozen=True)
class _Prompt:
    field: str
    """Where it stands in the user's request: `messages`, `prompt[2]`."""
    text_input: str | None = None
    chat: str | None = None


def plan_chat(request: ChatRequest, settings: FrontendSettings, terms: Terms) -> AnswerPlan:
    """Raises `InvalidRequestError` for what can be seen without the model; preprocess checks the rest."""
    with naming_metadata(request.metadata_fields):
        return _plan_chat(request, settings, terms)


def _plan_chat(request: ChatRequest, settings: FrontendSettings, terms: Terms) -> AnswerPlan:
    sampling = request.sampling()
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequestError("When using top_logprobs, logprobs must be true.", param="top_logprobs")
    if request.logprobs:
        sampling["logprobs"] = request.top_logprobs
    chat = request.chat()
    if not chat.keys() & {"messages", "prompt_token_ids"}:
        raise InvalidRequestError("messages is required.", param="messages", code="missing_required_parameter")
    prompts = [_Prompt("prompt_token_ids" if "prompt_token_ids" in chat else "messages", chat=_dumps(chat))]
    return _plan("chatcmpl-", request, settings, terms, sampling, prompts, logprobs=request.logprobs)


def plan_completion(request: CompletionRequest, settings: FrontendSettings, terms: Terms) -> AnswerPlan:
    """Raises `InvalidRequestError` for what can be seen without the model; preprocess checks the rest."""
    with naming_metadata(request.metadata_fields):
        return _plan("cmpl-", request, settings, terms, request.sampling(), _prompts(request), logprobs=request.logprobs is not None)


def _plan(
    prefix: str,
    request: ChatRequest | CompletionRequest,
    settings: FrontendSettings,
    terms: Terms,
    sampling: dict[str, Any],
    prompts: list[_Prompt],
    *,
    logprobs: bool,
) -> AnswerPlan:
    if request.stream_options is not None and not request.stream:
        raise InvalidRequestError("stream_options can only be given when stream is true.", param="stream_options")
    _check_count(len(prompts), request.n, settings.max_concurrency)
    tier = _TIERS[request.service_tier or "auto"]
    model = settings.name_to_answer_with(request.model)
    given_id = request.request_id or current_request.get() or uuid.uuid4().hex
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
                prompt_field=prompt.field,
                metadata_fields=request.metadata_fields,
                text_input=prompt.text_input,
                chat=prompt.chat,
                answer_id=answer_id,
                level=_LEVELS[tier],
                terms=terms,
            )
            for i, prompt in enumerate(prompts)
        ),
        choices_per_prompt=request.n,
        stream=request.stream,
        include_usage=request.stream_options is not None and request.stream_options.include_usage,
        continuous_usage=request.stream_options is not None and request.stream_options.continuous_usage_stats,
        logprobs=logprobs,
        return_token_ids=request.return_token_ids,
        tokens_per_chunk=request.max_streaming_response_tokens,
        service_tier=None if request.service_tier is None else tier,
    )


def _check_count(num_prompts: int, n: int, max_concurrency: int | None) -> None:
    """More answers than the server ever gives at once would be refused for ever: that is no reason to try again later."""
    most = MAX_ANSWERS if max_concurrency is None else min(MAX_ANSWERS, max_concurrency)
    if num_prompts * n > most:
        what = f"n is {n}" if num_prompts == 1 else f"{num_prompts} prompts with n = {n} are {num_prompts * n} answers"
        limit = f"this server gives at most {most} answers at once" if most == max_concurrency else f"one request may ask for {most}"
        raise InvalidRequestError(f"{what}, but {limit}.", param="n" if n > 1 else "prompt")


def _prompts(request: CompletionRequest) -> list[_Prompt]:
    """The prompts, one by one: a string, a list of strings, ids, or a list of lists of ids."""
    name = "prompt" if request.prompt_token_ids is None else "prompt_token_ids"
    given: Any = getattr(request, name)
    if given is None:
        raise InvalidRequestError("prompt is required.", param="prompt", code="missing_required_parameter")
    if not isinstance(given, (str, list)):
        raise InvalidRequestError(f"{name} must be a string, a list of strings, a list of token ids or a list of such lists.", param=name)
    if name == "prompt_token_ids" and (isinstance(given, str) or any(isinstance(prompt, str) for prompt in given)):
        raise InvalidRequestError("prompt_token_ids must be a list of token ids or a list of such lists; texts go into prompt.", param=name)
    if name == "prompt_token_ids" and not _could_be_prompts(request.prompt):
        raise InvalidRequestError(
            "prompt must be a string, a list of strings, a list of token ids or a list of such lists.", param="prompt"
        )
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        return [_prompt(name, given)]
    if not 1 <= len(given) <= MAX_PROMPTS:
        raise InvalidRequestError(f"{name} must hold 1 to {MAX_PROMPTS} prompts, got {len(given)}.", param=name)
    return [_prompt(f"{name}[{i}]", prompt) for i, prompt in enumerate(given)]


def _could_be_prompts(prompt: Any) -> bool:
    """Of the prompt whose place ids have taken: nobody reads it, but it must be none of the client's mistakes."""
    if prompt is None or isinstance(prompt, str):
        return True
    if not isinstance(prompt, list):
        return False
    ids = [part for item in prompt for part in (item if isinstance(item, list) else [] if isinstance(item, str) else [item])]
    return all(isinstance(part, int) and not isinstance(part, bool) for part in ids)


def _prompt(name: str, given: Any) -> _Prompt:
    if not isinstance(given, (str, list)) or not given:
        raise InvalidRequestError(f"{name} must be a non-empty string or a non-empty list of token ids.", param=name)
    return _Prompt(name, text_input=given) if isinstance(given, str) else _Prompt(name, chat=_dumps({"prompt_token_ids": given}))


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
