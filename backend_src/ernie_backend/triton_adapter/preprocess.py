"""From the ensemble's inputs to a `GenerateRequest`: every check that needs the model, every default. Knows no pb_utils.

In steps, between which the caller may let the request wait: `prepare` checks all that can be checked at once and renders the prompt,
`compile` tries out a grammar that is new, the caller has images and videos loaded (`media/pool.py`), and `finish` puts all of it together.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..abort_signal import NEVER, AbortSignal
from ..config import NO_PARSER, EngineConfig, ModelConfig
from ..errors import CheckpointError, ContextLengthError, InvalidRequestError
from ..json_depth import place_that_is_too_deep
from ..media.patches import LoadedMedia
from ..media_fields import MediaPart, ProcessorKwargs
from ..protocol import GenerateRequest, MediaKind, SamplingParams
from ..sampling_fields import SamplingFields, parse_sampling_params
from ..strict_json import read_object
from ..text.answer_format import CLOSE_THOUGHT, THINKS_BY_DEFAULT, AnswerFormat, choose_parsers
from ..text.chat_template import ChatTemplate, as_typed
from ..text.markers import last_marker
from ..text.tokenizer import Tokenizer
from .answer_rules import AnswerRules, AnswerWish
from .chat_input import ChatInput, read_chat
from .defaults import end_token_ids, sampling_defaults
from .media_prompt import PromptMedia, check_given_ids, check_placeholders, check_token_ids, num_tokens, placeholder_signs
from .post_context import PostContext
from .request_terms import RequestTerms
from .thinking import EFFORTS


@dataclass(frozen=True)
class RequestInputs:
    """The ensemble's inputs as plain values; None: not given."""

    text_input: str | None = None
    chat: str | None = None
    image: tuple[str, ...] = ()
    """For `text_input`: images as base64, in the order of the prompt's placeholders."""
    sampling_parameters: str | None = None
    max_tokens: int | None = None
    stream: bool | None = None
    exclude_input_in_output: bool | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The request's own parameters but for Triton's: sampling fields, as `/generate` sends unknown keys and `parameters`."""
    terms: RequestTerms = field(default_factory=RequestTerms)


@dataclass(frozen=True)
class _Prompt:
    token_ids: list[int]
    """With signs (`media_prompt.py`) where images and videos go."""
    text: str | None
    """As the user would read it; None for a prompt given as ids."""
    param: str
    """The field that a complaint about its length names."""
    answer_format: AnswerFormat
    chat: ChatInput


@dataclass(frozen=True)
class PreparedRequest:
    """A request that lacks nothing but its images and videos, and its grammar if that is new."""

    inputs: RequestInputs
    fields: SamplingFields
    prompt: _Prompt
    rules: dict[str, Any]
    """What the answer must keep to, as fields of `SamplingParams`."""
    media_settings: ProcessorKwargs
    """The request's over the server's over the model's."""
    wish: AnswerWish | None = None
    """What `compile` must see to first; None: nothing."""
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Known to this server alone."""

    @property
    def media(self) -> tuple[MediaPart, ...]:
        """What to load, in order."""
        return self.prompt.chat.media

    @property
    def is_complete(self) -> bool:
        return not self.media and self.wish is None


class Preprocessor:
    """One model's preprocessing. `prepare` and `compile` are for one thread each, `finish` is for several; `close` when done."""

    def __init__(self, config: EngineConfig, model: ModelConfig) -> None:
        """Reads tokenizer, template and defaults of the model folder. Raises `ConfigError` or `CheckpointError`."""
        limit = config.resolved(model).max_model_len
        assert limit is not None
        self._max_model_len = limit
        self._vocab_size = model.vocab_size
        self.media = PromptMedia(config)
        self._tokenizer = Tokenizer.from_folder(config.model, placeholder_signs(self.media.config))
        if self._tokenizer.vocab_size > model.vocab_size:
            raise CheckpointError(
                f"The tokenizer has {self._tokenizer.vocab_size} ids, but config.json says vocab_size {model.vocab_size}: they do not "
                "belong together.",
                param="vocab_size",
            )
        self._eos_token_ids = end_token_ids(config.model, model, self._tokenizer)
        self._defaults = sampling_defaults(config)
        check_token_ids(self.media.config, self._tokenizer, model.vocab_size)
        self._template = ChatTemplate.from_folder(config.model, self._tokenizer, config.chat_template, **self.media.template)
        self._parsers = choose_parsers(self._template.source, reasoning=config.reasoning_parser, tool_call=config.tool_call_parser)
        self._default_share = EFFORTS["high"] if self._parsers.reasoning in THINKS_BY_DEFAULT else None
        self._takes_tools = self._template.takes_tools and self._parsers.tool_call != NO_PARSER
        self._rules = AnswerRules(self._tokenizer)

    def close(self) -> None:
        self._template.close()
        self._rules.close()

    @property
    def max_model_len(self) -> int:
        return self._max_model_len

    def prepare(self, inputs: RequestInputs) -> PreparedRequest:
        """What is there at once. Raises `InvalidRequestError` for whatever a user got wrong; nothing is kept of it."""
        try:
            fields = self._sampling_fields(inputs)
            prompt = self._prompt(inputs, no_thought=fields.reasoning_max_tokens == 0)
            wish, rules = self._rules.read(fields, prompt.chat, prompt.answer_format)
            grammar = self._rules.known(wish)
        except RecursionError:
            raise _too_deep(inputs) from None
        settings = self.media.settings(prompt.chat.media_settings, prompt.chat.media)
        return PreparedRequest(inputs, fields, prompt, rules | (grammar or {}), settings, wish if grammar is None else None)

    def compile(self, prepared: PreparedRequest, signal: AbortSignal = NEVER) -> PreparedRequest:
        """The request with its grammar. Raises `InvalidRequestError` likewise, and `RequestAbortedError` if `signal` is set."""
        if prepared.wish is None:
            return prepared
        try:
            return replace(prepared, rules=prepared.rules | self._rules.compiled(prepared.wish, signal), wish=None)
        except RecursionError:
            raise _too_deep(prepared.inputs) from None

    def finish(self, prepared: PreparedRequest, loaded: Sequence[LoadedMedia] = ()) -> GenerateRequest:
        """The request for the engine, once its grammar is there; `loaded` belongs to `prepared.media`. Raises `InvalidRequestError`."""
        assert prepared.wish is None
        inputs, fields, prompt = prepared.inputs, prepared.fields, prepared.prompt
        ids, media = self.media.place(prompt.token_ids, loaded)
        if len(ids) >= self._max_model_len:
            raise self._too_long(str(len(ids)), prompt.param)
        prompt = replace(prompt, token_ids=ids)
        sampling = self._sampling(fields, prompt, prepared.rules)
        stream = bool(inputs.stream)
        echo = fields.echo or inputs.exclude_input_in_output is False
        if echo and fields.logprobs is not None:
            raise InvalidRequestError("echo with logprobs is not supported: there are no log-probabilities of the prompt.", param="echo")
        context = PostContext(
            num_prompt_tokens=len(prompt.token_ids),
            num_image_tokens=num_tokens(media, MediaKind.IMAGE),
            num_video_tokens=num_tokens(media, MediaKind.VIDEO),
            stop=fields.stop,
            include_stop=fields.include_stop_str_in_output,
            min_tokens=sampling.min_tokens,
            skip_special_tokens=fields.skip_special_tokens,
            end_token_ids=tuple(sorted({*sampling.eos_token_ids, *sampling.stop_token_ids})),
            logprobs=sampling.logprobs is not None,
            echo=self._echo(prompt, fields) if echo else "",
            prompt_token_ids=tuple(prompt.token_ids) if fields.return_token_ids else None,
            answer_format=prompt.answer_format,
            streamed=stream,
            timings=fields.timings,
        )
        return GenerateRequest(
            key=prepared.key,
            prompt_token_ids=tuple(prompt.token_ids),
            sampling=sampling,
            n=fields.n,
            stream=stream,
            post=context.to_json_object(),
            media=media,
            may_call=prompt.answer_format.calls,
            **inputs.terms.as_fields(),
        )

    # the prompt ----------------------------------------------------------------------------------------------------------------

    def _prompt(self, inputs: RequestInputs, no_thought: bool) -> _Prompt:
        if (inputs.text_input is None) == (inputs.chat is None):
            found = "neither" if inputs.chat is None else "both"
            raise InvalidRequestError(f"Give exactly one of text_input and chat, got {found}.", param="text_input")
        if inputs.text_input is not None:
            return self._encoded(inputs.text_input, "text_input", ChatInput(media=self.media.image_parts(inputs.image)), no_thought)
        assert inputs.chat is not None
        if inputs.image:
            raise InvalidRequestError("image: goes with text_input; in chat, give parts of type image_url.", param="image")
        chat = read_chat(read_object(inputs.chat, "chat", "chat"), takes_tools=self._takes_tools, takes_media=self.media.is_taken)
        if chat.prompt_token_ids is not None:
            ids = self._checked_prompt_ids(chat.prompt_token_ids)
            return _Prompt(ids, None, "prompt_token_ids", self._answer_format(ids, chat), chat)
        self.media.check(chat.media)
        if chat.raw_prompt is not None:
            return self._encoded(chat.raw_prompt, "messages", chat, no_thought)
        assert chat.messages is not None
        variables = chat.variables
        if self._parsers.reasoning in THINKS_BY_DEFAULT:
            variables = {"enable_thinking": True} | variables
        rendered = self._template.render(
            chat.messages,
            tools=chat.tools,
            variables=variables,
            add_generation_prompt=chat.add_generation_prompt,
            continue_final_message=chat.continue_final_message,
        )
        return self._encoded(rendered, "messages", chat, no_thought or chat.closes_thought)

    def _encoded(self, text: str, param: str, chat: ChatInput, no_thought: bool) -> _Prompt:
        if len(text) > self._max_model_len:  # a megabyte takes up to half a second to encode and 10 ms to measure
            fewest = self._tokenizer.fewest_tokens(text)
            if fewest >= self._max_model_len:
                raise self._too_long(f"at least {fewest}", param)
        ids = self._tokenizer.encode_template(text)
        if not ids:
            raise InvalidRequestError(f"{param}: the prompt is empty.", param=param)
        answer_format = self._answer_format(ids, chat)
        if no_thought and answer_format.begins_in == "thought":  # the template has no switch: its thought ends before it begins
            text, ids = text + CLOSE_THOUGHT, ids + self._tokenizer.encode_template(CLOSE_THOUGHT)
            answer_format = self._answer_format(ids, chat)
        if len(ids) >= self._max_model_len:
            raise self._too_long(str(len(ids)), param)
        check_placeholders(ids, chat.media, param)
        return _Prompt(ids, as_typed(text), param, answer_format, chat)

    def _answer_format(self, ids: list[int], chat: ChatInput) -> AnswerFormat:
        return self._parsers.answer_format(
            last_marker(ids, self._tokenizer),
            asks_anew=chat.messages is not None and not chat.continue_final_message,
            calls=chat.tool_choice.mode != "none",
            one_call=not chat.parallel_tool_calls or chat.tool_choice.one_call,
        )

    def _checked_prompt_ids(self, given: list[Any]) -> list[int]:
        if not given:
            raise InvalidRequestError("prompt_token_ids must not be empty.", param="prompt_token_ids")
        if len(given) >= self._max_model_len:
            raise self._too_long(str(len(given)), "prompt_token_ids")
        if set(map(type, given)) != {int} or min(given) < 0 or max(given) >= self._vocab_size:
            for i, token in enumerate(given):  # which one it is; 30 times as slow
                if isinstance(token, bool) or not isinstance(token, int):
                    raise InvalidRequestError(f"prompt_token_ids[{i}] must be an integer.", param=f"prompt_token_ids[{i}]")
                self._check_token(token, f"prompt_token_ids[{i}]")
        check_given_ids(given, self.media.config)
        return given

    def _too_long(self, found: str, param: str) -> ContextLengthError:
        return ContextLengthError(
            f"The prompt has {found} tokens, but this server's context is {self._max_model_len} tokens for prompt and answer together. "
            "Shorten the prompt.",
            param=param,
        )

    def _echo(self, prompt: _Prompt, fields: SamplingFields) -> str:
        if prompt.text is not None:
            return prompt.text
        return self._tokenizer.decode(prompt.token_ids, skip_special_tokens=fields.skip_special_tokens)

    # sampling ------------------------------------------------------------------------------------------------------------------

    def _sampling_fields(self, inputs: RequestInputs) -> SamplingFields:
        given: Mapping[str, Any] = {}
        if inputs.sampling_parameters is not None:
            given = read_object(inputs.sampling_parameters, "sampling_parameters", "sampling_parameters")
        given = {name: value for name, value in given.items() if value is not None}
        for name, value in inputs.parameters.items():
            if given.setdefault(name, value) != value:
                raise InvalidRequestError(f"{name} is given twice: as a request parameter and in sampling_parameters.", param=name)
        if inputs.max_tokens is not None:
            given.pop("max_completion_tokens", None)
            given["max_tokens"] = inputs.max_tokens
        return parse_sampling_params({**self._defaults, **given})

    def _sampling(self, fields: SamplingFields, prompt: _Prompt, rules: Mapping[str, Any]) -> SamplingParams:
        left = self._max_model_len - len(prompt.token_ids)
        max_tokens = left if fields.max_tokens is None else fields.max_tokens
        if max_tokens > left:
            raise ContextLengthError(
                f"max_tokens is {max_tokens}, but the prompt has {len(prompt.token_ids)} tokens and this server's context is "
                f"{self._max_model_len} tokens: at most {left} are left. Lower max_tokens or shorten the prompt.",
                param="max_tokens",
            )
        if prompt.answer_format.begins_in != "thought":
            max_tokens = min(max_tokens, _given(fields.response_max_tokens, max_tokens))
        elif fields.reasoning_max_tokens is None and (share := prompt.chat.thought_share or self._default_share) is not None:
            rules = {**rules, **self._rules.budget(max_tokens, share)}
        if fields.min_tokens > max_tokens:
            raise InvalidRequestError(
                f"min_tokens ({fields.min_tokens}) must not exceed the {max_tokens} tokens that the answer may have.", param="min_tokens"
            )
        return SamplingParams(
            max_tokens=max_tokens,
            min_tokens=fields.min_tokens,
            temperature=_given(fields.temperature, 1.0),
            top_p=_given(fields.top_p, 1.0),
            top_k=_given(fields.top_k, 0),
            min_p=_given(fields.min_p, 0.0),
            repetition_penalty=_given(fields.repetition_penalty, 1.0),
            frequency_penalty=fields.frequency_penalty,
            presence_penalty=fields.presence_penalty,
            logit_bias=self._checked_biases(fields),
            bad_words_token_ids=self._bad_words(fields),
            seed=fields.seed,
            stop_token_ids=tuple(self._check_token(token, "stop_token_ids") for token in fields.stop_token_ids),
            eos_token_ids=() if fields.ignore_eos else self._eos_token_ids,
            logprobs=fields.logprobs,
            **rules,
        )

    def _checked_biases(self, fields: SamplingFields) -> tuple[tuple[int, float], ...]:
        for token, _ in fields.logit_bias:
            self._check_token(token, "logit_bias")
        return fields.logit_bias

    def _bad_words(self, fields: SamplingFields) -> tuple[tuple[int, ...], ...]:
        """The given ids, and each word as it is encoded at the beginning of a text and behind a space."""
        found = dict.fromkeys(fields.bad_words_token_ids)
        for sequence in found:
            for token in sequence:
                self._check_token(token, "bad_words_token_ids")
        for word in fields.bad_words:
            bare = word.lstrip(" ")
            for form in (bare, f" {bare}"):
                ids = tuple(self._tokenizer.encode_text(form)) if bare else ()
                if ids:
                    found[ids] = None
        return tuple(found)

    def _check_token(self, token: int, param: str) -> int:
        if not 0 <= token < self._vocab_size:
            raise InvalidRequestError(f"{param}: token id {token} is outside the vocabulary (0 to {self._vocab_size - 1}).", param=param)
        return token


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _too_deep(inputs: RequestInputs) -> InvalidRequestError:
    """For what could be read, but not worked on."""
    place = next(filter(None, (place_that_is_too_deep(text) for text in (inputs.chat, inputs.sampling_parameters) if text)), None)
    return InvalidRequestError(f"{place or 'The request'} is nested too deeply.", param=place)
