"""A headless Chromium, driven through its own protocol: no driver, nothing to download. Knows no page of ours."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_START_SECONDS = 60.0


def find_browser() -> str | None:
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._last_id = 0
        self.problems: list[str] = []
        """What the console said of errors, refused by the policy or thrown."""
        self.requested: list[str] = []
        """URLs that were asked for."""

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last_id += 1
        wanted = self._last_id
        await self._socket.send_json({"id": wanted, "method": method, "params": parameters})
        while True:
            message = json.loads((await self._socket.receive(timeout=60)).data)
            if message.get("id") == wanted:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        if message["method"] == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.problems.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")
        elif message["method"] == "Runtime.exceptionThrown":
            self.problems.append(str(parameters["exceptionDetails"]))
        elif message["method"] == "Network.requestWillBeSent":
            self.requested.append(parameters["request"]["url"])

    async def open(self, url: str) -> None:
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)
        await self.wait_for("document.readyState === 'complete'")

    async def evaluate(self, expression: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def wait_for(self, expression: str, seconds: float = 30.0) -> Any:
        """The expression's value once it is true."""
        for _ in range(int(seconds / 0.1)):
            if found := await self.evaluate(expression):
                return found
            await asyncio.sleep(0.1)
        raise AssertionError(f"never true: {expression}; problems: {self.problems}; text: {await self.evaluate('document.body.innerText')}")

    async def type(self, selector: str, text: str) -> None:
        """As a keyboard does."""
        await self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        await self.call("Input.insertText", text=text)

    async def press_enter(self) -> None:
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")

    async def choose_file(self, selector: str, path: Path) -> None:
        document = await self.call("DOM.getDocument")
        node = await self.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector=selector)
        await self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node["nodeId"])

    async def show_as(self, width: int, height: int, *, dark: bool) -> None:
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def picture(self) -> bytes:
        """PNG of the whole page."""
        return base64.b64decode((await self.call("Page.captureScreenshot", captureBeyondViewport=True))["data"])


@contextlib.asynccontextmanager
async def browser_page(program: str) -> AsyncIterator[Page]:
    """An empty tab of a browser of its own, which ends with it."""
    with tempfile.TemporaryDirectory(prefix="ernie-browser-", ignore_cleanup_errors=True) as folder:
        command = [program, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={folder}", "--no-first-run", "--disable-gpu"]
        command += [
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "about:blank",
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            port = await _port(Path(folder) / "DevToolsActivePort", process)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                    tab = next(target for target in await answer.json() if target["type"] == "page")
                async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    yield Page(socket)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


async def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    for _ in range(int(_START_SECONDS / 0.1)):
        with contextlib.suppress(OSError):
            lines = file.read_text().splitlines()
            if len(lines) > 1:
                return int(lines[0])
        assert process.poll() is None, f"the browser ended with {process.returncode}"
        await asyncio.sleep(0.1)
    raise AssertionError("the browser does not answer")
