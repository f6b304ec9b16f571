"""One image or video from its URL to patches: fetches it, has it decoded, and names the part in whatever goes wrong. Knows no prompt."""

from __future__ import annotations

import time

from ..abort_signal import NEVER, AbortSignal
from ..errors import InvalidRequestError
from ..media_fields import MediaPart, ProcessorKwargs
from .decode_process import DecodeProcesses
from .fetch import Fetcher
from .patches import LoadedMedia
from .processor_cache import ProcessorCache
from .sniff import MediaError
from .usage import MediaUsage


class MediaLoader:
    """For several threads at once."""

    def __init__(self, fetcher: Fetcher, decoders: DecodeProcesses, cache_bytes: int = 0) -> None:
        """`cache_bytes`: of decoded files that are kept."""
        self._fetcher = fetcher
        self._decoders = decoders
        self._cache = ProcessorCache(cache_bytes)
        self.usage = MediaUsage()

    def load(self, part: MediaPart, settings: ProcessorKwargs, signal: AbortSignal = NEVER) -> LoadedMedia:
        """`settings`: the server's and the request's; the part's own come on top. Raises `InvalidRequestError` naming the part, and
        `RequestAbortedError` soon after `signal` is set."""
        try:
            began = time.monotonic()
            data = self._fetcher.fetch(part.url, part.kind, signal)
            fetched = time.monotonic()
            self.usage.fetched(part.kind, len(data), fetched - began)
            loaded = self._cache.processed(data, part, settings, lambda: self._decoders.decode(data, part, settings, signal))
            self.usage.decoded(time.monotonic() - fetched)
            return loaded
        except MediaError as error:
            raise InvalidRequestError(f"{part.place}: the {part.kind.value} {str(error).rstrip('.')}.", param=part.place) from None

    def close(self) -> None:
        """Ends downloads and decoders within a second or so."""
        self._fetcher.close()
        self._decoders.close()
