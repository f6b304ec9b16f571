"""Many items at once: what waits is bounded, each request is called back once, and the end ends everything."""

from __future__ import annotations

import base64
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ernie_backend.abort_signal import NEVER, AbortSignal
from ernie_backend.errors import InvalidRequestError, OverloadedError, RequestAbortedError, UnavailableError
from ernie_backend.media.config import MediaConfig
from ernie_backend.media.decode_process import DecodeProcesses
from ernie_backend.media.fetch import Fetcher, FetchPolicy
from ernie_backend.media.loader import MediaLoader
from ernie_backend.media.pool import MediaPool
from ernie_backend.media_fields import MediaPart
from ernie_backend.protocol import MediaKind
from tests.media.conftest import ServerOf, encoded, picture
from tests.media.hostile_server import body
from tests.media.models import ERNIE_VL, write_folder

SMALL = encoded(picture(56, 84))


class Answers:
    """What a pool has called back with."""

    def __init__(self) -> None:
        self.given: list[Any] = []
        self._come = threading.Semaphore(0)

    def __call__(self, outcome: Any) -> None:
        self.given.append(outcome)
        self._come.release()

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self._come.acquire(timeout=30)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Two threads, four items at most; called with URLs."""
    config = MediaConfig.from_folder(write_folder(tmp_path, ERNIE_VL))
    assert config is not None
    decoders = DecodeProcesses(sys.executable, config, 8000)
    made = MediaPool(MediaLoader(Fetcher(FetchPolicy(allow_private=True)), decoders), threads=2, max_items=4)

    def load(done: Answers, *urls: str, signal: AbortSignal = NEVER) -> None:
        made.load([MediaPart(MediaKind.IMAGE, url, f"image[{i}]") for i, url in enumerate(urls)], config.defaults, done, signal)

    load.close = made.close  # type: ignore[attr-defined]
    yield load
    made.close()


def test_what_waits_is_bounded_and_later_there_is_room_again(pool: Callable[..., None], serve: ServerOf) -> None:
    release, answers = threading.Event(), Answers()
    server = serve({"/": lambda connection, server: (release.wait(30), body(SMALL)(connection, server))})
    for _ in range(3):
        pool(answers, server.url("/"))
    with pytest.raises(OverloadedError):
        pool(answers, server.url("/"), server.url("/"))
    pool(answers, server.url("/"))
    with pytest.raises(OverloadedError):
        pool(answers, server.url("/"))
    release.set()
    answers.wait(4)
    pool(answers, *[server.url("/")] * 4)
    answers.wait(1)
    assert [len(outcome) for outcome in answers.given] == [1, 1, 1, 1, 4]


def test_no_host_holds_up_what_needs_none(pool: Callable[..., None], serve: ServerOf) -> None:
    """40 requests of ten dripping URLs each kept every image in a `data:` URL waiting for two minutes."""
    release, stuck, answers = threading.Event(), Answers(), Answers()
    server = serve({"/": lambda connection, server: (release.wait(30), body(SMALL)(connection, server))})
    for _ in range(4):
        pool(stuck, server.url("/"))
    with pytest.raises(OverloadedError):
        pool(stuck, server.url("/"))
    own = f"data:image/png;base64,{base64.b64encode(SMALL).decode()}"
    pool(answers, own, own)
    answers.wait(1)
    assert len(answers.given[0]) == 2 and not stuck.given, "all threads for hosts are still taken"
    with pytest.raises(OverloadedError):
        pool(answers, own, server.url("/"))
    pool(answers, *[own] * 4)
    answers.wait(1)
    release.set()
    stuck.wait(4)


def test_an_aborted_request_begins_nothing_more(pool: Callable[..., None], serve: ServerOf) -> None:
    release, answers, others, signal = threading.Event(), Answers(), Answers(), AbortSignal()
    server = serve({"/": lambda connection, server: (release.wait(30), body(SMALL)(connection, server))})
    pool(answers, *[server.url("/")] * 3, signal=signal)
    while len(server.requests) < 2:
        assert not release.wait(0.01)
    signal.set()
    answers.wait(1)
    assert isinstance(answers.given[0], RequestAbortedError), "both threads are free again"
    release.set()
    pool(others, *[server.url("/")] * 4)
    others.wait(1)
    assert len(others.given[0]) == 4 and len(server.requests) == 6, "there is room for all, and the third was never asked for"


def test_one_answer_and_the_first_error(pool: Callable[..., None], serve: ServerOf) -> None:
    answers = Answers()
    server = serve({"/": body(SMALL)})
    pool(answers, server.url("/"), server.url("/none"), server.url("/also-none"))
    answers.wait(1)
    (error,) = answers.given
    assert isinstance(error, InvalidRequestError) and error.param == "image[1]"


def test_an_error_does_not_wait_for_what_stands_behind_it(pool: Callable[..., None], serve: ServerOf) -> None:
    answers, others = Answers(), Answers()
    server = serve({"/hung": lambda _, server: server.stopping.wait(60), "/": body(SMALL)})
    pool(answers, server.url("/none"), *[server.url("/hung")] * 3)
    answers.wait(1)
    assert answers.given[0].param == "image[0]"
    while True:  # its threads are free soon, and it is counted no more
        try:
            pool(others, *[server.url("/")] * 4)
        except OverloadedError:
            assert not server.stopping.wait(0.01)
        else:
            break
    others.wait(1)
    assert len(others.given[0]) == 4 and len(answers.given) == 1
    assert sum(b"/hung" in head for head in server.requests) <= 1, "what had not begun never does"


def test_the_end_ends_what_runs_and_what_waits(pool: Callable[..., None], serve: ServerOf) -> None:
    answers = Answers()
    server = serve({"/": lambda _, server: server.stopping.wait(60)})
    for _ in range(4):
        pool(answers, server.url("/"))
    pool.close()  # type: ignore[attr-defined]
    answers.wait(4)
    assert all(isinstance(outcome, UnavailableError) for outcome in answers.given)
