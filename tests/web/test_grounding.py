"""A conversation about a document on the page, in a real browser: sources, and what is not told."""

from pathlib import Path

import pytest

from tests.support.browser import open_page
from tests.support.child_processes import serving
from tests.support.paced_provider import paced_provider
from tests.support.page import LAST, ask, text
from tests.support.relayed_page import SETTINGS
from tests.support.resumes import LIE, RESUME, TRUE
from tests.support.studying import press, reload, upload

pytestmark = pytest.mark.real_sockets

FLAGS = f"[...{LAST}.querySelectorAll('.more .flag')].map((one) => one.textContent)"
FLAGS_OF_EACH = "[...document.querySelectorAll('.turn')].map((one) => one.querySelectorAll('.flag').length)"
PASSAGE = f"{LAST}.querySelector('details.source')"


async def test_resume_chat(browser: str, tmp_path: Path) -> None:
    """From a resume a person comes to a conversation about it. A mark in the answer opens its passage; what
    was left out, and what the resume does not say, is labelled, and is after a reload."""
    file = tmp_path / "dub5.toml"
    async with paced_provider() as provider:
        settings = SETTINGS.format(
            conversation="[documents]", database=tmp_path / "dub5.db", provider=provider.url
        )
        file.write_text(settings)
        with serving(file) as (url, _):
            async with open_page(browser, url) as page:
                await upload(page, "jane.txt", RESUME.encode())
                await press(page, "Ask about this document")
                note = "document.querySelector('#chat-note')"
                await page.until(f"!{note}.hidden && {note}.textContent.includes('about “jane.txt”')")
                assert await page.evaluate(
                    "location.hash.startsWith('#c/') && document.querySelector('#study').hidden"
                )

                provider.reply(f"{TRUE} {LIE}", "NOT_TOLD")
                assert await ask(page, "What did she do at Acme?") == "whole"
                await page.until(f"{PASSAGE} !== null")
                assert await page.evaluate(FLAGS) == ["1 statement left out: not found in the document."]
                assert (await text(page, ".text")).startswith(TRUE)
                await page.evaluate(f"{LAST}.querySelector('.mark').click()")
                assert await page.evaluate(f"{PASSAGE}.open")
                assert await page.evaluate("document.activeElement.textContent") == "[4] page 1"
                assert "Led a team of 5 engineers" in await text(page, "details.source blockquote")

                assert await ask(page, "What is her salary?") == "whole"
                await page.until(f"({FLAGS}).length > 0")
                assert await page.evaluate(FLAGS) == ["The document does not say this."]
                assert await page.evaluate(f"{PASSAGE}") is None

                await reload(page)
                await page.until(f"JSON.stringify({FLAGS_OF_EACH}) === '[1,1]'")
                await page.until("document.querySelectorAll('.mark').length === 1")
                assert page.errors == []


PLAIN = """(async () => {
  const { ask } = await import("/web/ask.js");
  const real = window.fetch;
  const grounding = { grounded: true, sources: [], withheld: 2 };
  const told = async (stream, ...bodies) => {
    const reply = bodies.map((body) => (stream ? `data: ${body}\\n\\n` : body)).join("");
    window.fetch = async (path, ...more) => (path === "/status" ? real(path, ...more) : new Response(reply));
    let found;
    const { signal } = new AbortController();
    for await (const step of ask({ stream, messages: [] }, {}, signal)) found = step.grounding;
    return found;
  };
  const choices = (fields) => [{ index: 0, ...fields }];
  const text = JSON.stringify({ choices: choices({ delta: { content: "a" } }) });
  const end = (more) => JSON.stringify({ choices: choices({ delta: {}, finish_reason: "stop" }), ...more });
  const whole = { choices: choices({ message: { content: "a" }, finish_reason: "stop" }), grounding };
  return [await told(true, text, end({ grounding }), "[DONE]"), await told(false, JSON.stringify(whole)),
    (await told(true, text, end({}), "[DONE]")) ?? null];
})()"""


async def test_without_conversations(browser: str, service: str) -> None:
    """An answer that is not kept has its sources in the last chunk of its stream, or beside its
    text in JSON."""
    async with open_page(browser, service) as page:
        streamed, whole, of_no_document = await page.evaluate(PLAIN)

    assert streamed == whole == {"grounded": True, "sources": [], "withheld": 2}
    assert of_no_document is None
