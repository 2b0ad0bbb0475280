"""Conversations over real sockets, in a process of its own, with a real file."""

import asyncio
import json
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from dub5.simulators.server.sockets import serve
from tests.support.child_processes import serving
from tests.support.conversation_world import PAGE, PATH, counting, messages, said
from tests.support.one_route import one_route

TEXT = "word " * 1_500
SETTINGS = (
    one_route("{url}/v1")
    + """
[session]
[conversation]
question_chars_max = 10_000
[database]
url = "sqlite:///{file}"
keep_s = 10
patience_s = 10
"""
)


class Browser:
    """A browser on a service: one connection, and a cookie."""

    def __init__(self, address: str, cookie: str = "") -> None:
        self._host = address.removeprefix("http://")
        self.cookie = cookie

    def send(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Send a request and return status and body."""
        connection = HTTPConnection(self._host, timeout=60)
        headers = {**PAGE, "cookie": self.cookie, "content-type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        reply = connection.getresponse()
        data = reply.read()
        if (cookie := reply.getheader("set-cookie")) is not None:
            self.cookie = cookie.partition(";")[0]
        connection.close()
        return reply.status, data

    def json(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request that succeeds, and return its JSON."""
        status, data = self.send(method, path, body)
        assert status in (200, 201), data
        return json.loads(data)


def talk(config: Path) -> tuple[str, str, list[Any]]:
    """Ask four questions that do not fit together; the process is killed right after the last `end`."""
    with serving(config) as (address, process):
        browser = Browser(address)
        browser.json("POST", "/v1/session")
        id_ = browser.json("POST", PATH, {})["id"]
        turns = f"{PATH}/{id_}/turns"
        asked = [browser.json("POST", turns, {"text": f"Question {n}? {TEXT}"}) for n in range(3)]
        tokens = sum(one[part]["tokens"] for one in asked for part in ("question", "answer"))
        assert tokens > 9_000, tokens
        status, data = browser.send("POST", turns, {"text": "And now?", "stream": True})
        assert status == 200 and said(data) == TEXT
        _, begin, *_, end = messages(data)
        assert begin["pruned"]["turns"] == 1 and end["kept"] is True
        process.kill()
        return browser.cookie, id_, [one["id"] for one in asked] + [begin["turn"]]


@pytest.mark.real_sockets
async def test_a_long_conversation_and_a_kill(tmp_path: Path) -> None:
    """9,000 tokens on a window of 8,000 are answered; after kill -9 whatever was said to be kept is there."""
    config = tmp_path / "dub5.toml"
    async with serve(counting(TEXT, prompt=0, answer=0, wait_s=0.0)) as provider:
        config.write_text(SETTINGS.format(url=provider.url, file=tmp_path / "kept.db"))
        cookie, id_, asked = await asyncio.to_thread(talk, config)

        def read_again() -> Any:
            with serving(config) as (address, _):
                browser = Browser(address, cookie)
                return browser.json("GET", f"{PATH}/{id_}")

        kept = await asyncio.to_thread(read_again)
    assert [turn["id"] for turn in kept["turns"]] == asked
    assert {turn["outcome"] for turn in kept["turns"]} == {"complete"}
    assert kept["turns"][-1]["answer"]["text"] == TEXT
