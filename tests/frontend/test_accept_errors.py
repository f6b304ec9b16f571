"""What is said when the process has no more files for connections."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket

import pytest

from ernie_openai.accept_errors import AcceptErrors


class Full(socket.socket):
    def accept(self) -> tuple[socket.socket, object]:
        raise OSError(errno.EMFILE, "Too many open files")


async def test_asyncio_says_it_once(caplog: pytest.LogCaptureFixture) -> None:
    now = 1000.0
    quiet = AcceptErrors(lambda: now)
    logger = logging.getLogger("asyncio")
    logger.addFilter(quiet)
    try:
        with Full() as listening, socket.socket() as client:
            listening.bind(("127.0.0.1", 0))
            server = await asyncio.get_running_loop().create_server(asyncio.Protocol, sock=listening, backlog=100)
            client.connect(listening.getsockname())
            await asyncio.sleep(0.2)
            assert [record.getMessage() for record in caplog.records] == ["No more connections can be taken: Too many open files."]
            assert not caplog.records[0].exc_info
            server.close()
        logger.error("Something else.")
        now += 11
        logger.error("socket.accept() out of system resource")
        assert len(caplog.records) == 3
    finally:
        logger.removeFilter(quiet)
