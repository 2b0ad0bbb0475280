"""Answers on the page outlive their connection: in a real browser, over a relay that is cut.

Over a WebSocket, and over server-sent events where there is none.
"""

import asyncio
from pathlib import Path

import pytest

from tests.support.relayed_page import ANSWERS, QUESTIONS, RelayedPage, relayed_page

pytestmark = pytest.mark.real_sockets

QUESTION = "What is there?"
FIRST, SECOND, THIRD = ["Grüße, ", "von der "], ["\N{WHALE}", " und dem "], ["Meer."]
OVER_HTTP = "performance.getEntriesByType('resource').some((one) => /events|turns/.test(one.name))"
CARRIERS = pytest.mark.parametrize("socket", [True, False], ids=["socket", "events"])


async def is_asked(at: RelayedPage) -> None:
    """Ask, and see the first words."""
    await at.ask(QUESTION)
    at.provider.say(*FIRST)
    await at.shows("".join(FIRST))


async def ends_whole(at: RelayedPage, said: list[str]) -> None:
    """See the whole answer to a question that was asked once."""
    at.provider.say(*THIRD)
    at.provider.end()
    await at.is_in_state("whole")
    assert await at.page.evaluate(ANSWERS) == ["".join([*said, *THIRD])]
    assert await at.page.evaluate(QUESTIONS) == [QUESTION]
    assert at.provider.asked == [QUESTION]


@CARRIERS
async def test_a_lost_connection(browser: str, tmp_path: Path, socket: bool) -> None:
    """The page says that it reconnects, keeps its text, and goes on from there: no word is lost or twice."""
    async with relayed_page(browser, tmp_path, socket=socket) as at:
        await is_asked(at)
        at.relay.cut()
        await at.says(".by", "Reconnecting")
        at.provider.say(*SECOND)
        await at.shows("".join(FIRST))
        at.relay.mend()
        await at.shows("".join([*FIRST, *SECOND]))
        await ends_whole(at, [*FIRST, *SECOND])
        assert await at.page.evaluate(OVER_HTTP) is not socket


async def test_a_silent_network(browser: str, tmp_path: Path) -> None:
    """A connection that a network has swallowed is noticed before the answer is given up, and replaced."""
    async with relayed_page(browser, tmp_path) as at:
        await is_asked(at)
        at.relay.hold()
        at.provider.say(*SECOND)
        await at.says(".by", "Reconnecting")
        at.relay.cut()
        at.relay.mend()
        await at.shows("".join([*FIRST, *SECOND]))
        await ends_whole(at, [*FIRST, *SECOND])


@CARRIERS
async def test_a_reload(browser: str, tmp_path: Path, socket: bool) -> None:
    """A page that is loaded again in the middle of an answer shows it from its beginning, and to its end."""
    async with relayed_page(browser, tmp_path, socket=socket) as at:
        await is_asked(at)
        await at.reload()
        await at.is_in_state("streaming")
        await at.shows("".join(FIRST))
        at.provider.say(*SECOND)
        await ends_whole(at, [*FIRST, *SECOND])


@CARRIERS
async def test_stop(browser: str, tmp_path: Path, socket: bool) -> None:
    """Stop ends the answer at once, for the provider too; it stays stopped after a reload."""
    async with relayed_page(browser, tmp_path, socket=socket) as at:
        await is_asked(at)
        await at.page.evaluate("document.querySelector('#stop').click()")
        await at.is_in_state("stopped")
        async with asyncio.timeout(5):
            await at.provider.left.wait()
        await at.reload()
        await at.shows("".join(FIRST))
        await at.says(".note", "stopped")


async def test_an_answer_as_a_whole(browser: str, tmp_path: Path) -> None:
    """An answer that is wanted as a whole is waited for again after a lost connection, and asked once."""
    async with relayed_page(browser, tmp_path) as at:
        await at.page.until("!document.querySelector('#model').disabled")
        await at.page.evaluate("document.querySelector('#stream').checked = false")
        await at.ask(QUESTION)
        await at.page.until("location.hash !== ''")
        async with asyncio.timeout(5):
            while not at.provider.asked:
                await asyncio.sleep(0)
        at.relay.cut()
        await at.says(".by", "Waiting for the network")
        at.provider.say(*FIRST)
        at.relay.mend()
        await ends_whole(at, FIRST)


@CARRIERS
async def test_another_conversation(browser: str, tmp_path: Path, socket: bool) -> None:
    """An answer goes on while another conversation is looked at, and is shown when its own is again."""
    async with relayed_page(browser, tmp_path, socket=socket) as at:
        await is_asked(at)
        await at.press("New chat")
        await at.list(QUESTIONS, [])
        at.provider.say(*SECOND)
        await at.page.evaluate("history.back()")
        await at.shows("".join([*FIRST, *SECOND]))
        await ends_whole(at, [*FIRST, *SECOND])


@CARRIERS
async def test_a_killed_service(browser: str, tmp_path: Path, socket: bool) -> None:
    """When the process dies in the middle of an answer, its text stays, the page says that it is interrupted,
    and the question can be asked again."""
    async with relayed_page(browser, tmp_path, socket=socket) as at:
        await is_asked(at)
        at.process.kill()
        await at.says(".by", "Reconnecting")
        with at.restarted():
            await at.is_in_state("cut")
            await at.says(".note", "This answer was interrupted")
            assert await at.page.evaluate(ANSWERS) == ["".join(FIRST)]
            at.provider.reply("Whole.")
            await at.press("Ask again")
            await at.is_in_state("whole")
            await at.shows("Whole.")


@CARRIERS
async def test_a_restart(browser: str, tmp_path: Path, socket: bool) -> None:
    """A service that shuts down ends its answers; what is asked meanwhile waits for the one that follows."""
    async with relayed_page(browser, tmp_path, socket=socket) as at:
        await is_asked(at)
        at.process.terminate()
        await ends_whole(at, FIRST)
        at.process.wait()
        await at.ask("And then?")
        await at.says(".by", "Waiting for the network")
        at.provider.reply("More.")
        with at.restarted():
            await at.is_in_state("whole")
            await at.shows("More.")
        assert at.provider.asked == [QUESTION, "And then?"]


async def test_a_key(browser: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has a key asks over a socket, too, and has conversations of their own."""
    monkeypatch.setenv("DUB5_TEST_CALLER", "a-key-of-a-caller-of-this-test")
    settings = '[server]\ncaller_keys_env = ["DUB5_TEST_CALLER"]\n'
    async with relayed_page(browser, tmp_path, settings=settings) as at:
        await at.page.until("!document.querySelector('#key-form').hidden")
        await at.page.type("a-key-of-a-caller-of-this-test")
        await is_asked(at)
        await ends_whole(at, FIRST)
        assert not await at.page.evaluate(OVER_HTTP)
        await at.reload()
        await at.page.until("!document.querySelector('#key-form').hidden")
        await at.page.type("a-key-of-a-caller-of-this-test")
        await at.shows("".join([*FIRST, *THIRD]))
        await at.page.until("document.querySelectorAll('#conversations a').length === 1")
