"""Documents and flashcards as a person has them on the page: settings, and what is done there."""

import base64
import json
from pathlib import Path

from tests.support.browser import BrowserTab

DOCUMENTS = "[...document.querySelectorAll('.listing:nth-of-type(2) .thing:not(.ghost)')]"
FILLING = "and was found in the year in which nobody had looked for it at all"
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


def chapters(count: int) -> list[str]:
    """Return the pages of a text that is read in as many parts."""
    return [
        "\n".join(
            f"Plant {page}.{row} is a herb that grows {page * row} metres high, {FILLING}."
            for row in range(1, 21)
        )
        for page in range(1, count + 1)
    ]


async def upload(page: BrowserTab, name: str, data: bytes) -> None:
    """Show the documents, drop one, and wait until it is there."""
    await page.until("!document.querySelector('#to-documents').hidden")
    await page.evaluate("document.querySelector('#to-documents').click()")
    await page.until("document.querySelector('.drop') !== null")
    await drop(page, **{name.replace(".", "_"): data})
    await page.until(f"{NAMES}.includes({json.dumps(name)})")


async def make_deck(page: BrowserTab, cards: int) -> None:
    """Make a deck of the newest document, and wait until its place is shown."""
    await press(page, "Make cards")
    await page.until("document.activeElement.type === 'number'")
    await page.call("Input.insertText", text=str(cards))
    await press(page, "Make them")
    await page.until("location.hash.startsWith('#decks/')")


async def key(page: BrowserTab, name: str, text: str = "") -> None:
    """Press a key and let it go."""
    await page.call("Input.dispatchKeyEvent", type="keyDown", key=name, code=name, text=text)
    await page.call("Input.dispatchKeyEvent", type="keyUp", key=name, code=name)


async def reload(page: BrowserTab) -> None:
    """Load the page again, and wait until the old one is gone."""
    await page.evaluate("window.isOld = true")
    await page.call("Page.reload")
    while True:
        try:
            return await page.until("!window.isOld && document.readyState === 'complete'")
        except AssertionError as error:  # the old page went while it was asked
            if "navigated" not in str(error):
                raise
