"""The page behind a relay that a test cuts, and a service whose provider says what the test tells it to."""

import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.browser import BrowserTab, open_page
from tests.support.child_processes import serving
from tests.support.machine import free_port
from tests.support.paced_provider import PacedProvider, paced_provider
from tests.support.page import LAST, STATE
from tests.support.relay import Relay, relaying

HANDSHAKE = b"GET /v1/ws"
QUESTION = "document.querySelector('#question')"
ANSWERS = "[...document.querySelectorAll('.turn .text')].map((answer) => answer.textContent)"
STATES = "[...document.querySelectorAll('.turn .answer')].map((answer) => answer.dataset.state)"
QUESTIONS = "[...document.querySelectorAll('.turn .question')].map((q) => q.lastChild.textContent)"
SETTINGS = """
[session]
[conversation]
{conversation}
[database]
url = "sqlite:///{database}"
patience_s = 5.0
keep_s = 5.0
[[provider]]
name = "paced"
dialect = "openai"
base_url = "{provider}/v1"
key_env = ["DUB5_TEST_KEY"]
[[route]]
name = "chat"
targets = ["paced/m"]
"""


@dataclass
class RelayedPage:
    """A page, and what is behind it."""

    page: BrowserTab
    relay: Relay
    provider: PacedProvider
    process: "subprocess.Popen[str]"
    config: Path
    port: int

    @contextmanager
    def restarted(self) -> Iterator[None]:
        """Run the service again, once it has ended."""
        self.process.wait()
        with serving(self.config, self.port):
            yield

    async def ask(self, question: str) -> None:
        """Type a question, and send it."""
        page = self.page
        await page.until("!document.querySelector('#model').disabled")
        await page.evaluate(f"{QUESTION}.focus()")
        await page.type(question)
        await page.until(f"{LAST}?.querySelector('.question').textContent.endsWith({json.dumps(question)})")

    async def shows(self, text: str) -> None:
        """Wait until the last answer has this text."""
        await self.page.until(f"{LAST}?.querySelector('.text').textContent === {json.dumps(text)}")

    async def says(self, selector: str, text: str) -> None:
        """Wait until a part of the last turn has this text in it."""
        await self.page.until(
            f"{LAST}?.querySelector({json.dumps(selector)})?.textContent.includes({json.dumps(text)})"
        )

    async def is_in_state(self, state: str) -> None:
        """Wait until the last answer is in a state."""
        await self.page.until(f"{STATE} === {json.dumps(state)}")

    async def list(self, expression: str, value: list[str]) -> None:
        """Wait until an expression has a value."""
        wanted = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        await self.page.until(f"JSON.stringify({expression}) === {json.dumps(wanted)}")

    async def press(self, label: str) -> None:
        """Press a button by its text."""
        button = (
            f"[...document.querySelectorAll('button')].find((b) => b.textContent === {json.dumps(label)})"
        )
        await self.page.until(f"{button} !== undefined && !{button}.disabled")
        await self.page.evaluate(f"{button}.click()")

    async def reload(self) -> None:
        """Load the page again."""
        await self.page.evaluate("window.isOld = true")
        await self.page.call("Page.reload")
        await self.page.until("window.isOld === undefined && document.readyState === 'complete'")


@asynccontextmanager
async def relayed_page(
    browser: str, folder: Path, *, socket: bool = True, settings: str = "", conversation: str = ""
) -> AsyncIterator[RelayedPage]:
    """Show the page of a service. `socket`: whether the way there lets WebSockets through."""
    port = free_port()
    async with paced_provider() as provider, relaying(f"http://127.0.0.1:{port}") as relay:
        if not socket:
            relay.refused = HANDSHAKE
        config = folder / "relayed.toml"
        text = SETTINGS.format(database=folder / "dub5.db", provider=provider.url, conversation=conversation)
        config.write_text(settings + text, encoding="utf-8")
        with serving(config, port) as (_, process):
            async with open_page(browser, relay.url) as page:
                yield RelayedPage(page, relay, provider, process, config, port)
