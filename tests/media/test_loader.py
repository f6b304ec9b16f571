"""One item from its URL to patches: tokens and grids, limits before decoding, errors that name the part."""

from __future__ import annotations

import base64
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ernie_backend.abort_signal import NEVER, AbortSignal
from ernie_backend.cli.processes import children_of
from ernie_backend.errors import ConfigError, ContextLengthError, InvalidRequestError, RequestAbortedError, UnavailableError
from ernie_backend.media.config import MediaConfig
from ernie_backend.media.decode_process import DecodeProcesses
from ernie_backend.media.fetch import Fetcher, FetchPolicy
from ernie_backend.media.image import open_image, resized, to_rgb
from ernie_backend.media.loader import MediaLoader
from ernie_backend.media.patches import LoadedMedia, content_hash, merged_order, raster_order
from ernie_backend.media_fields import MediaPart, ProcessorKwargs
from ernie_backend.protocol import MediaKind
from tests.media.conftest import encoded, picture
from tests.media.models import ERNIE_VL, PADDLEOCR_VL, write_folder
from tests.media.test_image import header_only
from tests.media.videos import video

PLACE = "messages[0].content[1]"


class Model:
    """A loader for a model folder, with the folder's own settings."""

    def __init__(self, folder: Path, config: dict[str, Any], max_tokens: int, python: str = sys.executable, **limits: Any) -> None:
        found = MediaConfig.from_folder(write_folder(folder, config))
        assert found is not None
        self.defaults = found.defaults
        self.loader = MediaLoader(Fetcher(FetchPolicy()), DecodeProcesses(python, found, max_tokens, **limits))

    def load(self, data: bytes, kind: MediaKind = MediaKind.IMAGE, *, aborted: AbortSignal = NEVER, **part: Any) -> LoadedMedia:
        url = f"data:;base64,{base64.b64encode(data).decode()}"
        return self.loader.load(MediaPart(kind, url, PLACE, **part), self.defaults, aborted)


Make = Callable[..., Model]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    models: list[Model] = []

    def run(config: dict[str, Any], max_tokens: int = 8000, **limits: Any) -> Model:
        models.append(Model(tmp_path_factory.mktemp("model"), config, max_tokens, **limits))
        return models[-1]

    yield run
    for model in models:
        model.loader.close()
    assert not decoders(), "no process outlives its pool"


def decoders() -> set[int]:
    """The helper processes that run."""
    return {pid for pid in children_of(os.getpid()) if b"decode_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()}


@pytest.fixture(scope="module")
def ernie(make: Make) -> Model:
    return make(ERNIE_VL)


@pytest.fixture(scope="module")
def ocr(make: Make) -> Model:
    return make(PADDLEOCR_VL)


class TestImages:
    def test_patches_grid_and_tokens(self, ernie: Model) -> None:
        image = picture(480, 640)
        loaded = ernie.load(encoded(image))
        expected = merged_order(np.asarray(resized(image, 476, 644))[np.newaxis], 14, 2).tobytes()
        assert (loaded.kind, loaded.grid, loaded.num_tokens, loaded.patches) == (MediaKind.IMAGE, (1, 34, 46), 391, expected)
        assert loaded.content_hash == content_hash(MediaKind.IMAGE, (1, 34, 46), expected)

    def test_paddleocr_cuts_row_by_row(self, ocr: Model) -> None:
        image = picture(480, 640)
        loaded = ocr.load(encoded(image))
        assert (loaded.grid, loaded.num_tokens) == ((1, 34, 46), 391)
        assert loaded.patches == raster_order(np.asarray(resized(image, 476, 644))[np.newaxis], 14).tobytes()

    def test_a_size_of_its_own_comes_first(self, ernie: Model) -> None:
        image = picture(100, 100)
        loaded = ernie.load(encoded(image), width=300, height=200)
        twice = resized(resized(image, 200, 300), 196, 308)
        assert loaded.grid == (1, 14, 22)
        assert loaded.patches == merged_order(np.asarray(twice)[np.newaxis], 14, 2).tobytes()

    def test_the_parts_settings_win(self, ernie: Model) -> None:
        assert ernie.load(encoded(picture(480, 640)), settings=ProcessorKwargs(image_max_pixels=100_000)).num_tokens <= 127

    def test_the_hash_knows_pixels_and_not_files(self, ernie: Model) -> None:
        image = picture(56, 84)
        hashes = [ernie.load(encoded(image, kind)).content_hash for kind in ("PNG", "BMP")]
        assert hashes[0] == hashes[1] != ernie.load(encoded(picture(56, 84, seed=1))).content_hash
        assert ernie.load(encoded(Image.new("RGB", (56, 84)))).content_hash != ernie.load(encoded(Image.new("RGB", (84, 56)))).content_hash

    def test_too_many_tokens_are_refused_before_decoding(self, ernie: Model) -> None:
        many = ProcessorKwargs(image_max_pixels=2**31 - 1)
        with pytest.raises(ContextLengthError, match=r"takes 10\d{3} tokens, .* context is 8000") as caught:
            ernie.load(header_only(2800, 3000), settings=many)  # which holds no pixels
        assert caught.value.param == PLACE
        huge = ProcessorKwargs(image_min_pixels=2**31 - 10**6, image_max_pixels=2**31 - 1)
        with pytest.raises(ContextLengthError):
            ernie.load(encoded(picture(100, 100)), settings=huge)

    @pytest.mark.parametrize(
        ("data", "part", "words"),
        [
            (b"no image at all, just text", {}, "the image is not an image in one of the formats PNG"),
            (encoded(picture(100, 100))[:5000], {}, "the image is truncated or broken"),
            (header_only(20_000, 20_000), {}, "the image has more than"),
            (encoded(picture(9, 9)), {"width": 60_000, "height": 60_000}, "the image shall be resized to more than"),
            (encoded(picture(9, 9)), {"settings": ProcessorKwargs(image_min_pixels=10**7)}, "min_pixels (10000000) is above max_pixels"),
        ],
    )
    def test_errors_name_the_part(self, ernie: Model, data: bytes, part: dict[str, Any], words: str) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            ernie.load(data, **part)
        assert caught.value.message.startswith(f"{PLACE}: ") and words in caught.value.message and caught.value.param == PLACE

    def test_a_strip_that_paddleocr_refuses(self, ocr: Model) -> None:
        with pytest.raises(InvalidRequestError, match=r"got 210\.0"):
            ocr.load(encoded(picture(10, 2100)))


class TestVideos:
    def test_frames_grid_and_tokens(self, ernie: Model) -> None:
        loaded = ernie.load(video(num_frames=90), MediaKind.VIDEO)
        height, width = loaded.grid[1] * 14, loaded.grid[2] * 14
        assert loaded.grid[0] == 16 and 299 * 784 <= height * width <= 1196 * 784
        assert loaded.num_tokens == 16 * loaded.grid[1] * loaded.grid[2] // 8
        assert len(loaded.patches) == 16 * loaded.grid[1] * loaded.grid[2] * 588

    def test_an_odd_count_doubles_the_last_frame_with_its_stamp(self, ernie: Model) -> None:
        settings = ProcessorKwargs(video_target_frames=5, video_fps=-1, video_min_frames=-1)
        loaded = ernie.load(video(num_frames=30), MediaKind.VIDEO, settings=settings)
        frames = np.frombuffer(loaded.patches, np.uint8).reshape(6, -1)
        assert loaded.grid[0] == 6
        assert (frames[4] == frames[5]).all() and (frames[3] != frames[4]).any()

    def test_one_frame(self, ernie: Model) -> None:
        assert ernie.load(video(num_frames=1), MediaKind.VIDEO).grid[0] == 2

    def test_settings_of_the_part(self, ernie: Model) -> None:
        settings = ProcessorKwargs(video_fps=10, video_max_frames=20, video_frames_sample="middle")
        assert ernie.load(video(num_frames=90), MediaKind.VIDEO, settings=settings).grid[0] == 20

    def test_too_many_tokens_are_refused_before_decoding(self, make: Make) -> None:
        small = make(ERNIE_VL, 1000)
        with pytest.raises(ContextLengthError, match=r"the video takes \d+ tokens") as caught:
            small.load(video(num_frames=90), MediaKind.VIDEO)
        assert "fewer frames" in caught.value.message

    @pytest.mark.parametrize(
        ("data", "part", "words"),
        [
            (encoded(picture(9, 9)), {}, "the video is not a video in one of the formats MP4"),
            (video(num_frames=5)[:300], {}, "the video is truncated or broken"),
            (
                video(num_frames=30),
                {"settings": ProcessorKwargs(video_target_frames=8)},
                "target_frames (8) is below min_frames (16). Raise target_frames",
            ),
        ],
    )
    def test_errors_name_the_part(self, ernie: Model, data: bytes, part: dict[str, Any], words: str) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            ernie.load(data, MediaKind.VIDEO, **part)
        assert caught.value.message.startswith(f"{PLACE}: ") and words in caught.value.message


def test_a_gif_is_an_image_or_a_video_as_it_is_called(ernie: Model) -> None:
    data = video("gif", "gif", 20)
    assert ernie.load(data).grid[0] == 1
    assert ernie.load(data, MediaKind.VIDEO).grid[0] == 16
    assert to_rgb(open_image(data)).size == (128, 96)


class TestWhatDecodersDoToThemselves:
    """Each costs its own request only, and the next one finds a fresh decoder."""

    def test_one_that_takes_too_long_is_ended(self, make: Make) -> None:
        model = make(ERNIE_VL, decoders=1, seconds=dict.fromkeys(MediaKind, 1.0))
        before = decoders()
        for pid in before:
            os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(InvalidRequestError, match=r"content\[1\]: the image made its decoder fail or take too long") as caught:
                model.load(encoded(picture(20, 20)))
        finally:
            for pid in before & decoders():
                os.kill(pid, signal.SIGCONT)
        assert caught.value.param == PLACE
        (ended,) = before - decoders()
        assert ended
        model.loader.close()

    def test_one_that_crashes(self, make: Make) -> None:
        others = decoders()
        model = make(ERNIE_VL, decoders=1)
        (own,) = decoders() - others
        os.kill(own, signal.SIGSTOP)
        killer = threading.Timer(0.5, os.kill, (own, signal.SIGKILL))
        killer.start()
        with pytest.raises(InvalidRequestError, match="made its decoder fail"):
            model.load(encoded(picture(20, 20)))
        killer.join()
        assert model.load(encoded(picture(56, 84))).num_tokens == 6

    def test_one_that_died_between_two_items_is_replaced(self, make: Make) -> None:
        others = decoders()
        model = make(ERNIE_VL, decoders=1)
        (own,) = decoders() - others
        os.kill(own, signal.SIGKILL)
        os.waitid(os.P_PID, own, os.WEXITED | os.WNOWAIT)
        assert model.load(encoded(picture(56, 84))).num_tokens == 6

    def test_memory_is_limited(self, make: Make) -> None:
        model = make(ERNIE_VL, memory_bytes=900 * 2**20)
        data = encoded(Image.new("RGBA", (9000, 9000), (1, 2, 3, 4)))
        with pytest.raises(InvalidRequestError, match=r"truncated or broken|too much memory|made its decoder fail"):
            model.load(data)
        assert model.load(encoded(picture(56, 84))).num_tokens == 6

    def test_the_end_ends_those_at_work(self, make: Make) -> None:
        others = decoders()
        model = make(ERNIE_VL, decoders=1)
        (own,) = decoders() - others
        os.kill(own, signal.SIGSTOP)
        threading.Timer(0.5, model.loader.close).start()
        with pytest.raises(UnavailableError):
            model.load(encoded(picture(20, 20)))

    def test_an_abort_ends_the_one_at_work(self, make: Make) -> None:
        others = decoders()
        model = make(ERNIE_VL, decoders=1)
        (own,) = decoders() - others
        os.kill(own, signal.SIGSTOP)
        aborted = AbortSignal()
        threading.Timer(0.5, aborted.set).start()
        with pytest.raises(RequestAbortedError):
            model.load(encoded(picture(20, 20)), aborted=aborted)
        assert own not in decoders()
        assert model.load(encoded(picture(56, 84))).num_tokens == 6

    def test_a_program_that_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="does not start"):
            Model(tmp_path, ERNIE_VL, 8000, python="/bin/false")
