"""Feedback on the page, in a real browser: thumbs and notes that stay, and reports of issues."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.browser import open_page
from tests.support.child_processes import serving
from tests.support.page import LAST, ask
from tests.support.studying import reload

pytestmark = pytest.mark.real_sockets

TOKEN = "an-admin-token-of-32-characters-!"
THUMBS = f"[...{LAST}.querySelectorAll('.opinion .tool')].map((one) => one.getAttribute('aria-pressed'))"
LOADED = "performance.getEntriesByType('resource').map((one) => one.name)"
READ = f"{LOADED}.some((name) => name.includes('/v1/feedback?conversation='))"
SAID = f"{LAST}.querySelector('.opinion .said')?.textContent"


@pytest.fixture(scope="module")
def kept(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a service that keeps conversations; yield its address."""
    folder = tmp_path_factory.mktemp("feedback")
    file = folder / "dub5.toml"
    database = f'[database]\nurl = "sqlite:///{folder / "dub5.db"}"\npatience_s = 5.0\nkeep_s = 5.0\n'
    tables = f'[admin]\ntoken_env = "DUB5_ADMIN_TOKEN"\n[session]\n[conversation]\n{database}'
    file.write_text(f"{config.read_text()}\n{tables}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DUB5_ADMIN_TOKEN", TOKEN)
        with serving(file) as (url, _):
            yield url


async def given(url: str) -> list[dict[str, Any]]:
    """Return what the operator reads."""
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with (
        aiohttp.ClientSession(headers=headers) as client,
        client.get(f"{url}/admin/feedback") as reply,
    ):
        assert reply.status == 200, await reply.text()
        return list((await reply.json())["data"])


async def test_a_thumb_stays(browser: str, kept: str) -> None:
    """A thumb and its note reach the operator, with who answered; the thumb is shown again after a reload,
    and the other one takes its place."""
    async with open_page(browser, kept) as page:
        assert await ask(page, "Name three rivers.") == "whole"
        await page.until(f"({THUMBS}).length === 2")
        assert await page.evaluate(THUMBS) == ["false", "false"]

        await page.evaluate(f"{LAST}.querySelector('[aria-label=\\'Bad answer\\']').click()")
        await page.until(f"{SAID} === 'Thank you.'")
        await page.evaluate(f"{LAST}.querySelector('.opinion input').focus()")
        await page.type("Only two are rivers.")
        await page.until(f"{LAST}.querySelector('.opinion-note').hidden")
        (one,) = await given(kept)
        assert (one["kind"], one["value"], one["note"]) == ("answer", -1, "Only two are rivers.")
        assert one["target"] == "one/gpt-sim"

        # The tab forgets it: what is shown then comes from the service.
        await page.evaluate("sessionStorage.clear(), (Storage.prototype.setItem = () => {}), true")
        await reload(page)
        await page.until(f'{LAST} && JSON.stringify({THUMBS}) === \'["false","true"]\'')
        await page.evaluate(f"{LAST}.querySelector('[aria-label=\\'Good answer\\']').click()")
        while (one := (await given(kept))[0])["value"] != 1:
            await page.evaluate("1")
        await page.until(f'JSON.stringify({THUMBS}) === \'["true","false"]\'')
        assert one["note"] is None
        assert page.errors == []


async def test_an_issue(browser: str, kept: str) -> None:
    """An issue is reported in words, from a button below the question."""
    async with open_page(browser, kept) as page:
        await page.until("!document.querySelector('#model').disabled")
        await page.evaluate("document.querySelector('#report').click()")
        await page.until(
            "document.activeElement.tagName === 'TEXTAREA' && document.activeElement.closest('dialog')"
        )
        await page.call("Input.insertText", text="The page is upside down.")
        await page.evaluate("document.querySelector('dialog[open] [type=submit]').click()")
        await page.until("document.querySelector('dialog [role=status]')?.textContent.startsWith('Sent.')")
        issues = [one["note"] for one in await given(kept) if one["kind"] == "issue"]
        assert issues == ["The page is upside down."]
        assert await page.evaluate("document.activeElement.textContent") == "Close"
        assert page.errors == []


async def test_without_conversations(browser: str, service: str) -> None:
    """Where nothing is kept, a thumb names the request of its answer, and the tab shows it after a reload."""
    async with open_page(browser, service) as page:
        assert await ask(page, "Name three lakes.") == "whole"
        await page.until(f"({THUMBS}).length === 2")
        await page.evaluate(f"{LAST}.querySelector('[aria-label=\\'Good answer\\']').click()")
        await page.until(f"{SAID} === 'Thank you.'")
        await reload(page)
        await page.until(f'{LAST} && JSON.stringify({THUMBS}) === \'["true","false"]\'')
        assert page.errors == []
