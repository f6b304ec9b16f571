"""Fetching, against a server that means harm: each attack is refused within its limit, and says nothing internal."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import pytest

from ernie_backend.abort_signal import AbortSignal
from ernie_backend.errors import RequestAbortedError, UnavailableError
from ernie_backend.media.fetch import Fetcher, FetchLimits, FetchPolicy, decode_base64
from ernie_backend.media.sniff import MediaError
from ernie_backend.protocol import MediaKind
from tests.media.conftest import ServerOf
from tests.media.hostile_server import PNG, TLS, HostileServer, body, redirect, status

LIMITS = FetchLimits(
    max_image_bytes=100_000, max_video_bytes=200_000, connect_seconds=1.0, image_seconds=1.5, video_seconds=1.5, max_redirects=3
)
"""Short, because every attack below takes its time in full."""
LOOPBACK = FetchPolicy(allow_private=True)


@pytest.fixture
def fetcher() -> Iterator[Fetcher]:
    made = Fetcher(LOOPBACK, LIMITS)
    yield made
    made.close()


def refusal(fetcher: Fetcher, url: str, kind: MediaKind = MediaKind.IMAGE) -> str:
    with pytest.raises(MediaError) as caught:
        fetcher.fetch(url, kind)
    text = str(caught.value)
    assert "127.0.0.1" not in text and "httpcore" not in text and "Errno" not in text
    return text


class TestTheWeb:
    def test_a_normal_image(self, serve: ServerOf, fetcher: Fetcher) -> None:
        server = serve({"/cat.png?size=1": body(PNG, "text/plain")})
        assert fetcher.fetch(server.url("/cat.png?size=1"), MediaKind.IMAGE) == PNG, "what it is, its bytes say"
        head = server.requests[0].decode()
        assert head.startswith("GET /cat.png?size=1 HTTP/1.1\r\n") and f"Host: 127.0.0.1:{server.port}\r\n" in head
        assert "Accept-Encoding: identity" in head and "Cookie" not in head and "Authorization" not in head

    def test_redirects(self, serve: ServerOf, fetcher: Fetcher) -> None:
        server = serve(
            {"/": body(PNG), "/3": redirect("/2"), "/2": redirect("//127.0.0.1:{}/1"), "/1": redirect("/"), "/4": redirect("/3")}
        )
        server.answers["/2"] = redirect(f"//127.0.0.1:{server.port}/1")
        assert fetcher.fetch(server.url("/3"), MediaKind.IMAGE) == PNG
        assert "redirects more than 3 times" in refusal(fetcher, server.url("/4"))

    @pytest.mark.parametrize("target", ["file:///etc/passwd", "data:image/png;base64,AAAA", "gopher://127.0.0.1/", "ftp://127.0.0.1/"])
    def test_redirects_out_of_the_web(self, serve: ServerOf, fetcher: Fetcher, target: str) -> None:
        assert "redirects to something else" in refusal(fetcher, serve({"/": redirect(target)}).url("/"))

    @pytest.mark.parametrize("target", ["http://[::1", "//[", "http://127.0.0.1:99999/"])
    def test_a_redirect_to_a_malformed_url(self, serve: ServerOf, fetcher: Fetcher, target: str) -> None:
        assert "malformed" in refusal(fetcher, serve({"/": redirect(target)}).url("/"))

    def test_a_redirect_to_nowhere(self, serve: ServerOf, fetcher: Fetcher) -> None:
        assert "redirects to nowhere" in refusal(fetcher, serve({"/": status("302 Found")}).url("/"))

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (status("404 Not Found"), "status 404"),
            (status("500 Oh no /etc/secret"), "status 500"),
            (body(b"<html>" * 10, "image/png"), "is not an image in one of the formats PNG"),
            (body(b"", "image/png"), "is not an image"),
            (body(b"\x00\x00\x00\x18ftypmp42" * 10, "image/jpeg"), "is not an image"),
            (body(PNG, more="Content-Encoding: gzip\r\n"), "compressed"),
            (lambda connection, _: connection.sendall(b"not http at all\r\n\r\n"), "does not keep to HTTP"),
            (lambda connection, _: None, "connection to its host failed|does not keep to HTTP"),
            (lambda connection, _: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + PNG), "does not keep to HTTP"),
        ],
    )  # fmt: skip
    def test_answers_that_are_none(self, serve: ServerOf, fetcher: Fetcher, answer: object, words: str) -> None:
        import re

        assert re.search(words, refusal(fetcher, serve({"/": answer}).url("/")))

    def test_too_large_by_its_own_word(self, serve: ServerOf, fetcher: Fetcher) -> None:
        """Refused at once: a client that waited for the first byte of it would run into its time limit instead."""

        def answer(connection: object, server: HostileServer) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100001\r\n\r\n")  # type: ignore[attr-defined]
            server.stopping.wait(20)

        assert "is larger than 100000 bytes" in refusal(fetcher, serve({"/": answer}).url("/"))

    @pytest.mark.parametrize("chunked", [True, False])
    def test_an_endless_body(self, serve: ServerOf, fetcher: Fetcher, chunked: bool) -> None:
        def answer(connection: object, server: HostileServer) -> None:
            block = PNG + b"\0" * 10_000
            framed = b"%x\r\n%s\r\n" % (len(block), block) if chunked else block
            head = b"HTTP/1.1 200 OK\r\n" + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n")
            connection.sendall(head)  # type: ignore[attr-defined]
            server.drip(connection, repeat(framed), 0)  # type: ignore[arg-type]

        server = serve({"/": answer})
        assert "is larger than 100000 bytes" in refusal(fetcher, server.url("/"))
        video = b"\x00\x00\x00\x18ftypmp42"
        server.answers["/v"] = lambda connection, server: server.drip(
            connection, iter([b"HTTP/1.1 200 OK\r\n\r\n" + video, *[b"\0" * 9999] * 99]), 0
        )
        assert "is larger than 200000 bytes" in refusal(fetcher, server.url("/v"), MediaKind.VIDEO)

    def test_a_compressed_bomb_is_not_unpacked(self, serve: ServerOf, fetcher: Fetcher) -> None:
        assert "compressed" in refusal(fetcher, serve({"/": body(b"\x1f\x8b" + b"\0" * 1000, more="Content-Encoding: br\r\n")}).url("/"))

    @pytest.mark.parametrize(
        "begin",
        [
            b"",  # the status line never comes
            b"HTTP/1.1 200 OK\r\n",  # nor the end of the headers
            b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n" + PNG,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ],
    )
    def test_a_slow_drip(self, serve: ServerOf, fetcher: Fetcher, begin: bytes) -> None:
        drop = b"X-Drop: 1\r\n" if begin.endswith(b"OK\r\n") or not begin else b"0"
        answer = lambda connection, server: server.drip(connection, iter([begin or b"HTTP/1.1 200 OK\r\n", *[drop] * 400]))  # noqa: E731
        assert "was not received in time" in refusal(fetcher, serve({"/": answer}).url("/"))

    def test_silence(self, serve: ServerOf, fetcher: Fetcher) -> None:
        assert "was not received in time" in refusal(fetcher, serve({"/": lambda _, server: server.stopping.wait(20)}).url("/"))

    def test_huge_headers(self, serve: ServerOf, fetcher: Fetcher) -> None:
        for head in (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000, b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 60_000):
            server = serve({"/": lambda connection, _, head=head: connection.sendall(head + b"\r\n\r\n" + PNG)})
            assert "does not keep to HTTP or its limits" in refusal(fetcher, server.url("/"))

    def test_nobody_listens(self, serve: ServerOf, fetcher: Fetcher) -> None:
        server = serve({})
        server.close()
        assert "connection to its host failed" in refusal(fetcher, server.url("/"))

    def test_the_end_of_the_server_ends_it(self, serve: ServerOf) -> None:
        fetcher = Fetcher(LOOPBACK, FetchLimits())
        begun = threading.Event()

        def answer(_: object, server: HostileServer) -> None:
            begun.set()
            server.stopping.wait(60)

        closer = threading.Thread(target=lambda: (begun.wait(20), fetcher.close()))
        closer.start()
        with pytest.raises(UnavailableError):
            fetcher.fetch(serve({"/": answer}).url("/"), MediaKind.IMAGE)
        closer.join()

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_an_abort_ends_it(self, scheme: str) -> None:
        """While it waits for a response, or in a handshake, that never comes: each would take 30 s."""
        fetcher, signal = Fetcher(LOOPBACK), AbortSignal()
        with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
            url = f"{scheme}://127.0.0.1:{listening.getsockname()[1]}/"
            fetching = pool.submit(fetcher.fetch, url, MediaKind.IMAGE, signal)
            connection, _ = listening.accept()
            with connection:
                assert connection.recv(4096), "it has begun"
                signal.set()
                with pytest.raises(RequestAbortedError):
                    fetching.result()
                connection.settimeout(20)
                assert not connection.recv(4096), "the connection is given up"
            listening.close()
            with pytest.raises(RequestAbortedError):
                fetcher.fetch(url, MediaKind.IMAGE, signal)
        fetcher.close()


class TestAddresses:
    """No name is ever resolved by the system here: the resolver is the attack."""

    def fetch(self, url: str, answers: list[list[str]], **policy: object) -> tuple[str, list[str]]:
        """(why it was refused, the names that were resolved)."""
        asked: list[str] = []

        def resolver(host: str, port: int) -> list[str]:
            asked.append(host)
            return answers[min(len(asked), len(answers)) - 1]

        fetcher = Fetcher(FetchPolicy(**policy), LIMITS, resolver)  # type: ignore[arg-type]
        try:
            return refusal(fetcher, url), asked
        finally:
            fetcher.close()

    @pytest.mark.parametrize(
        "address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fd00::1", "100.64.3.4", "0.0.0.0"]
    )
    def test_a_public_name_for_a_private_address(self, address: str) -> None:
        text, asked = self.fetch("http://innocent.example/cat.png", [[address]])
        assert "not public" in text and address not in text and asked == ["innocent.example"]

    def test_one_private_address_among_public_ones(self) -> None:
        assert "not public" in self.fetch("http://innocent.example/", [["93.184.216.34", "127.0.0.1"]])[0]

    def test_metadata_even_where_private_is_allowed(self) -> None:
        assert "not public" in self.fetch("http://metadata.example/", [["169.254.169.254"]], allow_private=True)[0]

    @pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "127.1", "localhost", "[::1]", "[::ffff:7f00:1]"])
    def test_other_ways_to_write_loopback(self, host: str, serve: ServerOf) -> None:
        server = serve({"/": body(PNG)})
        fetcher = Fetcher(FetchPolicy(), LIMITS)  # with the real resolver, which knows all of them
        try:
            text = refusal(fetcher, f"http://{host}:8080/")
        finally:
            fetcher.close()
        assert "not public" in text or "cannot be resolved" in text
        assert server.requests == []

    def test_a_name_is_resolved_once_and_that_address_is_connected_to(self, serve: ServerOf) -> None:
        """Rebinding: the second answer of such a resolver would be another one."""
        server = serve({"/": body(PNG)})
        asked: list[str] = []

        def resolver(host: str, port: int) -> list[str]:
            asked.append(host)
            return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

        fetcher = Fetcher(LOOPBACK, LIMITS, resolver)
        assert fetcher.fetch(f"http://rebinding.example:{server.port}/", MediaKind.IMAGE) == PNG
        fetcher.close()
        assert asked == ["rebinding.example"]
        assert f"Host: rebinding.example:{server.port}".encode() in server.requests[0]

    def test_a_redirect_is_checked_like_the_first_url(self, serve: ServerOf) -> None:
        """To another name, which resolves to the metadata service; to the same name, which does now (rebinding between hops)."""
        for target in ("http://second.example/", "/again"):
            server = serve({"/": redirect(target)})
            text, asked = self.fetch(f"http://first.example:{server.port}/", [["127.0.0.1"], ["169.254.169.254"]], allow_private=True)
            assert "not public" in text and len(asked) == 2 and len(server.requests) == 1

    def test_a_redirect_leaves_neither_port_nor_domain_list(self, serve: ServerOf) -> None:
        server = serve({"/": redirect("http://evil.example/")})
        text, asked = self.fetch(
            f"http://good.example:{server.port}/", [["127.0.0.1"]], allow_private=True, allowed_domains=("good.example",)
        )
        assert "not among the domains" in text and asked == ["good.example"]

    def test_ports_and_users_are_refused_before_a_name_is_resolved(self) -> None:
        for url in ("http://a.example:6379/", "http://u:p@a.example/"):
            assert self.fetch(url, [["93.184.216.34"]])[1] == []

    def test_a_resolver_that_hangs_or_fails(self) -> None:
        release = threading.Event()
        fetcher = Fetcher(FetchPolicy(), LIMITS, lambda host, port: [str(release.wait(20))])
        assert "could not be resolved in time" in refusal(fetcher, "http://slow.example/")
        release.set()
        fetcher.close()

        def fails(host: str, port: int) -> list[str]:
            raise OSError("[Errno -2] Name or service not known")

        fetcher = Fetcher(FetchPolicy(), LIMITS, fails)
        assert "cannot be resolved" in refusal(fetcher, "http://nowhere.example/")
        fetcher.close()
        assert "no address" in self.fetch("http://empty.example/", [[]])[0]

    def test_tls_proves_the_name_and_not_the_address(self, serve: ServerOf) -> None:
        server = serve({"/": body(PNG)}, certificate="media.test")
        context = ssl.create_default_context(cafile=str(TLS / "media.test.crt"))
        fetcher = Fetcher(LOOPBACK, LIMITS, lambda host, port: ["127.0.0.1"], context)
        assert fetcher.fetch(server.url("/", "media.test"), MediaKind.IMAGE) == PNG
        assert "does not trust its host's certificate, or it is another host's" in refusal(fetcher, server.url("/", "other.test"))
        fetcher.close()
        distrusting = Fetcher(LOOPBACK, LIMITS, lambda host, port: ["127.0.0.1"])
        assert "does not trust its host's certificate" in refusal(distrusting, server.url("/", "media.test"))
        distrusting.close()

    def test_a_tls_handshake_that_never_ends(self, serve: ServerOf) -> None:
        import socket

        with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts by its backlog, and says nothing
            fetcher = Fetcher(LOOPBACK, LIMITS)
            assert "was not received in time" in refusal(fetcher, f"https://127.0.0.1:{silent.getsockname()[1]}/")
            fetcher.close()


class TestDataUrls:
    def test_the_usual_forms(self, fetcher: Fetcher) -> None:
        text = base64.b64encode(PNG).decode()
        broken = "\n".join(text[i : i + 20] for i in range(0, len(text), 20))
        for url in (f"data:image/png;base64,{text}", f"DATA:;BASE64,{text.rstrip('=')}", f"data:x;charset=y;base64,{broken}"):
            assert fetcher.fetch(url, MediaKind.IMAGE) == PNG
        assert fetcher.fetch("data:image/png;base64," + text.replace("+", "%2B").replace("/", "%2F"), MediaKind.IMAGE) == PNG

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("data:image/png,abc", "not of the form"),
            ("data:image/png;base64", "not of the form"),
            ("data:image/png;base64,!!!!", "not valid base64"),
            ("data:image/png;base64,AAAAA", "not valid base64"),
            ("data:image/png;base64,ä", "not valid base64"),
            ("data:image/png;base64,", "is not an image"),
            ("data:image/png;base64," + base64.b64encode(b"hello, I am no image").decode(), "is not an image"),
            ("data:image/png;base64," + "A" * 140_000, "is larger than 100000 bytes"),
            ("data:image/png;base64," + "A" * 400_000, "is larger than 100000 bytes"),
            ("javascript:alert(1)", "begins with none of"),
            ("cat.png", "begins with none of"),
            ("/etc/passwd", "begins with none of"),
        ],
    )
    def test_what_is_none(self, fetcher: Fetcher, url: str, words: str) -> None:
        assert words in refusal(fetcher, url)

    def test_the_limit_counts_decoded_bytes(self) -> None:
        assert len(decode_base64("A" * 400, 300)) == 300
        with pytest.raises(MediaError):
            decode_base64("A" * 404, 300)


class TestFiles:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        (tmp_path / "open" / "deep").mkdir(parents=True)
        (tmp_path / "open" / "deep" / "a cat.png").write_bytes(PNG)
        (tmp_path / "open-not").mkdir()
        (tmp_path / "open-not" / "cat.png").write_bytes(PNG)
        (tmp_path / "secret.png").write_bytes(PNG)
        (tmp_path / "open" / "link.png").symlink_to(tmp_path / "secret.png")
        (tmp_path / "open" / "out").symlink_to(tmp_path)
        (tmp_path / "open" / "inner.png").symlink_to("deep/a cat.png")
        os.mkfifo(tmp_path / "open" / "fifo.png")
        (tmp_path / "open" / "large.png").write_bytes(PNG + b"\0" * 100_000)
        return tmp_path / "open"

    @pytest.fixture
    def local(self, root: Path) -> Iterator[Fetcher]:
        made = Fetcher(FetchPolicy(local_root=str(root)), LIMITS)
        yield made
        made.close()

    def test_below_the_root(self, local: Fetcher, root: Path) -> None:
        for path in (f"{root}/deep/a%20cat.png", f"{root}/inner.png", f"{root}/deep/../deep/a%20cat.png"):
            assert local.fetch(f"file://{path}", MediaKind.IMAGE) == PNG
        assert local.fetch(f"file://localhost{root}/inner.png", MediaKind.IMAGE) == PNG

    @pytest.mark.parametrize(
        "path",
        [
            "{root}/../secret.png", "{root}/%2e%2e/secret.png", "{root}/link.png", "{root}/out/secret.png", "{root}-not/cat.png",
            "/etc/passwd", "{root}/none.png", "{root}", "{root}/deep", "{root}/fifo.png", "/proc/self/environ", "/dev/zero", "{root}/a%00b",
        ],
    )  # fmt: skip
    def test_outside_and_missing_look_the_same(self, local: Fetcher, root: Path, path: str) -> None:
        text = refusal(local, "file://" + path.format(root=root))
        assert text == "does not exist as a file below the folder that this server reads from (--allowed-local-media-path)"

    def test_another_machine(self, local: Fetcher, root: Path) -> None:
        assert "does not exist" in refusal(local, f"file://server{root}/inner.png")

    def test_too_large(self, local: Fetcher, root: Path) -> None:
        assert "larger than 100000 bytes" in refusal(local, f"file://{root}/large.png")

    def test_none_without_a_root(self, fetcher: Fetcher, root: Path) -> None:
        assert "reads no files" in refusal(fetcher, f"file://{root}/inner.png")
