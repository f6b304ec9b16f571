"""An HTTP server on loopback that does what one asks of it by path, mostly harm; each connection has a thread of its own."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

TLS = Path(__file__).with_name("tls")
PNG = bytes.fromhex(  # 1 × 1, grey
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000 3a7e9b55 0000000a49444154 78da6360000000020001 e221bc33"
    "0000000049454e44ae426082".replace(" ", "")
)
Answer = Callable[[socket.socket, "HostileServer"], None]


def body(data: bytes, kind: str = "image/png", *, more: str = "") -> Answer:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n{more}\r\n".encode()
    return lambda connection, _: connection.sendall(head + data)


def status(line: str, *headers: str) -> Answer:
    lines = "".join(f"{header}\r\n" for header in headers)
    return lambda connection, _: connection.sendall(f"HTTP/1.1 {line}\r\n{lines}Content-Length: 0\r\n\r\n".encode())


def redirect(location: str) -> Answer:
    return status("302 Found", f"Location: {location}")


class HostileServer:
    """`answers`: path → what to do with the connection once the request is read. Paths that are missing get 404."""

    def __init__(self, answers: dict[str, Answer], certificate: str | None = None) -> None:
        self.answers = answers
        self.requests: list[bytes] = []
        """The heads that came, in order."""
        self.stopping = threading.Event()
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(TLS / f"{certificate}.crt", TLS / f"{certificate}.key")
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{'https' if self._context else 'http'}://{host}:{self.port}{path}"

    def close(self) -> None:
        self.stopping.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join(10)

    def drip(self, connection: socket.socket, data: Iterator[bytes], seconds: float = 0.05) -> None:
        """Send a little at a time until there is no more or nobody wants it."""
        for piece in data:
            connection.sendall(piece)
            if self.stopping.wait(seconds):
                return

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(20)
            stream = self._context.wrap_socket(connection, server_side=True) if self._context else connection
            head = b""
            while b"\r\n\r\n" not in head:
                block = stream.recv(65536)
                if not block:
                    return
                head += block
            self.requests.append(head)
            path = head.split(b" ")[1].decode()
            self.answers.get(path, status("404 Not Found"))(stream, self)
