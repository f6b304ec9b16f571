"""The preprocess step as a Triton model: tensors in, the engine's tensors out. Decides nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..config import ModelConfig
from ..errors import EngineError, ErnieError, InvalidRequestError
from ..protocol import GenerateRequest
from .preprocess import Preprocessor, RequestInputs
from .seal import Seal
from .settings import load_settings
from .tensors import error_response, ids_tensor, read_bool, read_int, read_parameters, read_text, text_tensor

log = logging.getLogger(__name__)

_FLAGS = ("stream", "exclude_input_in_output")
"""Inputs that clients of other LLM backends put into `parameters` of /generate."""


def _flag(parameters: Mapping[str, Any], name: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequestError(f"{name} must be true or false.", param=name)
    return value


class PreprocessModel:
    """What `ernie_preprocess/1/model.py` offers Triton."""

    def __init__(self, pb_utils: Any) -> None:
        self._pb = pb_utils
        self._preprocessor: Preprocessor | None = None

    def initialize(self, args: dict[str, str]) -> None:
        """An `ErnieError` becomes the reason that Triton reports for the failed load."""
        try:
            config = load_settings(args)
            self._preprocessor = Preprocessor(config, ModelConfig.from_folder(config.model))
            self._seal = Seal.of_server(args)
        except ErnieError as error:
            raise self._pb.TritonModelException(error.message) from None

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request, in order; a refused one touches no other."""
        return [self._respond(request) for request in requests]

    def finalize(self) -> None:
        """End the template's helper process."""
        if self._preprocessor is not None:
            self._preprocessor.close()
            self._preprocessor = None

    def _respond(self, request: Any) -> Any:
        assert self._preprocessor is not None
        try:
            generate = self._preprocessor.process(self._inputs(request))
        except ErnieError as error:
            return error_response(self._pb, error)
        except Exception:
            log.exception("A request could not be prepared.")
            return error_response(self._pb, EngineError("The server could not prepare this request. See the server's log."))
        return self._pb.InferenceResponse(output_tensors=self._outputs(generate))

    def _inputs(self, request: Any) -> RequestInputs:
        pb = self._pb
        image = pb.get_input_tensor_by_name(request, "image")
        parameters = read_parameters(request)
        stream = read_bool(pb, request, "stream")
        exclude = read_bool(pb, request, "exclude_input_in_output")
        return RequestInputs(
            text_input=read_text(pb, request, "text_input"),
            chat=read_text(pb, request, "chat"),
            num_images=0 if image is None else image.as_numpy().size,
            sampling_parameters=read_text(pb, request, "sampling_parameters"),
            max_tokens=read_int(pb, request, "max_tokens"),
            stream=_flag(parameters, "stream") if stream is None else stream,
            exclude_input_in_output=_flag(parameters, "exclude_input_in_output") if exclude is None else exclude,
            parameters={name: value for name, value in parameters.items() if name not in _FLAGS},
        )

    def _outputs(self, generate: GenerateRequest) -> list[Any]:
        request = generate.to_json()
        return [
            text_tensor(self._pb, "request", self._seal.of_request(request, generate.prompt_token_ids) + request),
            ids_tensor(self._pb, "prompt_token_ids", generate.prompt_token_ids),
        ]
