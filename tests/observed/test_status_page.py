"""The status page in a real browser: numbers that come alive, a chat that streams, images, thoughts, calls, and text that stays text."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from ernie_backend.cli.background import RunningServer
from tests.e2e.test_images_and_tools import ZOOM
from tests.e2e.test_media import CAT
from tests.media.conftest import encoded
from tests.observed.browser import Page, browser_page, find_browser
from tests.observed.conftest import API_KEY

BROWSER = find_browser()
in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")
ANSWERED = "document.querySelectorAll('.message.assistant .foot').length"
NOTE_LENGTHS = """
    lengths = new Set();
    new MutationObserver(() => lengths.add((document.querySelector('.message.assistant .text') ?? {textContent: ''}).textContent.length))
        .observe(document.body, {childList: true, subtree: true, characterData: true});
    0
"""
"""The page itself notes every state that the answer's text has been in: whoever asks from outside may be too slow to see more than two."""


@pytest.fixture
async def page(server: RunningServer) -> AsyncIterator[Page]:
    """The page, opened by someone who has typed in the key."""
    assert BROWSER is not None
    async with browser_page(BROWSER) as made:
        await made.show_as(1280, 900, dark=False)
        await made.open(f"{server.openai_url}/")
        await made.type("#key", API_KEY)
        await made.evaluate("document.querySelector('#key').blur()")
        yield made


async def keep_picture(page: Page, name: str) -> None:
    """Where the one who runs the tests wants to look at them."""
    folder = os.environ.get("ERNIE_TEST_PICTURES")
    if folder:
        await asyncio.to_thread(Path(folder, f"{name}.png").write_bytes, await page.picture())


async def say(page: Page, text: str, *, answers: int = 1) -> None:
    await page.type("#prompt", text)
    await page.press_enter()
    await page.wait_for(f"{ANSWERED} === {answers}", 60)


def test_the_page_needs_no_key_and_lets_nothing_in(server: RunningServer) -> None:
    answer = httpx.get(f"{server.openai_url}/")
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';") and "unsafe" not in policy and "http" not in policy
    for part in ("page.css", "page.js", "chat.js", "metrics.js"):
        content = httpx.get(f"{server.openai_url}/status/{part}")
        assert content.status_code == 200 and "://" not in content.text and "innerHTML" not in content.text, part
    assert httpx.get(f"{server.openai_url}/status/app.py").status_code == 404


@in_a_browser
async def test_numbers_and_a_chat(page: Page, server: RunningServer) -> None:
    await page.wait_for("document.querySelector('#state').textContent === 'ready'")
    model = await page.wait_for("document.querySelector('#model').textContent !== 'ernie-triton' && document.title")
    assert model.endswith(" · ernie-triton")
    assert "of" in await page.wait_for("document.querySelector('#kv-blocks').textContent")
    await page.evaluate("document.querySelector('#max-tokens').value = 120")
    await page.evaluate("document.querySelector('#thinking').value = 'false'")
    await page.evaluate(NOTE_LENGTHS)
    await page.type("#prompt", "Tell me <b>something</b> <img src=x onerror=alert(1)>")
    await page.press_enter()
    await page.wait_for(ANSWERED, 60)
    assert await page.evaluate("lengths.size") > 2, "the answer grows while it comes"
    assert "tokens/s" in await page.evaluate("document.querySelector('.foot').textContent")
    assert (
        await page.evaluate("document.querySelector('.message.user').textContent")
        == "Tell me <b>something</b> <img src=x onerror=alert(1)>"
    )
    assert await page.evaluate("document.querySelectorAll('.message.user b, .message.user img').length") == 0
    await page.wait_for("Number(document.querySelector('#generated').textContent) > 0")
    await page.wait_for("Number(document.querySelector('#ttft').textContent.replace(',', '')) > 0")
    await keep_picture(page, "wide-light")
    await page.show_as(390, 844, dark=True)
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390, "a phone need not scroll sideways"
    await keep_picture(page, "phone-dark")
    assert page.problems == [] or all("401" in problem for problem in page.problems)  # before the key was typed in
    assert {url.split("/", 3)[2] for url in page.requested if not url.startswith(("data:", "about:"))} == {server.openai_url.split("/")[2]}


@in_a_browser
async def test_images_thoughts_and_calls(page: Page, tmp_path: Path) -> None:
    picture = tmp_path / "cat.png"
    await asyncio.to_thread(picture.write_bytes, encoded(CAT))
    await page.wait_for("!document.querySelector('#attach-label').hidden")
    await page.choose_file("#image", picture)
    await page.wait_for("!document.querySelector('#attached').hidden && document.querySelector('#preview').naturalWidth > 0")
    await page.evaluate("document.querySelector('#max-tokens').value = 40")
    await say(page, "What is in the corner?")
    assert await page.evaluate("document.querySelector('.message.user img').naturalWidth") > 0
    assert await page.evaluate("document.querySelector('.thought .text').textContent.length") > 0
    assert await page.evaluate("document.querySelector('.thought summary').textContent") == "Thought"
    await page.evaluate("document.querySelector('#clear').click()")
    await page.evaluate(f"document.querySelector('#tools').value = {json.dumps(json.dumps([ZOOM]))}")
    await page.evaluate("document.querySelector('#thinking').value = 'false'")
    await page.evaluate("document.querySelector('#max-tokens').value = 200")
    await page.evaluate(_with_field("tool_choice", "required"))
    await say(page, "Zoom in")
    assert await page.evaluate("document.querySelector('.call b').textContent") == "image_zoom_in_tool"
    assert "bbox_2d" in json.loads(await page.evaluate("document.querySelector('.call pre').textContent"))
    await keep_picture(page, "calls")


@in_a_browser
async def test_what_goes_wrong_is_said(page: Page) -> None:
    await page.evaluate("document.querySelector('#max-tokens').value = 1000000")
    await say(page, "Hello")
    assert "max_tokens is 1000000" in await page.evaluate("document.querySelector('.error').textContent")
    await page.evaluate("document.querySelector('#max-tokens').value = 3900")
    await page.evaluate(_with_field("ignore_eos", True))
    await page.type("#prompt", "Write on and on")
    await page.press_enter()
    await page.wait_for("document.querySelectorAll('.message.assistant .text').length > 0")
    await page.evaluate("document.querySelector('#stop').click()")
    await page.wait_for("[...document.querySelectorAll('.error')].at(-1).textContent === 'Stopped.'")
    await page.evaluate("document.querySelector('#tools').value = '[{'")
    await page.type("#prompt", "Hello")
    await page.press_enter()
    assert await page.wait_for("document.querySelector('#tools').validationMessage") == "This is not JSON."


def _with_field(name: str, value: object) -> str:
    """Random weights call no tool by themselves, and may end at once: one more field in what the page sends."""
    return (
        "(() => { const send = window.fetch; window.fetch = (url, options) => { if (options?.body) options.body = "
        f"JSON.stringify({{...JSON.parse(options.body), {json.dumps(name)}: {json.dumps(value)}}}); return send(url, options); }}; }})()"
    )
