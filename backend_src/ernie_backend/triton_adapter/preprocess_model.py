"""The preprocess step as a Triton model: tensors in, the engine's tensors out. Decides nothing."""

from __future__ import annotations

import logging
from typing import Any

from ..config import ModelConfig
from ..errors import EngineError, ErnieError
from ..protocol import GenerateRequest
from .preprocess import Preprocessor, RequestInputs
from .seal import Seal
from .settings import load_settings
from .tensors import error_response, ids_tensor, read_bool, read_int, read_text, text_tensor

log = logging.getLogger(__name__)


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
        return RequestInputs(
            text_input=read_text(pb, request, "text_input"),
            chat=read_text(pb, request, "chat"),
            num_images=0 if image is None else image.as_numpy().size,
            sampling_parameters=read_text(pb, request, "sampling_parameters"),
            max_tokens=read_int(pb, request, "max_tokens"),
            stream=read_bool(pb, request, "stream"),
            exclude_input_in_output=read_bool(pb, request, "exclude_input_in_output"),
        )

    def _outputs(self, generate: GenerateRequest) -> list[Any]:
        request = generate.to_json()
        return [
            text_tensor(self._pb, "request", self._seal.of_request(request, generate.prompt_token_ids) + request),
            ids_tensor(self._pb, "prompt_token_ids", generate.prompt_token_ids),
        ]
