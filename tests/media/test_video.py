"""Decoding videos: containers and codecs, the right frames wherever key frames stand, hostile files."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from ernie_backend.media import video as video_module
from ernie_backend.media.frames import FrameSampling
from ernie_backend.media.sniff import MediaError
from ernie_backend.media.video import open_video
from tests.media.videos import number_of, video

CONTAINERS = [
    ("mp4", "libx264", {"g": "12", "bf": "3"}),
    ("mp4", "libx264", {"g": "300"}),
    ("mp4", "mpeg4", {}),
    ("mp4", "libx265", {"x265-params": "log-level=none"}),
    ("mov", "libx264", {"g": "7"}),
    ("webm", "libvpx", {}),
    ("webm", "libvpx-vp9", {"g": "20"}),
    ("gif", "gif", {}),
]


def numbers(data: bytes, indices: list[int]) -> list[float]:
    with open_video(data) as opened:
        return [number_of(frame) for frame in opened.frames(indices)]


@pytest.mark.parametrize(("kind", "codec", "options"), CONTAINERS)
@pytest.mark.parametrize("indices", [[0, 5, 11, 16, 22, 84, 89], [40], [89], list(range(90))], ids=["some", "one", "last", "all"])
def test_the_frames_that_were_asked_for(kind: str, codec: str, options: dict[str, str], indices: list[int]) -> None:
    found = numbers(video(kind, codec, **options), indices)
    tolerance = 17 if kind == "gif" else 6  # a gif of this kind has 8 levels of red and green, 4 of blue
    assert np.abs(np.array(found) - indices).max() < tolerance


@pytest.mark.parametrize(("kind", "codec", "options"), CONTAINERS)
def test_what_the_packets_say(kind: str, codec: str, options: dict[str, str]) -> None:
    with open_video(video(kind, codec, **options)) as opened:
        facts = opened.facts
    assert (facts.num_frames, facts.height, facts.width) == (90, 96, 128)
    assert facts.duration_seconds == pytest.approx(2.7 if kind == "gif" else 3.0, abs=0.05)
    assert FrameSampling().num_frames(facts.duration_seconds) == 16


def test_the_stamp_is_the_frames_time() -> None:
    with open_video(video(num_frames=90)) as opened:
        (stamped,) = opened.frames([45])
    with open_video(video(num_frames=45)) as opened:  # other times, the same frames
        (other,) = opened.frames([44])
    corner = np.asarray(stamped)[:12, :100].astype(int)
    assert corner.std() > 10, "there are letters"
    assert np.abs(corner - np.asarray(other)[:12, :100]).max() > 50


@pytest.mark.parametrize("kind", ["mp4", "mov"])
@pytest.mark.parametrize(
    ("degrees", "size", "corner"),
    [(0, (160, 96), (-8, 8)), (90, (96, 160), (8, 8)), (180, (160, 96), (8, -8)), (-90, (96, 160), (-8, -8)), (45, (160, 96), (-8, 8))],
)
def test_what_was_filmed_sideways_is_turned_upright(kind: str, degrees: int, size: tuple[int, int], corner: tuple[int, int]) -> None:
    """White where the frames have their lower left corner; `degrees` clockwise, which is how players turn it."""
    with open_video(turned(kind, degrees)) as opened:
        assert (opened.facts.width, opened.facts.height) == size
        frames = [np.asarray(frame) for frame in opened.frames([3, 11])]
    for frame in frames:
        assert (frame.shape[1], frame.shape[0]) == size
        assert frame[corner].mean() > 200 and frame.mean() < 80


def turned(kind: str, degrees: int) -> bytes:
    buffer = io.BytesIO()
    picture = np.zeros((96, 160, 3), np.uint8)
    picture[-24:, :24] = 255
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream("libx264", rate=4, options={"g": "5"})
        stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
        stream.set_display_rotation(-degrees)
        for _ in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


class TestHostileFiles:
    def test_no_video_track(self) -> None:
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="mp4") as container:
            stream = container.add_stream("aac", rate=48000, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate = 48000
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        with pytest.raises(MediaError, match="has no video track"), open_video(buffer.getvalue()):
            pass

    def test_no_frames(self) -> None:
        data = video("webm", "libvpx", 5)
        cluster = data.index(b"\x1f\x43\xb6\x75")
        with pytest.raises(MediaError, match=r"has no frames|truncated or broken"), open_video(data[:cluster]):
            pass

    @pytest.mark.parametrize("kind", ["mp4", "webm", "gif"])
    def test_truncated(self, kind: str) -> None:
        data = video(kind, {"mp4": "mpeg4", "webm": "libvpx", "gif": "gif"}[kind])
        for length in (16, 200, len(data) // 2):
            try:
                found = numbers(data[:length], [0])
            except MediaError:
                continue
            assert len(found) == 1, "what is there of it may be shown"

    def test_the_index_promises_more_than_there_is(self) -> None:
        data = bytearray(video("mov", "mpeg4", movflags="faststart"))
        place = data.index(b"mdat") + 4
        data[place + 200 :] = bytes(len(data) - place - 200)
        with pytest.raises(MediaError, match="truncated or broken"):
            numbers(bytes(data), list(range(90)))

    @pytest.mark.parametrize(
        "data",
        [
            b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
            b"ffconcat version 1.0\nfile '/etc/passwd'\n",
            b"RIFF\0\0\0\0AVI LIST" + b"\0" * 100,
            b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
            b"",
        ],
    )
    def test_playlists_and_other_containers_are_never_opened(self, data: bytes) -> None:
        with pytest.raises(MediaError, match="is not a video in one of the formats MP4, WebM, MOV, GIF"), open_video(data):
            pass

    def test_a_playlist_behind_the_first_bytes_of_a_video(self) -> None:
        for head in (b"\0\0\0\x18ftypmp42\0\0\0\0", b"\x1a\x45\xdf\xa3"):
            with pytest.raises(MediaError), open_video(head + b"\n#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n" * 50):
                pass

    def test_a_codec_that_stays_out(self) -> None:
        with pytest.raises(MediaError, match="encoded in a way that this server does not decode"), open_video(video("mov", "qtrle", 3)):
            pass

    def test_frames_beyond_the_limit_are_known_by_the_header(self) -> None:
        data = video("webm", "libvpx", 1, height=5000, width=8000)
        with pytest.raises(MediaError, match="frames of more than 33177600 pixels"), open_video(data):
            pass

    def test_time_for_decoding_is_limited(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = video("mp4", "libx264", 90, g="300")
        monkeypatch.setattr(video_module, "DECODE_SECONDS", -1.0)
        with pytest.raises(MediaError, match="to decode"):
            numbers(data, [89])
