"""A real browser for a test: Chromium, driven over its DevTools websocket. No driver, no download.

with chromium() as address:                     one process, its own empty profile
    async with open_page(address, url) as page:  a tab; `page.errors` holds all it complained about
        await page.until("document.title === 'DUB5'")
"""

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import pytest

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
WAIT_MAX_S = 20.0
KEY_ENTER = {"key": "Enter", "code": "Enter", "text": "\r", "windowsVirtualKeyCode": 13}


def find_chromium() -> str:
    """Return the path of Chromium. Without one: a loud skip, and a failure under CI=true."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is not None:
        return found
    missing = f"no browser: none of {', '.join(NAMES)} is installed, so the page was not tried for real"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


@contextmanager
def chromium() -> Iterator[str]:
    """Run a browser process; yield the address of its websocket."""
    program = find_chromium()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as process:
            try:
                yield _address(process)
            finally:
                process.terminate()


def _address(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if line.startswith("DevTools listening on "):
            return line.removeprefix("DevTools listening on ").strip()
    raise AssertionError(f"the browser ended before it listened:\n{said}")


class BrowserTab:
    """A tab, with its console errors."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.errors: list[str] = []
        self.session: str | None = None
        self._socket = socket
        self._calls: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a DevTools command and return its result."""
        number = len(self._calls)
        self._calls[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params}
        await self._socket.send_json(message | ({"sessionId": self.session} if self.session else {}))
        return await asyncio.wait_for(self._calls[number], WAIT_MAX_S)

    async def evaluate(self, script: str) -> Any:
        """Evaluate an expression in the page, awaited if it is a promise, and return its value."""
        said = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in said:
            raise AssertionError(f"{script}\n{json.dumps(said['exceptionDetails'], indent=1)[:2000]}")
        return said["result"].get("value")

    async def until(self, condition: str) -> None:
        """Check the condition at each frame until it holds."""
        look = f"const look = () => ({condition}) ? ok() : requestAnimationFrame(look); look();"
        try:
            await self.evaluate(f"new Promise((ok) => {{ {look} }})")
        except TimeoutError:
            shown = await self.evaluate("document.body.innerText")
            raise AssertionError(f"never came: {condition}\nerrors: {self.errors}\n{shown}") from None

    async def type(self, text: str) -> None:
        """Type into the focused element, and press Enter."""
        await self.call("Input.insertText", text=text)
        await self.call("Input.dispatchKeyEvent", type="keyDown", **KEY_ENTER)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **KEY_ENTER)

    async def listen(self) -> None:
        """Route results to their callers and collect errors, until the socket closes."""
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                self._answered(said)
            elif complaint := _complaint(said["method"], said.get("params", {})):
                self.errors.append(complaint)

    def _answered(self, said: dict[str, Any]) -> None:
        call = self._calls[said["id"]]
        if call.done():  # its caller has timed out
            return
        if "error" in said:
            call.set_exception(AssertionError(said["error"]["message"]))
        else:
            call.set_result(said["result"])


def _complaint(method: str, params: dict[str, Any]) -> str | None:
    match method:
        case "Runtime.exceptionThrown":
            return f"exception: {json.dumps(params['exceptionDetails'])[:1000]}"
        case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
            return f"console.{params['type']}: {[a.get('value') for a in params['args']]}"
        case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
            return f"{params['entry']['source']}: {params['entry']['text']} {params['entry'].get('url', '')}"
    return None


@asynccontextmanager
async def open_page(address: str, url: str) -> AsyncIterator[BrowserTab]:
    """Open a fresh tab that shows `url`; record its errors from the first moment."""
    async with aiohttp.ClientSession() as client, client.ws_connect(address, max_msg_size=0) as socket:
        page = BrowserTab(socket)
        listening = asyncio.create_task(page.listen())
        try:
            context = (await page.call("Target.createBrowserContext"))["browserContextId"]
            target = await page.call("Target.createTarget", url="about:blank", browserContextId=context)
            attached = await page.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
            page.session = attached["sessionId"]
            for domain in ("Runtime", "Log", "Page"):
                await page.call(f"{domain}.enable")
            await page.call("Page.navigate", url=url)
            await page.until(
                f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'"
            )
            yield page
        finally:
            listening.cancel()
