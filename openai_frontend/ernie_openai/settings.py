"""What the front end is told at its start, and which model names it answers to; knows no HTTP and no Triton."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ernie_backend.errors import ModelNotFoundError

from .observability import Observability

DEFAULT_MAX_BODY_BYTES = 16 * 2**20
DEFAULT_MAX_PENDING_BYTES = 2**20

_NAMES_OF_ANY_MODEL = ("", "null", "default")  # what clients written for FastDeploy send when they mean "the one you serve"

_UNTOLD_OUTAGE = "The server cannot answer now. Try again in a moment."
"""Where the disk was too full for the reason."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files for listening with TLS."""

    certificate: str
    """With its chain."""
    key: str | None = None
    """None: it stands in the file of the certificate."""
    client_authorities: str | None = None
    """Clients must show a certificate of one of these."""


@dataclass(frozen=True)
class FrontendSettings:
    """One process's settings; plain values, so that worker processes get a copy."""

    triton_grpc: str
    """HOST:PORT of Triton's gRPC face."""
    triton_metrics: str
    """URL of Triton's metrics."""
    model_name: str = "ernie"
    """Shown where no served name was given."""
    served_model_names: tuple[str, ...] = ()
    """Names that requests may give. Empty: any name passes."""
    api_keys: tuple[str, ...] = ()
    """With those of the file: who may come in. Without keys and file none is asked for."""
    api_key_file: str | None = None
    """Read again when it changes."""
    allowed_origins: tuple[str, ...] = ()
    """Web pages of these origins may ask from a browser; `*`: of all."""
    max_model_len: int | None = None
    """Tokens; only shown, the engine checks it."""
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    max_pending_bytes: int = DEFAULT_MAX_PENDING_BYTES
    """Of one streamed answer that its client has not read yet; more end it."""
    observability: Observability = field(default_factory=Observability)
    max_concurrency: int | None = None
    """Answers that the engine gives at once; None: unknown, the engine says so itself."""
    outage_file: str | None = None
    """While it exists, no request can be answered; it says why."""

    @property
    def outage(self) -> str | None:
        """Why no request can be answered now, as whoever supervises the server has found; a model's dead process is no news to Triton."""
        if self.outage_file is None:
            return None
        try:
            return Path(self.outage_file).read_text(encoding="utf-8") or _UNTOLD_OUTAGE
        except OSError:
            return None

    @property
    def listed_models(self) -> tuple[str, ...]:
        """The names of `/v1/models`, the main one first."""
        return self.served_model_names or (self.model_name,)

    def name_to_answer_with(self, sent: str | None) -> str:
        """The `model` of the response. Raises `ModelNotFoundError` if names were configured and `sent` is none of them."""
        if not self.served_model_names:
            return sent or self.model_name
        if sent in self.served_model_names:
            return sent
        if sent is None or sent in _NAMES_OF_ANY_MODEL:
            return self.served_model_names[0]
        raise ModelNotFoundError(
            f"The model {sent!r} does not exist here. Models served: {', '.join(self.served_model_names)}.", param="model"
        )
