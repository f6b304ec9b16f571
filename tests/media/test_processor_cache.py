"""Which files are decoded once, which again, and how much is kept; and a loader that has such a cache."""

from __future__ import annotations

import base64
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ernie_backend.errors import InvalidRequestError
from ernie_backend.media.config import MediaConfig
from ernie_backend.media.decode_process import DecodeProcesses
from ernie_backend.media.fetch import Fetcher, FetchPolicy
from ernie_backend.media.loader import MediaLoader
from ernie_backend.media.patches import LoadedMedia
from ernie_backend.media.processor_cache import ProcessorCache
from ernie_backend.media.sniff import MediaError
from ernie_backend.media_fields import MediaPart, ProcessorKwargs
from ernie_backend.protocol import MediaKind
from tests.media.conftest import encoded, picture
from tests.media.models import ERNIE_VL, write_folder

PART = MediaPart(MediaKind.IMAGE, "https://a.com/1", "messages[0].content[0]")
SETTINGS = ProcessorKwargs(image_max_pixels=10_000, video_frames_sample="leading")
PATCHES = 100_000


class Files:
    """Counts what is processed."""

    def __init__(self, capacity_bytes: int = 2**30) -> None:
        self.cache = ProcessorCache(capacity_bytes)
        self.processed: list[bytes] = []

    def ask(self, data: bytes, part: MediaPart = PART, settings: ProcessorKwargs = SETTINGS) -> LoadedMedia:
        def process() -> LoadedMedia:
            self.processed.append(data)
            if data == b"broken":
                raise MediaError("cannot be read")
            return LoadedMedia(part.kind, bytes(PATCHES), (1, 2, 2), 1, data)

        return self.cache.processed(data, part, settings, process)


def test_a_file_is_processed_once_wherever_it_comes_from() -> None:
    files = Files()
    first = files.ask(b"a")
    assert files.ask(b"a", replace(PART, url="https://b.com/2", place="messages[4].content[1]")) is first
    assert files.ask(b"b").content_hash == b"b" and files.processed == [b"a", b"b"]


@pytest.mark.parametrize(
    ("part", "settings"),
    [
        (replace(PART, kind=MediaKind.VIDEO), SETTINGS),
        (replace(PART, width=10, height=20), SETTINGS),
        (replace(PART, width=20, height=10), SETTINGS),
        (PART, replace(SETTINGS, image_max_pixels=20_000)),
        (replace(PART, settings=ProcessorKwargs(image_max_pixels=30_000)), SETTINGS),
    ],
)
def test_processed_in_another_way_it_is_another_item(part: MediaPart, settings: ProcessorKwargs) -> None:
    files = Files()
    files.ask(b"a", replace(PART, width=1, height=1))
    files.ask(b"a")
    for _ in range(2):
        files.ask(b"a", part, settings)
    assert len(files.processed) == 3
    assert files.ask(b"a", replace(PART, settings=SETTINGS), ProcessorKwargs(video_fps=1)) and len(files.processed) == 4


def test_random_frames_are_drawn_again() -> None:
    files = Files()
    for _ in range(2):
        files.ask(b"a", replace(PART, settings=ProcessorKwargs(video_frames_sample="rand")))
    assert len(files.processed) == 2


def test_the_least_recently_used_goes_first() -> None:
    files = Files(capacity_bytes=int(2.5 * PATCHES))
    for data in (b"a", b"b", b"a", b"c", b"a", b"b"):
        files.ask(data)
    assert files.processed == [b"a", b"b", b"c", b"b"], "c took b's place"


@pytest.mark.parametrize("capacity_bytes", [-(2**30), 0, PATCHES // 2])
def test_what_does_not_fit_is_not_kept(capacity_bytes: int) -> None:
    files = Files(capacity_bytes)
    assert files.ask(b"a").content_hash == files.ask(b"a").content_hash == b"a" and len(files.processed) == 2


def test_errors_are_not_kept() -> None:
    files = Files()
    for _ in range(2):
        with pytest.raises(MediaError):
            files.ask(b"broken")
    assert len(files.processed) == 2


def test_a_loader_with_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = MediaConfig.from_folder(write_folder(tmp_path, ERNIE_VL))
    assert found is not None
    decoders = DecodeProcesses(sys.executable, found, 8000)
    decode, decoded = decoders.decode, []
    monkeypatch.setattr(decoders, "decode", lambda data, *given: decoded.append(data) or decode(data, *given))
    loader = MediaLoader(Fetcher(FetchPolicy()), decoders, 2**24)

    def load(data: bytes) -> LoadedMedia:
        url = f"data:;base64,{base64.b64encode(data).decode()}"
        return loader.load(replace(PART, url=url), found.defaults)

    image = encoded(picture(480, 640))
    assert (
        load(image)
        == load(image)
        == MediaLoader(Fetcher(FetchPolicy()), decoders).load(
            replace(PART, url=f"data:;base64,{base64.b64encode(image).decode()}"), found.defaults
        )
    )
    assert len(decoded) == 2, "once for each loader"
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match="messages"):
            load(image[:100])
    loader.close()
