"""Questions without a network wait in the browser, and are asked once: over a relay that is cut."""

import asyncio
from pathlib import Path

import pytest

from tests.support.page import LAST
from tests.support.relayed_page import (
    ANSWERS,
    QUESTION,
    QUESTIONS,
    STATES,
    RelayedPage,
    relayed_page,
)

pytestmark = pytest.mark.real_sockets

FIRST, SECOND, THIRD = "Name three rivers.", "And three lakes?", "Which is the deepest?"
BOX = f"{QUESTION}.value"
WAITING = "JSON.parse(localStorage.getItem('dub5.waiting') ?? '[]').map((one) => one.text)"
TITLES = "[...document.querySelectorAll('#conversations .title')].map((title) => title.textContent)"
ROOM = "document.querySelector('#room').textContent"
BANNER = "!document.querySelector('#offline').hidden"
CARRIERS = pytest.mark.parametrize("socket", [True, False], ids=["socket", "events"])


async def is_offline(at: RelayedPage) -> None:
    """Cut the relay, once the page is there."""
    await at.page.until("!document.querySelector('#model').disabled")
    at.relay.cut()


async def has_answers(at: RelayedPage, *texts: str) -> None:
    """See these answers, each of them whole."""
    await at.list(STATES, ["whole"] * len(texts))
    assert await at.page.evaluate(ANSWERS) == list(texts)


@CARRIERS
async def test_asked_once(browser: str, tmp_path: Path, socket: bool) -> None:
    """Questions asked offline are shown as waiting, and asked once when the network is back, in their order
    and in one conversation."""
    async with relayed_page(browser, tmp_path, socket=socket) as at:
        await is_offline(at)
        await at.ask(FIRST)
        await at.says(".by", "Waiting for the network")
        await at.ask(SECOND)
        await at.list(STATES, ["queued", "queued"])
        assert await at.page.evaluate(WAITING) == [FIRST, SECOND]
        at.provider.reply("The Rhine.", "The Caspian.")
        at.relay.mend()
        await has_answers(at, "The Rhine.", "The Caspian.")
        assert await at.page.evaluate(QUESTIONS) == [FIRST, SECOND]
        assert at.provider.asked == [FIRST, SECOND]
        assert await at.page.evaluate(WAITING) == []
        await at.list(TITLES, [FIRST])


async def test_asked_after_a_reload(browser: str, tmp_path: Path) -> None:
    """A question that waits outlives the page: it is asked when the page is opened again."""
    async with relayed_page(browser, tmp_path) as at:
        await is_offline(at)
        await at.ask(FIRST)
        await at.says(".by", "Waiting for the network")
        await at.page.call("Page.navigate", url="about:blank")
        at.provider.reply("The Rhine.")
        at.relay.mend()
        await at.page.call("Page.navigate", url=at.relay.url)
        await has_answers(at, "The Rhine.")
        await at.page.until("location.hash !== ''")
        await at.reload()
        await has_answers(at, "The Rhine.")
        assert at.provider.asked == [FIRST]


async def test_a_lost_reply(browser: str, tmp_path: Path) -> None:
    """A question whose arrival nobody has confirmed is sent again, and asked once."""
    async with relayed_page(browser, tmp_path) as at:
        at.provider.reply("The Rhine.")
        await at.ask(FIRST)
        await has_answers(at, "The Rhine.")
        at.relay.hold_replies()
        await at.ask(SECOND)
        async with asyncio.timeout(10):
            while SECOND not in at.provider.asked:
                await asyncio.sleep(0)
        at.relay.cut()
        await at.says(".by", "Waiting for the network")
        at.provider.reply("The Caspian.")
        at.relay.mend()
        await has_answers(at, "The Rhine.", "The Caspian.")
        assert at.provider.asked == [FIRST, SECOND]


async def test_asked_elsewhere(browser: str, tmp_path: Path) -> None:
    """A question that waits is asked, too, when another chat is shown meanwhile."""
    async with relayed_page(browser, tmp_path) as at:
        await is_offline(at)
        await at.ask(FIRST)
        await at.says(".by", "Waiting for the network")
        await at.press("New chat")
        await at.list(QUESTIONS, [])
        at.provider.reply("The Rhine.")
        at.relay.mend()
        await at.list(TITLES, [FIRST])
        await at.page.evaluate("document.querySelector('#conversations a').click()")
        await at.list(STATES, ["whole"])
        assert at.provider.asked == [FIRST]
        assert await at.page.evaluate(WAITING) == []


async def test_cancel(browser: str, tmp_path: Path) -> None:
    """A question that waits can be cancelled; its text is back for editing, and the next one is asked."""
    async with relayed_page(browser, tmp_path) as at:
        await is_offline(at)
        await at.ask(FIRST)
        await at.says(".by", "Waiting for the network")
        await at.ask(SECOND)
        await at.ask(THIRD)
        await at.press("Cancel this question")
        await at.list(QUESTIONS, [SECOND, THIRD])
        assert await at.page.evaluate(BOX) == FIRST
        assert await at.page.evaluate("document.activeElement.id") == "question"
        await at.page.evaluate(f"{LAST}.querySelector('.note button').click()")
        await at.list(QUESTIONS, [SECOND])
        assert await at.page.evaluate(WAITING) == [SECOND]
        at.provider.reply("The Caspian.")
        at.relay.mend()
        await has_answers(at, "The Caspian.")
        assert at.provider.asked == [SECOND]


async def test_drafts(browser: str, tmp_path: Path) -> None:
    """What is being written outlives the page, for each conversation; what was sent does not."""
    async with relayed_page(browser, tmp_path) as at:
        at.provider.reply("The Rhine.")
        await at.ask(FIRST)
        await has_answers(at, "The Rhine.")
        await at.page.call("Input.insertText", text=SECOND)
        await at.press("New chat")
        assert await at.page.evaluate(BOX) == ""
        await at.page.call("Input.insertText", text=THIRD)
        await at.page.until(f"(localStorage.getItem('dub5.drafts') ?? '').includes('{THIRD}')")
        await at.reload()
        await at.page.until(f"{BOX} === '{THIRD}'")
        await at.page.evaluate("history.back()")
        await at.page.until(f"{BOX} === '{SECOND}'")
        await at.page.evaluate(f"{QUESTION}.focus()")
        await at.page.type("")
        await at.list(QUESTIONS, [FIRST, SECOND])
        await at.reload()
        await at.list(QUESTIONS, [FIRST, SECOND])
        assert await at.page.evaluate(BOX) == ""
        await at.press("New chat")
        await at.page.until(f"{BOX} === '{THIRD}'")


async def test_the_banner(browser: str, tmp_path: Path) -> None:
    """The page says that it is offline when the browser says so, and a request failed: one is not enough."""
    async with relayed_page(browser, tmp_path) as at:
        page = at.page
        gone = "document.querySelector('#link').dataset.state === 'gone'"
        await is_offline(at)
        await page.until(gone)
        assert not await page.evaluate(BANNER)
        await page.evaluate("Object.defineProperty(navigator, 'onLine', { get: () => false })")
        await page.evaluate("dispatchEvent(new Event('offline'))")
        await page.until(BANNER)
        at.relay.mend()
        await page.evaluate(
            "dispatchEvent(new Event('online'))"
        )  # the browser has not noticed: a request works
        await page.until(f"!({BANNER})")


async def test_limits(browser: str, tmp_path: Path) -> None:
    """How much may still be written and asked is said near its end; a refused question counts down, and can
    be sent again then."""
    settings = "[limits]\nsession = { count = 2, window_s = 4 }\n"
    chars = "question_chars_max = 30"
    async with relayed_page(browser, tmp_path, settings=settings, conversation=chars) as at:
        at.provider.reply("The Rhine.")
        await at.ask(FIRST)
        await has_answers(at, "The Rhine.")
        await at.page.until(f"{ROOM} === '1 more question can be asked for now.'")
        await at.page.call("Input.insertText", text="x" * 28)
        await at.page.until(f"{ROOM}.startsWith('2 characters left.')")
        await at.page.type("xxx")
        await at.page.until(f"{ROOM}.startsWith('1 character too many')")
        assert await at.page.evaluate(QUESTIONS) == [FIRST]
        await at.page.evaluate(f"{QUESTION}.select()")
        at.provider.reply("The Caspian.")
        await at.page.type(SECOND)
        await has_answers(at, "The Rhine.", "The Caspian.")
        await at.ask(THIRD)
        await at.is_in_state("failed")
        again = "[...document.querySelectorAll('.turn button')].at(-1)"
        assert await at.page.evaluate(f"{again}.disabled && {again}.textContent.startsWith('Ask again in ')")
        at.provider.reply("Baikal.")
        await at.press("Ask again")
        await has_answers(at, "The Rhine.", "The Caspian.", "Baikal.")
        assert at.provider.asked == [FIRST, SECOND, THIRD]
