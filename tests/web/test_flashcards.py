"""Flashcards on the page, in a real browser: they come one part after the other, whatever happens."""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.browser import BrowserTab, open_page
from tests.support.child_processes import serving
from tests.support.page import PERSONAS, SimulatedProviders
from tests.support.pdf_files import make_pdf
from tests.support.studying import chapters, key, make_deck, press, reload, tables, upload

pytestmark = pytest.mark.real_sockets

PARTS, CARDS = 3, 9
STATE = "(document.querySelector('.making .state')?.textContent ?? '')"
COUNT = "(document.querySelector('.flashcards .count')?.textContent ?? '')"
FRONT, BACK, QUOTE = (
    f"document.querySelector('.flashcards {part}')" for part in (".front", ".back", "blockquote")
)
MADE = "!document.querySelector('.flashcards .made .badge').hidden"


@pytest.fixture(scope="module")
def served(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a service that keeps documents; yield its address."""
    folder = tmp_path_factory.mktemp("flashcards")
    file = folder / "dub5.toml"
    file.write_text(config.read_text() + tables(folder))
    with serving(file) as (url, _):
        yield url


@pytest.fixture
def studying(config: Path, tmp_path: Path) -> Path:
    """Return settings with documents, in a database of this test."""
    file = tmp_path / "dub5.toml"
    file.write_text(config.read_text() + tables(tmp_path))
    return file


@asynccontextmanager
async def faulty(providers: SimulatedProviders, **fault: object) -> AsyncIterator[None]:
    """Give all providers a fault, for as long as the block takes."""
    try:
        for name in PERSONAS:
            await providers.fault(name, **fault)
        yield
    finally:
        for name in PERSONAS:
            await providers.fault(name)


async def cards(page: BrowserTab) -> int:
    """Return how many cards there are."""
    return int((await page.evaluate(COUNT)).rpartition(" ")[2])


async def test_a_deck(browser: str, studying: Path, providers: SimulatedProviders) -> None:
    """Cards come as they are made. The service is killed in between and started again: the open page says so,
    and goes on to the end by itself. The cards are read by keys, with their quotes, and after a reload."""
    with serving(studying) as (url, service):
        async with open_page(browser, url) as page:
            await upload(page, "plants.pdf", make_pdf(chapters(PARTS)))
            async with faulty(providers, kind="stall", before="first_token", s=1.0):
                await make_deck(page, CARDS)
                await page.until(f"{COUNT}.startsWith('Card 1 of ')")
                assert await page.evaluate("document.querySelector('#study h2').textContent") == "plants"
                first = await page.evaluate(f"{FRONT}.textContent")
                assert f"of {PARTS}" in await page.evaluate(STATE)
                before = await cards(page)
                assert before < CARDS
                service.kill()
                service.wait()
            await page.until(f"{STATE}.startsWith('The connection is lost.')")
            assert await cards(page) == before
            with serving(studying, urlsplit(url).port or 0):
                await page.until(f"{STATE}.includes('within half a minute')")
                end_leases(studying.with_name("dub5.db"))
                await page.until(f"{STATE} === 'All parts are done.'")
                assert await cards(page) == CARDS
                assert await page.evaluate(f"{FRONT}.textContent") == first
                await reads_by_keys(page)
                page.errors.clear()  # the browser's, about the time without a service
                await reload(page)
                await page.until(f"{COUNT} === 'Card 1 of {CARDS}'")
                assert page.errors == []


def end_leases(database: Path) -> None:
    """Let the leases of the process that was killed end now, not in half a minute."""
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE job SET run_at = 0")
    connection.close()


async def reads_by_keys(page: BrowserTab) -> None:
    """Flip the first card, and turn to the next one and back."""
    first = await page.evaluate(f"{FRONT}.textContent")
    assert await page.evaluate(f"{BACK}.hidden && {QUOTE}.hidden")
    await key(page, " ", " ")
    await page.until(f"!{BACK}.hidden && !{QUOTE}.hidden")
    assert first.startswith("What is plant 1.1")
    assert "metres high" in await page.evaluate(f"{QUOTE}.textContent")
    await key(page, "ArrowRight")
    assert await page.evaluate(COUNT) == f"Card 2 of {CARDS}"
    assert await page.evaluate(f"{BACK}.hidden")
    await key(page, "ArrowLeft")
    await key(page, "ArrowLeft")
    assert await page.evaluate(COUNT) == f"Card 1 of {CARDS}"


async def test_no_provider(browser: str, served: str, providers: SimulatedProviders, tmp_path: Path) -> None:
    """While no provider answers, the cards are made from the text alone, and say so; once one answers, a
    button asks again for these. The cards are downloaded, and deleted."""
    async with open_page(browser, served) as page:
        await upload(page, "plants.txt", chapters(1)[0].encode())
        async with faulty(providers, kind="status", status=503):
            await make_deck(page, 5)
            await page.until(f"{STATE} === 'All parts are done.'")
            assert await page.evaluate(MADE)
            said = await page.evaluate("document.querySelector('.deck > .flag').textContent")
            assert "1 of 1 parts were made from the text alone, without a model" in said
            await press(page, "Ask again for these")
            await page.until("document.querySelector('.deck > .problem').textContent.startsWith('No model')")
        await press(page, "Ask again for these")
        await page.until(f"!({MADE}) && {STATE} === 'All parts are done.'")
        assert await page.evaluate("document.querySelector('.deck > .flag').hidden")
        assert await page.evaluate("document.querySelector('.deck > .problem').textContent") == ""

        await page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        await press(page, "Download for Anki")
        await press(page, "Download as CSV")
        while len(list(tmp_path.glob("plants.*"))) < 2:
            await page.evaluate("1")
        await press(page, "Delete")
        await page.evaluate("document.querySelector('dialog[open] [value=yes]').click()")
        await page.until("location.hash === '#documents'")
        await page.until(
            "document.querySelector('.listing:nth-of-type(3) .hint').textContent.startsWith('None')"
        )
        assert (tmp_path / "plants.csv").read_text().count("\n") == 5 + 1
        assert "#separator" in (tmp_path / "plants.txt").read_text()
        assert page.errors == []


async def test_stopped(browser: str, served: str, providers: SimulatedProviders) -> None:
    """A deck that is stopped keeps the cards that are there, and goes on where it was."""
    async with open_page(browser, served) as page:
        await upload(page, "plants.pdf", make_pdf(chapters(PARTS)))
        async with faulty(providers, kind="stall", before="first_token", s=1.0):
            await make_deck(page, CARDS)
            await page.until(f"{COUNT}.startsWith('Card 1 of ')")
            await press(page, "Stop")
            await page.until(f"{STATE} === 'It was stopped. The cards that are there stay.'")
        before = await cards(page)
        assert before < CARDS
        await press(page, "Go on")
        await page.until(f"{STATE} === 'All parts are done.'")
        assert await cards(page) == CARDS
        assert page.errors == []
