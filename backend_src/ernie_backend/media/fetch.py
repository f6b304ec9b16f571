"""Fetches the bytes of an image or video: from the web, from a `data:` URL, or from a file below the allowed folder. Decodes nothing.

Safe by default: only public addresses (`network.py`), only web ports, few redirects, each checked like the first URL, a limit of bytes
counted while they come, and a limit of time over all of it. What a file is, its first bytes say. No proxy is used: it would choose the
address in our place.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import httpcore2

from ..abort_signal import NEVER, AbortSignal
from ..protocol import MediaKind
from .network import CheckedBackend, Deadline, Resolver, resolve
from .sniff import HEAD_BYTES, MediaError, check_head
from .web_address import MAX_URL_CHARACTERS, WebAddress, read_web_address

_WEB = ("http", "https")
_REDIRECTS = (301, 302, 303, 307, 308)
_RESOLVER_THREADS = 16


@dataclass(frozen=True)
class FetchLimits:
    """Each holds for one image or video."""

    max_image_bytes: int = 32 * 2**20
    max_video_bytes: int = 256 * 2**20
    connect_seconds: float = 5.0
    """For the name and for each address tried."""
    image_seconds: float = 30.0
    """For everything: name, connection, redirects, bytes."""
    video_seconds: float = 120.0
    max_redirects: int = 3

    def max_bytes(self, kind: MediaKind) -> int:
        return self.max_image_bytes if kind is MediaKind.IMAGE else self.max_video_bytes

    def seconds(self, kind: MediaKind) -> float:
        return self.image_seconds if kind is MediaKind.IMAGE else self.video_seconds


@dataclass(frozen=True)
class FetchPolicy:
    allowed_domains: tuple[str, ...] = ()
    """Empty: every public host."""
    allow_private: bool = False
    """Private addresses and every port, too."""
    local_root: str | None = None
    """`file:` URLs below this folder are read; None: none are."""


class Fetcher:
    """Fetches for several threads at once. `close` ends what is under way within a second or so."""

    def __init__(
        self,
        policy: FetchPolicy,
        limits: FetchLimits | None = None,
        resolver: Resolver = resolve,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """`ssl_context`: trusts other authorities than the system's."""
        self._policy = policy
        self._limits = limits or FetchLimits()
        self._resolver = resolver
        self._ssl_context = ssl_context or httpcore2.default_ssl_context()
        self._resolving = ThreadPoolExecutor(_RESOLVER_THREADS, "ernie-resolve")
        self._closing = threading.Event()
        self._root = os.path.realpath(policy.local_root) if policy.local_root is not None else None

    def fetch(self, url: str, kind: MediaKind, signal: AbortSignal = NEVER) -> bytes:
        """The file's bytes, which begin like one of this kind. `MediaError` says why they cannot be had; `RequestAbortedError` comes within
        half a second of `signal`, or, while it connects to an address, when that is decided."""
        scheme = _scheme(url)
        if scheme == "data":
            data = self._from_data(url, kind)
        elif scheme == "file":
            data = self._from_file(url, kind)
        elif scheme in _WEB:
            try:
                return self._from_web(url, kind, signal)
            except MediaError:
                signal.check()
                raise
        else:
            raise MediaError("has a URL that begins with none of https:, http:, data: and file:")
        check_head(data[:HEAD_BYTES], kind)
        return data

    def close(self) -> None:
        self._closing.set()
        self._resolving.shutdown(wait=False, cancel_futures=True)

    # the web -------------------------------------------------------------------------------------------------------------------

    def _from_web(self, url: str, kind: MediaKind, signal: AbortSignal) -> bytes:
        deadline = Deadline(self._limits.seconds(kind), self._closing, signal)
        policy = self._policy
        for _ in range(self._limits.max_redirects + 1):
            address = read_web_address(url, policy.allowed_domains, any_port=policy.allow_private)
            with self._get(address, kind, deadline) as response:
                if response.status not in _REDIRECTS:
                    return self._body(response, kind)
                location = _header(response, b"location")
            if not location:
                raise MediaError("has a URL that redirects to nowhere")
            try:
                url = urljoin(url, location)
                scheme = urlsplit(url).scheme
            except ValueError:  # a bracket that is no IPv6 address
                raise MediaError("has a URL that redirects to a malformed one") from None
            if scheme not in _WEB:
                raise MediaError("has a URL that redirects to something else than the web")
        raise MediaError(f"has a URL that redirects more than {self._limits.max_redirects} times")

    @contextmanager
    def _get(self, address: WebAddress, kind: MediaKind, deadline: Deadline) -> Iterator[httpcore2.Response]:
        backend = CheckedBackend(
            self._resolver,
            self._resolving,
            deadline,
            connect_seconds=self._limits.connect_seconds,
            allow_private=self._policy.allow_private,
        )
        url = httpcore2.URL(scheme=address.scheme, host=address.host, port=address.port, target=address.target)
        headers: dict[bytes | str, bytes | str] = {
            "Host": address.host_header,
            "User-Agent": "ernie-triton",
            "Accept": f"{kind.value}/*",
            "Accept-Encoding": "identity",
        }
        try:
            with (
                httpcore2.ConnectionPool(self._ssl_context, max_connections=1, network_backend=backend) as pool,
                pool.stream("GET", url, headers=headers) as response,
            ):
                yield response
        except httpcore2.TimeoutException:
            raise MediaError("was not received in time: its host does not answer") from None
        except httpcore2.NetworkError as error:
            if isinstance(error.__context__, ssl.SSLCertVerificationError):  # httpcore2 takes the cause away
                raise MediaError("cannot be fetched: this server does not trust its host's certificate, or it is another host's") from None
            raise MediaError("cannot be fetched: the connection to its host failed") from None
        except (httpcore2.ProtocolError, httpcore2.UnsupportedProtocol):
            raise MediaError("cannot be fetched: its host does not keep to HTTP or its limits") from None

    def _body(self, response: httpcore2.Response, kind: MediaKind) -> bytes:
        if response.status != 200:
            raise MediaError(f"cannot be fetched: its host answers with status {response.status}")
        if _header(response, b"content-encoding").lower() not in ("", "identity"):
            raise MediaError("cannot be fetched: its host sends it compressed, which was not asked for")
        limit = self._limits.max_bytes(kind)
        announced = _header(response, b"content-length")
        if announced.isdigit() and int(announced[:20]) > limit:
            raise _too_large(limit)
        data, is_checked = bytearray(), False
        for block in response.iter_stream():
            data += block
            if len(data) > limit:
                raise _too_large(limit)
            if not is_checked and len(data) >= HEAD_BYTES:
                check_head(bytes(data[:HEAD_BYTES]), kind)
                is_checked = True
        if not is_checked:
            check_head(bytes(data), kind)
        return bytes(data)

    # data: and file: -----------------------------------------------------------------------------------------------------------

    def _from_data(self, url: str, kind: MediaKind) -> bytes:
        head, comma, encoded = url[5:].partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise MediaError("has a data: URL that is not of the form data:TYPE;base64,DATA")
        return decode_base64(encoded, self._limits.max_bytes(kind))

    def _from_file(self, url: str, kind: MediaKind) -> bytes:
        if self._root is None:
            raise MediaError("has a file: URL, and this server reads no files (--allowed-local-media-path)")
        try:
            parts = urlsplit(url)
            path = os.path.realpath(os.fsdecode(unquote_to_bytes(parts.path)))
        except ValueError:  # a zero byte
            raise _no_such_file() from None
        if parts.netloc not in ("", "localhost") or not self._is_below_root(path):
            raise _no_such_file()
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            raise _no_such_file() from None
        try:
            status = os.fstat(descriptor)
            # looked at again, because a folder on the way may have become a link meanwhile
            if not stat.S_ISREG(status.st_mode) or not self._is_below_root(os.path.realpath(f"/proc/self/fd/{descriptor}")):
                raise _no_such_file()
            limit = self._limits.max_bytes(kind)
            if status.st_size > limit:
                raise _too_large(limit)
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(limit)
        finally:
            os.close(descriptor)

    def _is_below_root(self, path: str) -> bool:
        return self._root is not None and Path(self._root) in Path(path).parents


def host_of(url: str) -> str | None:
    """Who decides how long it takes to fetch, as the URL, which may be malformed, spells it; None: nobody but this server."""
    return url[:MAX_URL_CHARACTERS].lower().partition("//")[2].partition("/")[0] if _scheme(url) in _WEB else None


def _scheme(url: str) -> str:
    return url[:8].partition(":")[0].lower()


def decode_base64(text: str, limit: int) -> bytes:
    """Standard base64; line breaks, missing padding and percent-encoding are fine. `MediaError` if it is not, or above `limit` bytes."""
    if len(text) > limit * 2:
        raise _too_large(limit)
    data = unquote_to_bytes(text) if "%" in text else text.encode("utf-8")
    data = data.translate(None, b" \t\r\n").rstrip(b"=")
    if len(data) * 3 // 4 > limit:
        raise _too_large(limit)
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except binascii.Error:
        raise MediaError("is not valid base64") from None


def _header(response: httpcore2.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")


def _too_large(limit: int) -> MediaError:
    return MediaError(f"is larger than {limit} bytes")


def _no_such_file() -> MediaError:
    """One text for all cases: what exists outside the folder is nobody's business."""
    return MediaError("does not exist as a file below the folder that this server reads from (--allowed-local-media-path)")
