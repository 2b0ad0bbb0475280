"""The JavaScript of docs/use/examples/ in a page: in a real browser, with the cookie of its session alone."""

import json
from pathlib import Path

import pytest

from tests.support.browser import BrowserTab
from tests.support.relayed_page import relayed_page
from tests.support.source import ROOT

pytestmark = pytest.mark.real_sockets

EXAMPLES = ROOT / "docs" / "use" / "examples"
START = """{{
{source}
window.said = ""; window.noted = []; window.isWhole = null;
ask("Why?", {{
  url: location.origin,
  write: (piece, before) => (window.said = before + piece),
  note: (line) => window.noted.push(line),
  stop: new AbortController().signal,
}}).then((isWhole) => (window.isWhole = isWhole));
0; }}"""


@pytest.mark.parametrize("name", ["chat_events.mjs", "chat_websocket.mjs"])
async def test_a_lost_connection(browser: str, tmp_path: Path, name: str) -> None:
    """In mid-answer the network goes and comes back: the page has each word once, and knows it."""
    program, _, _ = (EXAMPLES / name).read_text(encoding="utf-8").partition("if (globalThis.process)")
    async with relayed_page(browser, tmp_path) as at:
        await at.page.until("!document.querySelector('#model').disabled")  # the page has begun its session
        await at.page.evaluate(START.format(source=program.replace("export async", "async")))
        at.provider.say("Grüße, ", "von der ")
        await says(at.page, "Grüße, von der ")
        at.relay.cut()
        at.provider.say("\N{WHALE} ")
        await at.page.until("window.noted.length > 0")
        at.relay.mend()
        await says(at.page, "Grüße, von der \N{WHALE} ")
        at.provider.say("Meer.")
        at.provider.end()
        await at.page.until("window.isWhole === true")
        await says(at.page, "Grüße, von der \N{WHALE} Meer.")
        assert at.provider.asked == ["Why?"]


async def says(page: BrowserTab, text: str) -> None:
    await page.until(f"window.said === {json.dumps(text)}")
