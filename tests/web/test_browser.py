"""The page in a real browser, served by the real service in front of simulated providers: three processes."""

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from dub5.simulators.answers import Proof, judge
from tests.support.browser import open_page
from tests.support.child_processes import serving
from tests.support.page import LAST, STATE, SimulatedProviders, ask, ended, text
from tests.support.source import ROOT

pytestmark = pytest.mark.real_sockets


async def test_answer(browser: str, service: str, providers: SimulatedProviders) -> None:
    """Under the strict policy and without a complaint, the page streams a whole answer, names its target, and
    shows the providers."""
    async with open_page(browser, service) as page:
        state = await ask(page, "Name three rivers.")
        await page.until("document.querySelectorAll('.target:not(.ghost)').length === 3")
        await page.until("Number(document.querySelector('.outcome.complete dd').textContent) > 0")

        assert state == "whole"
        assert judge(await text(page, ".text"), "Name three rivers.") is Proof.WHOLE
        assert await text(page, ".by strong") == "one/gpt-sim"
        assert "first token" in await text(page, ".times")
        await page.evaluate("document.querySelector('#turns').style.paddingTop = '3000px'")
        assert await page.evaluate("document.documentElement.scrollHeight <= innerHeight"), (
            "the page itself scrolls"
        )
        assert page.errors == []


async def test_failover(browser: str, service: str, providers: SimulatedProviders) -> None:
    """When the first provider answers 530, the next one's answer is shown, with both tries."""
    await providers.fault("one", kind="status", status=530)
    try:
        async with open_page(browser, service) as page:
            state = await ask(page, "Who answers now?")

            assert state == "whole"
            assert await text(page, ".by strong") == "two/mistral-sim"
            assert "530" in await text(page, ".attempt.bad")
            assert "two/mistral-sim" in await text(page, ".attempt.ok")
            assert page.errors == []
    finally:
        await providers.fault("one")


async def test_cut(browser: str, service: str, providers: SimulatedProviders) -> None:
    """An answer cut after its first words keeps them, says that they are not all, and can be asked again."""
    await providers.fault("one", kind="cut", after_tokens=4, how="close")
    try:
        async with open_page(browser, service) as page:
            state = await ask(page, "Will this be whole?")

            assert state == "cut"
            assert judge(await text(page, ".text"), "Will this be whole?") is Proof.CUT
            assert "unfinished" in await text(page, ".by")
            assert "The answer was cut." in await text(page, ".note")
            assert "one/gpt-sim" in await text(page, ".attempt.bad")

            await providers.fault("one")
            await page.evaluate(f"{LAST}.querySelector('.note button').click()")
            await page.until(f"{STATE} !== 'cut'")

            assert await ended(page) == "whole"
            assert judge(await text(page, ".text"), "Will this be whole?") is Proof.WHOLE
    finally:
        await providers.fault("one")


async def test_service_gone(browser: str, config: Path) -> None:
    """When the service goes away the page says so and keeps what it knew."""
    with serving(config) as (url, process):
        async with open_page(browser, url) as page:
            await page.until("document.querySelector('#link').dataset.state === 'live'")
            process.kill()
            await page.until("document.querySelector('#link').dataset.state === 'gone'")

            assert "reconnecting" in await page.evaluate("document.querySelector('#link').textContent")
            assert await page.evaluate("document.querySelectorAll('.target').length") == 3


async def test_cost(browser: str, service: str, providers: SimulatedProviders) -> None:
    """Where a target has a price, the page shows the cost: in all, of that target, and of each request."""
    await providers.fault("one", kind="status", status=530)
    await providers.fault("two", kind="status", status=530)
    try:
        async with open_page(browser, service) as page:
            assert await ask(page, "What does this cost?") == "whole"
            await page.until("document.querySelector('#spent').textContent.startsWith('$0.0')")
            cards = "[...document.querySelectorAll('.target:not(.ghost) .numbers')].map((p) => p.textContent)"
            await page.until(f"({cards})[2].includes('$')")
            await page.until("document.querySelector('#recent .request .times').textContent.includes('$')")

            assert ["$" in said for said in await page.evaluate(cards)] == [False, False, True]
            assert "some of them without a price" in await page.evaluate(
                "document.querySelector('#spent').textContent"
            )
            assert await page.evaluate("!document.querySelector('#spent').hidden")
            assert page.errors == []
    finally:
        await providers.fault("one")
        await providers.fault("two")


CARDS = """(async () => {
  const { Card } = await import("/web/cards.js");
  const seen = (more) => {
    const card = new Card();
    const spent = { billed: { cost_usd: null }, maybe: { cost_usd: null } };
    card.update({ name: "one/m", provider: "one", dialect: "openai", health: "healthy",
      breaker: "closed", cooling_s: 0, answered: 3, failed: 1,
      in_flight: 0, last_reason: "ok", first_token_ms: null, limit: 1000, limit_max: 1000,
      provider_in_flight: 2, priced: false, spent, ...more });
    document.body.append(card.node);
    const of = (part) => card.node.querySelector(part);
    const colour = (part) => getComputedStyle(of(part)).color;
    const told = [".health", ".breaker", ".room", ".numbers"].map((part) => of(part).textContent);
    const marks = [of(".health use").getAttribute("href"), of(".breaker use").getAttribute("href")];
    const odd = [".health", ".breaker", ".room"].map(colour);
    card.node.remove();
    return { told, marks, odd };
  };
  const well = seen({});
  const changed = (more) => {
    const { told, marks, odd } = seen(more);
    return [...told, ...marks, odd.map((colour, i) => colour !== well.odd[i])];
  };
  return [
    changed({}),
    changed({ health: "degraded" }),
    changed({ health: "unhealthy", breaker: "isolated" }),
    changed({ limit: 28 }),
    changed({ priced: true, spent: { billed: { cost_usd: 1.5 }, maybe: { cost_usd: 0.2 } } }),
  ];
})()"""


async def test_cards(browser: str, service: str) -> None:
    """A target that is degraded, isolated, or whose provider has a lower limit stands out, in words too."""
    async with open_page(browser, service) as page:
        well, degraded, isolated, lowered, priced = await page.evaluate(CARDS)

    room = "one: 2 of at most 1,000 concurrent requests"
    numbers = "3 answered · 1 failed"
    nothing = [False, False, False]
    assert well == ["healthy", "breaker closed", room, numbers, "#i-healthy", "#i-closed", nothing]
    assert degraded[0] == "degraded" and degraded[4] == "#i-degraded" and degraded[6] == [True, False, False]
    assert isolated[1] == "isolated by the settings" and isolated[5] == "#i-isolated"
    assert isolated[6] == [True, True, False]
    assert lowered[2] == "one: 2 of at most 28 concurrent requests, lowered from 1,000"
    assert lowered[6] == [False, False, True]
    assert priced[3] == f"{numbers} · $1.50"


WORDS = """(async () => {
  const { dollars, counterLabel, incidentLabel, costLabel, trailEntries } = await import("/web/labels.js");
  const { trailOf } = await import("/web/turn.js");
  const spent = (prompt_tokens, cost_usd, estimated_tokens = 0) =>
    ({ prompt_tokens, completion_tokens: 0, estimated_tokens, cost_usd });
  const attempt = (target, reason, kind) => ({ target, reason, started_ms: 0, ended_ms: 20, kind });
  const trail = trailOf(trailEntries([
    attempt("one/m", "hedge_lost", "probe"),
    attempt("two/m", "http_503", "hedge"), attempt("two/m", "ok", "retry"),
  ]), false);
  return {
    dollars: [0, null, 0.00001, 0.00042, 0.0999, 1.239, 1240.4].map(dollars),
    spent: [
      costLabel({ billed: spent(0, null), maybe: spent(0, null) }, false),
      costLabel({ billed: spent(12000, 0.5), maybe: spent(3, 0.0004) }, false),
      costLabel({ billed: spent(9, 0.5, 2), maybe: spent(0, null) }, true),
    ],
    happened: [counterLabel("budget_spent", 1), counterLabel("hedged", 2)],
    incidents: [
      incidentLabel({ what: "limit_lowered", target: "one" }),
      incidentLabel({ what: "breaker_isolated", target: "one/m" }),
    ],
    trail: [...trail.querySelectorAll(".attempt")].map(
      (t) => [t.className, t.querySelector(".why").textContent]),
  };
})()"""


async def test_words(browser: str, service: str) -> None:
    """Sums, events and the reasons for a try read as a person would say them."""
    async with open_page(browser, service) as page:
        words = await page.evaluate(WORDS)

    assert words["dollars"] == ["$0", "$0", "<$0.0001", "$0.0004", "$0.0999", "$1.24", "$1,240"]
    assert words["spent"] == [
        "$0 for 0 tokens",
        "$0.50 for 12K tokens, and possibly $0.0004 more for incomplete answers",
        "$0.50 for 9 tokens, some of them without a price (some tokens are estimated)",
    ]
    assert words["happened"] == ["1 retry denied", "2 hedged requests"]
    assert words["incidents"] == ["concurrency limit lowered for one", "isolated by the settings: one/m"]
    assert words["trail"] == [
        ["attempt skip", "probe: cancelled, because another target answered first"],
        ["attempt bad", "hedged: is unavailable (503), 20 ms"],
        ["attempt ok", "retried: answered, 20 ms"],
    ]


SPLITS = """(async () => {
  const { SseReader } = await import("/web/sse.js");
  const stream = ": hello\\r\\ndata: one\\r\\rdata:two\\r\\ndata: \\u{1F40B}\\r\\n\\r\\n" +
    "event: odd\\nid: 7\\ndata\\n\\ndata: left open";
  const told = (pieces) => {
    const reader = new SseReader();
    return JSON.stringify(pieces.flatMap((piece) => reader.feed(piece)));
  };
  const split = (at, to) => [stream.slice(0, at), stream.slice(at, to), stream.slice(to)];
  const all = new Set([told([stream]), told([...stream])]);
  for (let at = 0; at <= stream.length; at++)
    for (let to = at; to <= stream.length; to++) all.add(told(split(at, to)));
  return [...all];
})()"""

TRAIL = """(async () => {
  const { parseTrail } = await import("/web/labels.js");
  const trail = "one/gpt=http_530;12ms, or/meta/llama-3:free=ok;40ms, three/c=breaker_open";
  return parseTrail(trail).concat(parseTrail(null));
})()"""


async def test_parsers(browser: str, service: str) -> None:
    """Events read the same however the network splits them; what the end leaves open is dropped."""
    async with open_page(browser, service) as page:
        told = [json.loads(text) for text in await page.evaluate(SPLITS)]
        trail = await page.evaluate(TRAIL)

    assert told == [
        [
            {"event": "message", "data": "one"},
            {"event": "message", "data": "two\n\N{WHALE}"},
            {"event": "odd", "data": ""},
        ]
    ]
    assert [(t["target"], t["reason"], t["ms"]) for t in trail] == [
        ("one/gpt", "http_530", 12),
        ("or/meta/llama-3:free", "ok", 40),
        ("three/c", "breaker_open", None),
    ]


ENDS = """(async () => {
  const { ask } = await import("/web/ask.js");
  const told = async (stream, ...events) => {
    const body = stream ? events.map((e) => `data: ${e}\n\n`).join("") : events[0];
    window.fetch = async () => new Response(body);
    const steps = [];
    const { signal } = new AbortController();
    for await (const step of ask({ stream, messages: [] }, {}, signal)) steps.push(step.kind);
    return steps.slice(1).join(" ");
  };
  const choice = (fields) => JSON.stringify({ choices: [fields] });
  const text = choice({ delta: { content: "a" }, finish_reason: null });
  const finish = choice({ delta: {}, finish_reason: "stop" });
  const error = JSON.stringify({ error: { message: "cut", attempts: [] } });
  return {
    finished: await told(true, text, text, finish, "[DONE]"),
    done_without_finish: await told(true, text, "[DONE]"),
    nothing_more: await told(true, text),
    error: await told(true, text, error),
    error_after_finish: await told(true, text, finish, error),
    nothing_at_all: await told(true),
    not_json: await told(true, "<html>", "[DONE]"),
    whole_json: await told(false, choice({ message: { content: "a" }, finish_reason: "stop" })),
    half_json: await told(false, choice({ message: { content: "a" }, finish_reason: null })),
    html: await told(false, "<html>"),
  };
})()"""


async def test_ends(browser: str, service: str) -> None:
    """Only an answer with a finish reason, and no error after it, is whole; received text is kept."""
    async with open_page(browser, service) as page:
        ends = await page.evaluate(ENDS)

    assert ends == {
        "finished": "text text whole",
        "done_without_finish": "text cut",
        "nothing_more": "text cut",
        "error": "text cut",
        "error_after_finish": "text cut",
        "nothing_at_all": "failed",
        "not_json": "failed",
        "whole_json": "text whole",
        "half_json": "text cut",
        "html": "failed",
    }


SUBSTITUTE = """(async () => {
  const { newTurn, TurnView } = await import("/web/turn.js");
  const { reducedLabel } = await import("/web/labels.js");
  const shown = (degraded) => {
    const turn = { ...newTurn("Why?", true), state: "whole", answer: "Because.", finish: "stop", degraded };
    const { by, note } = new TurnView(turn, () => {});
    return [by.textContent.includes("fallback answer"), note.textContent];
  };
  const reduced = (features) =>
    reducedLabel([{ name: "chat", features }, { name: "old" }, { name: "chat:tutor", features }]);
  return {
    answer: shown(""),
    stale: shown("stale"),
    words: shown("words"),
    reduced: [
      reduced({ chat: "available", tools: "available", vision: "unsupported" }),
      reduced({ chat: "available", tools: "unavailable", long_context: "unavailable" }),
      reduced({ chat: "unavailable", tools: "unavailable" }),
    ],
  };
})()"""


async def test_substitutes(browser: str, service: str) -> None:
    """A substitute is never shown as an answer, and what is out of reach is said."""
    async with open_page(browser, service) as page:
        seen = await page.evaluate(SUBSTITUTE)

    assert seen["answer"] == [False, ""]
    assert seen["stale"] == [True, "No model could answer: this is an older answer to the same question."]
    assert seen["words"] == [True, "No model could answer: this is an automatic text."]
    assert seen["reduced"] == [
        "",
        "chat: no tools, long context at the moment, plain chat works",
        "chat: no target can answer at the moment",
    ]


async def test_a_refused_key(browser: str, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that the service refuses is asked for again with the reason; the right one opens the page, which
    shows that a wrong one came."""
    monkeypatch.setenv("DUB5_TEST_CALLER", "the-right-key")
    guarded = config.with_name("guarded.toml")
    guarded.write_text('[server]\ncaller_keys_env = ["DUB5_TEST_CALLER"]\n' + config.read_text())
    shown = "!document.querySelector('#key-form').hidden"
    why = "document.querySelector('#key-why').textContent"
    with serving(guarded) as (url, _):
        async with open_page(browser, url) as page:
            await page.until(shown)
            assert await page.evaluate(why) == ""
            await page.type("a-wrong-key")
            await page.until(f"{why} !== ''")
            assert "refused this key" in await page.evaluate(why)
            assert await page.evaluate(shown)
            await page.evaluate("document.querySelector('#key').value = ''")
            await page.type("the-right-key")
            await page.until("!document.querySelector('#model').disabled")
            assert await page.evaluate("document.querySelector('#key-form').hidden")
            told = "document.querySelector('.incident.bad_key')"
            await page.until(f"{told} !== null")
            assert "unknown caller key: /v1/models" in await page.evaluate(f"{told}.textContent")
            assert "unknown caller key" in await page.evaluate(
                "document.querySelector('#happened').textContent"
            )


async def test_simulated(browser: str, config: Path) -> None:
    """The page says that providers are simulated, and which ones if others are not; else it says nothing."""
    settings, shown = config.read_text(), "document.querySelector('#simulated')"
    cases = {"": None, "one": "made-up answers: one.", "one two three": "no model is behind them"}
    for names, said in cases.items():
        file = config.with_name("simulated.toml")
        text = settings
        for name in names.split():
            text = text.replace(f'name = "{name}"', f'name = "{name}"\nsimulated = true')
        file.write_text(text)
        with serving(file) as (url, _):
            async with open_page(browser, url) as page:
                await page.until("document.querySelectorAll('.target:not(.ghost)').length === 3")
                assert await page.evaluate(f"{shown}.hidden") == (said is None)
                assert (said or "") in await page.evaluate(f"{shown}.textContent")


async def test_personalities(browser: str, config: Path) -> None:
    """The list of models has the titles of personalities, and a question goes to the one that was chosen."""
    file = config.with_name("personalities.toml")
    file.write_text(config.read_text().replace('name = "chat"', 'name = "chat"\npersonalities = ["tutor"]'))
    with serving(file) as (url, _):
        async with open_page(browser, url) as page:
            await page.until("!document.querySelector('#model').disabled")
            shown = "[...document.querySelectorAll('#model option')].map((one) => one.textContent).join('|')"
            assert await page.evaluate(shown) == "chat|chat: Tutor"
            await page.evaluate("document.querySelector('#model').value = 'chat:tutor'")
            assert await ask(page, "Name three rivers.") == "whole"
            async with aiohttp.ClientSession() as client, client.get(f"{url}/status") as response:
                assert (await response.json())["recent"][0]["route"] == "chat:tutor"
            assert page.errors == []


@pytest.fixture
def service_with_sessions(config: Path) -> Iterator[str]:
    file = config.with_name("sessions.toml")
    file.write_text(config.read_text() + "\n[session]\n")
    with serving(file) as (url, _):
        yield url


def example(language: str, number: int) -> str:
    """Return an example of the page about sessions, which readers copy as it stands."""
    page = (ROOT / "docs" / "use" / "sessions.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)[number]


async def test_sessions(browser: str, service: str, service_with_sessions: str) -> None:
    """The page begins a session at its start, and chats with it; a form of another page is refused."""
    async with open_page(browser, service_with_sessions) as page:
        assert await ask(page, "Am I counted?") == "whole"
        (cookie,) = (await page.call("Network.getCookies"))["cookies"]
        assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("dub5", True, "Lax")
        assert await page.evaluate("document.cookie") == ""
        code = (
            f"(async () => {{ {example('js', 0)}; return [begun.status, session.length, reply.status] }})()"
        )
        assert await page.evaluate(code) == [200, 8, 200]
        assert page.errors == []

        # A page of the same site may use the cookie, as a form does: no question is asked before.
        await page.call("Page.navigate", url=f"{service}/livez")
        await page.until(f"location.href === '{service}/livez' && document.readyState === 'complete'")
        chat = f"{service_with_sessions}/v1/chat/completions"
        how = "{ method: 'POST', mode: 'no-cors', credentials: 'include', body: '{}' }"
        assert (
            await page.evaluate(f"fetch({json.dumps(chat)}, {how}).then((reply) => reply.type)") == "opaque"
        )
    async with aiohttp.ClientSession() as client, client.get(f"{service_with_sessions}/status") as reply:
        assert (await reply.json())["happened"]["csrf_refused"] == 1


async def test_tickets(browser: str, service_with_sessions: str) -> None:
    """The example for pages of other sites works as it is written."""
    async with open_page(browser, f"{service_with_sessions}/livez") as page:
        code = example("js", 1).replace("https://chat.example.com", service_with_sessions)
        status, proof = await page.evaluate(f"(async () => {{ {code}; return [reply.status, proof] }})()")
        assert status == 200 and proof["authorization"].startswith("Ticket ")
        assert (await page.call("Network.getCookies"))["cookies"] == []


async def test_session_by_curl(service_with_sessions: str, tmp_path: Path) -> None:
    """The example for programs works as it is written."""
    code = example("sh", 0).replace("http://127.0.0.1:8080", service_with_sessions)
    process = await asyncio.create_subprocess_exec(
        "sh", "-ec", code.replace("curl ", "curl -f "), cwd=tmp_path, stdout=subprocess.PIPE
    )
    told, _ = await process.communicate()
    begun, again, answer = (json.loads(part) for part in told.decode().replace("}{", "}\n{").splitlines())
    assert process.returncode == 0
    assert begun["session"] == again["session"]
    assert judge(answer["choices"][0]["message"]["content"], "Hello") is Proof.WHOLE


async def test_no_sessions(browser: str, service: str) -> None:
    """Without sessions the page does not ask for one."""
    async with open_page(browser, service) as page:
        await page.until("!document.querySelector('#model').disabled")
        asked = await page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert f"{service}/v1/models" in asked and f"{service}/v1/session" not in asked
        assert page.errors == []
