"""The route handler of docs/use/browsers.md, run by Node in front of the real service."""

import asyncio
import json
import re
import shutil
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dub5.simulators.server.sockets import serve
from tests.support.child_processes import serving
from tests.support.source import ROOT
from tests.support.world import healthy, payloads, text_of

pytestmark = pytest.mark.real_sockets

KEY, WORDS = "a-caller-key", tuple(f"word{i} " for i in range(30))
TYPES = r": (?:Request|Response)\b"  # all types of the handler: Node 20 cannot take them away itself
CALL = """
import { POST } from "./route.mjs";
const [leave, ...messages] = process.argv.slice(2);
const leaving = new AbortController();
const request = new Request("http://page.test/api/chat", {
  method: "POST", signal: leaving.signal,
  body: JSON.stringify({ messages: messages.map((content) => ({ role: "user", content })), model: "dear" }),
});
const response = await POST(request);
const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
const pieces = [];
try {
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    pieces.push(read.value);
    if (leave === "leave" && pieces.length === 1) leaving.abort();
  }
} catch (error) { pieces.push(error.name); }
console.log(JSON.stringify({ status: response.status, headers: [...response.headers], pieces }));
"""
SETTINGS = """
[server]
caller_keys_env = ["DUB5_TEST_CALLER"]
[[provider]]
name = "one"
dialect = "openai"
base_url = "{provider}/v1"
key_env = ["DUB5_TEST_KEY"]
[[route]]
name = "chat"
targets = ["one/gpt-sim"]
"""


@pytest.fixture(scope="module")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("no node on PATH: the route handler of docs/use/browsers.md was not tried")
    return found


@pytest.fixture(scope="module")
def handler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the handler of the page, without its types."""
    (code,) = re.findall(r"```ts\n(.*?)```", (ROOT / "docs/use/browsers.md").read_text(), re.DOTALL)
    assert len(re.findall(TYPES, code)) == 2
    folder = tmp_path_factory.mktemp("handler")
    (folder / "route.mjs").write_text(re.sub(TYPES, "", code))
    (folder / "call.mjs").write_text(CALL)
    return folder


async def call(node: str, folder: Path, url: str, *, key: str = KEY, leave: bool = False) -> Any:
    """Call the handler once, in a process of its own."""
    how = "leave" if leave else "stay"
    process = await asyncio.create_subprocess_exec(
        *(node, str(folder / "call.mjs"), how, "Name three rivers."),
        env={"DUB5_URL": url, "DUB5_KEY": key, "PATH": "/usr/bin:/bin"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, complaint = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, complaint.decode()
    answer = json.loads(out)
    return answer | {"headers": dict(answer["headers"]), "text": "".join(answer["pieces"])}


def code_of(answer: Any) -> tuple[int, str]:
    return answer["status"], json.loads(answer["text"])["error"]["code"]


async def outcomes(url: str) -> Any:
    """Return the outcomes that the service has counted."""
    headers = {"authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=headers) as client, client.get(f"{url}/status") as response:
        return (await response.json())["outcomes"]


async def test_handler(node: str, handler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer streams through to its honest end; errors keep their shape; a visitor who leaves ends the
    call; a service that is not there is a 503."""
    monkeypatch.setenv("DUB5_TEST_CALLER", KEY)
    async with serve(healthy(first_s=0.05, gap_s=0.1, words=WORDS)) as provider:
        (tmp_path / "dub5.toml").write_text(SETTINGS.format(provider=provider.url))
        with serving(tmp_path / "dub5.toml") as (url, _):
            whole = await call(node, handler, url)
            events = payloads(whole["text"].encode())
            assert (whole["status"], text_of(whole["text"].encode())) == (200, "".join(WORDS))
            assert events[-1] == "[DONE]" and len(whole["pieces"]) > 3
            assert whole["headers"]["content-type"].startswith("text/event-stream")
            assert whole["headers"]["x-request-id"].startswith("req_")

            assert code_of(await call(node, handler, url, key="old-key")) == (401, "invalid_api_key")
            assert (await call(node, handler, url, leave=True))["pieces"][-1] == "AbortError"
            async with asyncio.timeout(60):
                while not (found := await outcomes(url))["cancelled"]:
                    pass  # the service hears of it a moment later
            assert (found["complete"], found["refused"]) == (1, 1)
    gone = await call(node, handler, "http://127.0.0.1:1")
    assert (code_of(gone), gone["headers"]["retry-after"]) == ((503, "unavailable"), "5")


def test_no_key_in_the_page(handler: Path) -> None:
    """The key comes from the server's environment, and none of its names is one that a bundler publishes."""
    code = (handler / "route.mjs").read_text()
    assert set(re.findall(r"process\.env\.(\w+)", code)) == {"DUB5_URL", "DUB5_KEY"}
