"""What an operator looks after on the page, in a real browser: problems, worse routes, keys, feedback."""

from typing import Any

import pytest

from tests.support.browser import open_page
from tests.support.page import PERSONAS, SimulatedProviders, ask

pytestmark = pytest.mark.real_sockets

WATCHED = "[...document.querySelectorAll('#operator .watched:not([hidden])')].map((list) => list.ariaLabel)"
PROBLEM = "document.querySelector('#operator [aria-label=Problems] li')"


async def test_a_problem(browser: str, service: str, providers: SimulatedProviders) -> None:
    """Once a request has failed, the page tells how often and for whom, with what happened and the
    request."""
    async with open_page(browser, service) as page:
        await page.until("document.querySelectorAll('.target:not(.ghost)').length === 3")
        try:
            for name in PERSONAS:
                await providers.fault(name, kind="status", status=503)
            assert await ask(page, "Does anybody answer?") == "failed"
            await page.until(f"{PROBLEM} !== null && {WATCHED}.includes('Problems')")
            said = await page.evaluate(f"{PROBLEM}.textContent")
            assert (
                said.startswith("now Failed on chat: ") and "is unavailable (503) (all_targets_down)" in said
            )
            assert "1 time · 1 without a session or key · since " in said
            assert "req_" in await page.evaluate(f"{PROBLEM}.querySelector('details p').textContent")
        finally:
            for name in PERSONAS:
                await providers.fault(name)


WORDS = """(async () => {
  const { Operator } = await import("/web/operator.js");
  const told = (status) => {
    const place = document.createElement("div");
    new Operator(place).update(status);
    const shown = [...place.querySelectorAll(".watched:not([hidden])")];
    const said = (row) => row.textContent.replace(/\\d\\d:\\d\\d:\\d\\d/g, "T");
    return shown.flatMap((list) => [...list.children].map(said));
  };
  const key = (more) => ({ provider: "one", key: "ab12cd34", state: "valid", checked_at: null,
    refused_since: null, quota: {}, spent_usd_today: null,
    provider_spent_usd_today: null, spend_max_usd_per_day: null, ...more });
  const worse = (what, value, usual) => ({ route: "chat", what, value, usual, since: 0 });
  const marks = (more) => {
    const place = document.createElement("div");
    new Operator(place).update({ keys: [key(more)] });
    return place.querySelector("use").getAttribute("href");
  };
  const crash = { what: "crash", reason: "at x.py:7", code: "", route: "", target: "", count: 3, people: 1000,
    more_people: true, anonymous: 0, first: 0, last: 9, now: false, requests: [] };
  const problems = { now: 0, over: 0, worst: [] };
  const none = { problems, degraded: [], keys: [], happened: { feedback: 0 } };
  return {
    nothing: told(none),
    older: told({}),
    worse: told({ degraded: [worse("not_whole", 0.1234, 0.012), worse("first_token", 6.2, null)] }),
    over: told({ problems: { now: 0, over: 1, worst: [crash] } }),
    keys: told({ keys: [
      key({ checked_at: 1, quota: { requests: { left: 94 }, input_tokens: { left: 39000 } } }),
      key({ state: "refused", refused_since: 1 }),
      key({ spent_usd_today: 1.2, provider_spent_usd_today: 4.2, spend_max_usd_per_day: 5 }),
    ] }),
    marks: [marks({}), marks({ state: "unknown" }), marks({ state: "refused" }),
      marks({ provider_spent_usd_today: 4.2, spend_max_usd_per_day: 5 }),
      marks({ provider_spent_usd_today: 5, spend_max_usd_per_day: 5 })],
    feedback: told({ happened: { feedback: 12, feedback_down: 3 } }),
  };
})()"""


async def test_words(browser: str, service: str) -> None:
    """What is worse than usual, a problem that is over, a key and the thumbs read as a person would say them;
    nothing is shown where there is nothing."""
    async with open_page(browser, service) as page:
        said: dict[str, Any] = await page.evaluate(WORDS)

    assert said["nothing"] == said["older"] == []
    assert said["worse"] == [
        " chat: 12.3 % of requests are not answered whole, 1.2 % in the hour before. Since T.",
        " chat: one stream in 20 waits 6.20 s or longer for its first token. Since T.",
    ]
    assert said["over"] == ["over, last T Internal error: at x.py:73 times · 1,000 or more people · since T"]
    assert said["keys"] == [
        " one key ab12cd34: valid, checked T94 requests, 39K input tokens left",
        " one key ab12cd34: refused by the provider since T",
        " one key ab12cd34: valid$1.20 today · one: $4.20 of $5.00 for today",
    ]
    assert said["marks"] == ["#i-ok", "#i-wait", "#i-bad", "#i-degraded", "#i-bad"]
    assert said["feedback"] == [
        "3 thumbs down among 12 opinions and reports since the start of this process."
    ]
