"""Pages of other origins in a real browser: a listed one chats and streams, another one is refused."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from dub5.simulators.answers import Proof, judge
from tests.support.browser import open_page
from tests.support.child_processes import child, serving

pytestmark = pytest.mark.real_sockets

KEY, QUESTION = "a-caller-key", "Name three rivers."
ASK = """(async () => {
  const response = await fetch("%s/v1/chat/completions", {
    method: "POST",
    headers: {authorization: "Bearer %s", "content-type": "application/json", "x-stainless-lang": "js"},
    body: JSON.stringify({model: "chat", stream: true, messages: [{role: "user", content: "%s"}]}),
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const pieces = [];
  for (let read = await reader.read(); !read.done; read = await reader.read()) pieces.push(read.value);
  const seen = (name) => response.headers.get(name);
  return {status: response.status, id: seen("x-request-id"), target: seen("x-dub5-target"), pieces};
})().catch((error) => ({error: String(error)}))"""


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    with child("simulators", "--provider", "one=openai", "--admin-port", "0", "--leash") as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["providers"]["one"]["url"]


@asynccontextmanager
async def page_server() -> AsyncIterator[str]:
    """Serve an empty page; yield its origin."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(
            text="<!doctype html><link rel=icon href=data:,><title>elsewhere</title>",
            content_type="text/html",
        )

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def write_settings(path: Path, provider: str, origin: str) -> Path:
    path.write_text(
        f"""
[server]
caller_keys_env = ["DUB5_TEST_CALLER"]
origins = ["{origin}"]
[[provider]]
name = "one"
dialect = "openai"
base_url = "{provider}/v1"
key_env = ["DUB5_TEST_KEY"]
[[route]]
name = "chat"
targets = ["one/gpt-sim"]
"""
    )
    return path


async def happened(url: str) -> Any:
    """Return the counters of the service."""
    headers = {"authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=headers) as client, client.get(f"{url}/status") as response:
        return (await response.json())["happened"]


async def test_origins(browser: str, provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of a listed origin streams an answer with its key, and reads our headers; one of another origin
    gets nothing, not even what needs no key."""
    monkeypatch.setenv("DUB5_TEST_CALLER", KEY)
    async with page_server() as listed, page_server() as foreign:
        with serving(write_settings(tmp_path / "dub5.toml", provider, listed)) as (url, _):
            ask, look = ASK % (url, KEY, QUESTION), f"fetch('{url}/livez').then((r) => r.status, String)"
            async with open_page(browser, listed + "/") as page:
                seen, live = await page.evaluate(ask), await page.evaluate(look)
                assert page.errors == []
            assert (seen["status"], seen["target"], live) == (200, "one/gpt-sim", 200), seen
            assert seen["id"].startswith("req_")
            events = [line.removeprefix("data: ") for line in "".join(seen["pieces"]).split("\n\n") if line]
            assert len(seen["pieces"]) > 1 and events[-1] == "[DONE]"
            choices = [json.loads(event)["choices"] for event in events[:-1]]
            text = "".join(choice["delta"].get("content") or "" for found in choices for choice in found)
            assert judge(text, QUESTION) is Proof.WHOLE

            async with open_page(browser, foreign + "/") as page:
                assert await page.evaluate(ask) == {"error": "TypeError: Failed to fetch"}
                assert await page.evaluate(look) == "TypeError: Failed to fetch"
                assert any("blocked by CORS policy" in error for error in page.errors)
            counters = await happened(url)
    assert counters["origin_refused"] == 1  # the preflight; no question came after it
