"""Conversations on the page, in a real browser: they outlive the page, the browser's tab and the service."""

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from dub5.simulators.answers import Proof, judge
from tests.support.browser import BrowserTab, open_page
from tests.support.child_processes import serving
from tests.support.page import LAST, SimulatedProviders, ask, ended, text

pytestmark = pytest.mark.real_sockets

FIRST, SECOND, THIRD = "Name three rivers.", "And three lakes?", "Which is the deepest?"
TITLES = "[...document.querySelectorAll('#conversations .title')].map((title) => title.textContent)"
QUESTIONS = "[...document.querySelectorAll('.turn .question')].map((q) => q.lastChild.textContent)"
ANSWERS = "[...document.querySelectorAll('.turn .text')].map((answer) => answer.textContent)"
LIVE = "document.querySelector('#link').dataset.state"


@pytest.fixture
def kept(config: Path, tmp_path: Path) -> Path:
    """Return settings with conversations, in a database of this test."""
    file = tmp_path / "kept.toml"
    file.write_text(config.read_text() + with_database(tmp_path / "data" / "dub5.db"))
    return file


def with_database(path: Path) -> str:
    # The patience is for a busy machine: what is read late is said to be lost.
    patient = "patience_s = 5.0\nkeep_s = 5.0"
    return f'\n[session]\n[conversation]\n[database]\nurl = "sqlite:///{path}"\n{patient}\n'


async def press(page: BrowserTab, selector: str) -> None:
    await page.until(f"document.querySelector({json.dumps(selector)}) !== null")
    await page.evaluate(f"document.querySelector({json.dumps(selector)}).click()")


async def shows(page: BrowserTab, expression: str, value: Any) -> None:
    wanted = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    await page.until(f"JSON.stringify({expression}) === {json.dumps(wanted)}")


async def test_a_conversation_stays(browser: str, kept: Path) -> None:
    """It is there after a reload, and after the service was killed and started again, and it goes on; it is
    found in the list, with its title, and can be renamed and deleted."""
    with serving(kept) as (url, service):
        async with open_page(browser, url) as page:
            assert await ask(page, FIRST) == "whole"
            answer = await text(page, ".text")
            assert judge(answer, FIRST) is Proof.WHOLE
            await shows(page, TITLES, [FIRST])
            address = await page.evaluate("location.href")
            assert "#c/" in address and "not saved" not in await text(page, ".by")

            await page.call("Page.reload")
            await shows(page, QUESTIONS, [FIRST])
            assert await page.evaluate(ANSWERS) == [answer]
            assert page.errors == []

            service.kill()
            service.wait()
            await page.until(f"{LIVE} === 'gone'")
            with serving(kept, urlsplit(url).port or 0) as (again, _):
                assert again == url
                await page.until(f"{LIVE} === 'live'")
                assert await ask(page, SECOND) == "whole"
                assert await page.evaluate(f"{LAST}.querySelector('.note').hidden")  # saved, with its memory
                await page.call("Page.navigate", url="about:blank")
                await page.call("Page.navigate", url=url)
                await press(page, "#conversations a")
                await shows(page, QUESTIONS, [FIRST, SECOND])
                assert (await page.evaluate(ANSWERS))[0] == answer
                assert await page.evaluate("location.href") == address
                assert await ask(page, THIRD) == "whole"
                page.errors.clear()  # the browser's, about the time without a service

                await press(page, "[aria-label^='Rename']")
                assert await page.evaluate("document.activeElement.value") == FIRST
                await page.evaluate("document.activeElement.select()")
                await page.type("Water")
                await shows(page, TITLES, ["Water"])
                await press(page, "[aria-label='Delete “Water”']")
                assert await page.evaluate("document.querySelector('#delete-title').textContent") == "Water"
                await press(page, "#delete button[value=no]")
                await press(page, "[aria-label='Delete “Water”']")
                await press(page, "#delete button[value=yes]")
                await shows(page, TITLES, [])
                await shows(page, QUESTIONS, [])
                assert await page.evaluate("location.hash") == ""
                assert page.errors == []


async def test_an_answer_under_way(browser: str, kept: Path, providers: SimulatedProviders) -> None:
    """A question that is still being answered when the page opens its conversation is waited for, not asked
    twice."""
    with serving(kept) as (url, _):
        async with open_page(browser, url) as page:
            assert await ask(page, FIRST) == "whole"
            conversation = (await page.evaluate("location.hash")).removeprefix("#c/")
            (cookie,) = (await page.call("Network.getCookies"))["cookies"]
            headers = {"cookie": f"{cookie['name']}={cookie['value']}", "origin": url}
            turns = f"{url}/v1/conversations/{conversation}/turns"
            await providers.fault("one", kind="stall", before="first_token", s=4.0)
            try:
                async with aiohttp.ClientSession(headers=headers) as client:
                    elsewhere = asyncio.create_task(
                        client.post(turns, json={"text": SECOND, "id": "elsewhere"})
                    )
                    while not await is_open(client, turns.removesuffix("/turns")):
                        assert not elsewhere.done()
                    await page.call("Page.reload")
                    await shows(page, QUESTIONS, [FIRST, SECOND])
                    assert await ended(page) == "whole"
                    async with await elsewhere as reply:
                        answer = (await reply.json())["answer"]["text"]
                    assert await text(page, ".text") == answer
                    await page.call("Page.reload")
                    await shows(page, QUESTIONS, [FIRST, SECOND])
                    assert page.errors == []
            finally:
                await providers.fault("one")


async def is_open(client: aiohttp.ClientSession, conversation: str) -> bool:
    """Return whether the last question of a conversation is being answered."""
    async with client.get(conversation) as reply:
        return bool((await reply.json())["turns"][-1]["state"] == "open")


async def test_a_lost_database(browser: str, config: Path, tmp_path: Path) -> None:
    """Without its database the service answers, and the page says what is not saved or remembered; the
    conversations are there as soon as the database is."""
    (tmp_path / "data").touch()  # no folder: the database cannot be opened
    file = tmp_path / "lost.toml"
    file.write_text(config.read_text() + with_database(tmp_path / "data" / "dub5.db"))
    with serving(file) as (url, _):
        async with open_page(browser, url) as page:
            note = "document.querySelector('#history-note').textContent"
            await page.until(f"{note}.includes('cannot be reached at the moment')")
            assert await ask(page, FIRST) == "whole"
            assert "not saved" in await text(page, ".by")
            assert await ask(page, SECOND) == "whole"
            assert "Answered without your earlier questions" in await text(page, ".note")

            (tmp_path / "data").unlink()
            await shows(page, TITLES, [FIRST])


STEPS = """(async () => {
  const { Conversations } = await import("/web/conversations.js");
  const { Carriers, follow } = await import("/web/follow.js");
  const { Broken } = await import("/web/reply.js");
  const after = window.setTimeout;
  const real = window.fetch;
  window.setTimeout = (act) => after(act, 0);
  const noSocket = { open: async () => { throw new Broken("none"); }, ping: () => {}, stop: () => false };
  const told = async (replies, stream = true) => {
    const caller = { headers: () => ({}), unauthorized: () => {} };
    const steps = [];
    window.fetch = async (path, ...more) => {
      if (path === "/status") return real(path, ...more); // of the page itself
      const at = new URL(path, location.href).searchParams.get("after");
      if (at !== null) steps.push(["after", Number(at)]);
      return replies.length > 1 ? replies.shift()() : replies[0]();
    };
    const carriers = new Carriers(new Conversations(caller), noSocket);
    const asked = { text: "Why?", id: "1", model: "chat", stream, conversation: "A", turn: "" };
    const detail = (s) => s.text ?? s.kept ?? s.pruned ?? s.problem?.code ?? s.head?.target;
    for await (const s of follow(carriers, asked, new AbortController().signal))
      if (s.kind !== "accepted") steps.push([s.kind, detail(s)]);
    return steps;
  };
  const event = (e) => `event: ${e.type}\\ndata: ${JSON.stringify(e)}\\n\\n`;
  const events = (...all) => () => new Response(all.map(event).join(""));
  const accepted = { type: "accepted", turn: "T", conversation: "A", kept: true };
  const begin = (seq) => (
    { type: "begin", turn: "T", seq, target: "one/m", trail: "one/m=ok;4ms", pruned: { turns: 3 } });
  const delta = (seq, text) => ({ type: "delta", turn: "T", seq, text });
  const end = (outcome, seq, kept = true) => ({ type: "end", turn: "T", seq, outcome, finish: "stop", kept });
  const error = { type: "error", turn: "T", error: { message: "cut", code: "stream_cut" } };
  const turn = { question: { text: "Why?" }, answer: { text: "a" }, outcome: "complete", finish: "stop",
    target: "one/m", kept: true };
  const json = (body, init) => () => new Response(JSON.stringify(body), init);
  const [start, a] = [[accepted, begin(0)], delta(1, "a")];
  const rest = events(begin(1), delta(3, "\u00e9"), end("complete", 3));
  return {
    whole: await told([events(...start, a, delta(3, "\u00e9"), end("complete", 3))]),
    unsaved: await told([events(...start, a, end("degraded", 1, false))]),
    error: await told([events(...start, a, error)]),
    asked_before_and_cut: await told([events(...start, a, end("cut", 1))]),
    asked_before_and_stopped: await told([events(...start, end("cancelled", 0))]),
    unknown: await told([events({ type: "news" }, ...start, a, end("complete", 1))]),
    no_end: await told([events(...start, a), rest]),
    gap: await told([events(...start, a, delta(4, "e")), rest]),
    repeat: await told([events(...start, a, a), rest]),
    end_too_early: await told([events(...start, a, end("complete", 3)), rest]),
    network: await told([events(...start, a), () => { throw new TypeError("gone"); }, rest]),
    proxy: await told([events(...start, a), () => new Response("<html>", { status: 502 }), rest]),
    forgotten: await told([events(...start, a), events(accepted, begin(0), end("cut", 0))]),
    not_there: await told([
      events(...start, a), json({ error: { code: "conversation_not_found" } }, { status: 404 })]),
    too_late: await told([events(...start, a), events(begin(1), end("cancelled", 1))]),
    never: await told([events(...start, a), events(begin(1))]),
    json: await told([json(turn)], false),
    json_unsaved: await told([json({ ...turn, kept: false })], false),
    html: await told([() => new Response("<html>")], false),
  };
})()"""


async def test_messages(browser: str, service: str) -> None:
    """Only an answer with an end that says so is whole; whether it is saved is the service's word. What is
    lost on the way is read again from where the text ends, nothing twice; what never comes is given up."""
    async with open_page(browser, service) as page:
        steps = await page.evaluate(STEPS)

    began, said, more = [["head", "one/m"], ["memory", 3]], ["text", "a"], ["text", "\u00e9"]
    resumed = [*began, said, ["lost", None], ["after", 1], *began, more, ["whole", True]]
    again = [["lost", None], ["after", 1]]
    assert steps == {
        "whole": [*began, said, more, ["whole", True]],
        "unsaved": [*began, said, ["whole", False]],
        "error": [*began, said, ["cut", "stream_cut"]],
        "asked_before_and_cut": [*began, said, ["cut", ""]],
        "asked_before_and_stopped": [*began, ["stopped", None]],
        "unknown": [*began, said, ["whole", True]],
        "no_end": resumed,
        "gap": resumed,
        "repeat": resumed,
        "end_too_early": resumed,
        "network": [*began, said, *again, *resumed[3:]],
        "proxy": [*began, said, *again, *resumed[3:]],
        "forgotten": [*began, said, *again, *began, ["cut", ""]],
        "not_there": [*began, said, *again, ["cut", ""]],
        "too_late": [*began, said, *again, *began, ["cut", ""]],
        "never": [*began, said, *[*again, *began] * 4, ["cut", "unfinished"]],
        "json": [["head", "one/m"], ["memory", 0], said, ["whole", True]],
        "json_unsaved": [["head", "one/m"], ["memory", 0], said, ["whole", False]],
        "html": [*[["lost", None]] * 4, ["failed", "unfinished"]],
    }


SIDEBAR = """(async () => {
  const { Sidebar } = await import("/web/sidebar.js");
  const { Refused } = await import("/web/api.js");
  const [A, B] = ["A", "B"].map((letter) => letter.repeat(26));
  const refused = (status, code = "") => {
    throw new Refused({ message: "No.", suggestion: "", code, id: "", retryAfterS: null, trail: [] }, status);
  };
  const told = async (replies, act = async () => {}) => {
    history.replaceState(null, "", `#c/${A}`);
    const seen = [];
    const api = {
      list: async () => (replies.list ?? (() => ({ data: [], has_more: false })))(),
      open: async (id, before) => { seen.push(`open ${id[0]} ${before}`); return replies.open(before); },
    };
    const carriers = {
      socket: { close: () => {} },
      messages: async function* () { yield* replies.ask; },
    };
    const chat = {
      showConversation: (turns) => seen.push(`show ${turns.map((one) => one.id)}`),
      showEarlier: (turns) => seen.push(`earlier ${turns.map((one) => one.id)}`),
      note: (text) => text && seen.push(`note ${text.slice(0, 29)}`),
      clear: () => seen.push("clear"),
      showWaiting: () => {},
      showDraft: () => {},
      isAnswering: () => false,
    };
    const sidebar = new Sidebar(api, carriers, chat, () => seen.push("no session"));
    sidebar.start();
    await new Promise((settled) => setTimeout(settled)); // both replies are there
    await act(sidebar, seen);
    seen.push(location.hash.slice(0, 4));
    sidebar.stop();
    return seen;
  };
  const earlier = document.querySelector("#earlier");
  const { signal } = new AbortController();
  const turn = { id: "1", turn: "", question: "Why?" };
  const steps = async (sidebar) => { for await (const step of sidebar.ask(turn, signal)); };
  const end = { type: "end", seq: 0, outcome: "complete" };
  const lists = [{ x: 3, y: 2 }, { y: 4, x: 3, z: 1 }];
  const listed = () => {
    const data = Object.entries(lists.shift()).map(([id, used_at]) => ({ id, title: id, used_at }));
    return { data, has_more: lists.length > 0 };
  };
  const page = (ids, has_more) => ({ turns: ids.map((id) => ({ id })), has_more, model: "chat" });
  return {
    earlier: await told(
      { open: (before) => before ? page([1, 2], false) : page([3, 4], true) },
      async (sidebar, seen) => {
        seen.push(earlier.hidden);
        earlier.click();
        await new Promise((settled) => setTimeout(settled));
        seen.push(earlier.hidden);
      }),
    gone: await told({ open: () => refused(404, "conversation_not_found") }),
    lost: await told({ open: () => refused(503, "storage_unavailable") }),
    no_cookie: await told({ open: () => page([1]), list: () => refused(401, "session_required") }),
    gone_while_asked: await told(
      { open: () => page([1]),
        ask: [{ type: "error", error: { code: "conversation_not_found" }, status: 404 }] }, steps),
    begun: await told(
      { open: () => refused(404), ask: [{ type: "accepted", turn: "T", conversation: B }, end] }, steps),
    more: await told(
      { open: () => page([1]), list: listed },
      async (sidebar, seen) => {
        document.querySelector("#more-history").click();
        await new Promise((settled) => setTimeout(settled));
        const titles = document.querySelectorAll("#conversations .title");
        seen.push([...titles].map((one) => one.textContent).join());
      }),
  };
})()"""


async def test_sidebar(browser: str, service: str) -> None:
    """Earlier questions come by a button, and what is gone or cannot be reached is said; after what is gone,
    the next question begins another conversation. Each is listed once, whatever was used meanwhile."""
    async with open_page(browser, service) as page:
        seen = await page.evaluate(SIDEBAR)

    gone = "note This conversation is not ther"
    assert seen == {
        "earlier": ["open A ", "show 3,4", False, "open A 3", "earlier 1,2", True, "#c/A"],
        "gone": ["open A ", gone, ""],
        "lost": ["open A ", "note Your conversations cannot be ", "#c/A"],
        "no_cookie": ["open A ", "no session", "note This browser keeps no cookie ", "show 1", "#c/A"],
        "gone_while_asked": ["open A ", "show 1", gone, ""],
        "begun": ["open A ", gone, "#c/B"],
        "more": ["open A ", "show 1", "y,x,z", "#c/A"],
    }
