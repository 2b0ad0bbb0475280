"""Documents and flashcards as a person has them on the page: settings, and what is done there."""

import base64
import json
from pathlib import Path

from tests.support.browser import BrowserTab

DOCUMENTS = "[...document.querySelectorAll('.listing:nth-of-type(2) .thing:not(.ghost)')]"
NAMES = f"{DOCUMENTS}.map((row) => row.querySelector('.name').textContent)"


def tables(folder: Path) -> str:
    """Return the settings of documents, in a database of their own."""
    database = f'[database]\nurl = "sqlite:///{folder / "dub5.db"}"\npatience_s = 5.0\nkeep_s = 5.0\n'
    return f"\n[session]\n[conversation]\n[documents]\nbytes_max = 200_000\n{database}"


async def drop(page: BrowserTab, **files: bytes) -> None:
    """Drop files onto the page, named as `biology_pdf`."""
    given = [[name.replace("_", "."), base64.b64encode(data).decode()] for name, data in files.items()]
    await page.evaluate(
        f"""(() => {{
          const carried = new DataTransfer();
          for (const [name, data] of {json.dumps(given)})
            carried.items.add(new File([Uint8Array.from(atob(data), (one) => one.charCodeAt(0))], name));
          const event = new DragEvent("drop", {{ dataTransfer: carried, bubbles: true, cancelable: true }});
          document.querySelector(".library").dispatchEvent(event);
        }})()"""
    )


async def connect(page: BrowserTab, on: bool) -> None:
    """Give a page its network, or take it away."""
    await page.call("Network.enable")
    rates = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    await page.call("Network.emulateNetworkConditions", offline=not on, **rates)


async def press(page: BrowserTab, text: str) -> None:
    """Press the visible button with this text in the place of documents."""
    buttons = "[...document.querySelectorAll('#study button, dialog button')]"
    found = f"{buttons}.find((one) => one.textContent === {json.dumps(text)} && !one.hidden)"
    await page.until(f"{found} !== undefined")
    await page.evaluate(f"{found}.click()")
