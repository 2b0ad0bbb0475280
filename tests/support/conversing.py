"""People who hold conversations with a real service over sockets; the service as a process to be killed."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.machine import free_port
from tests.support.one_route import one_route

KEY = "a-key-of-the-people-of-this-test"
START_S = 30.0
SETTINGS = (
    one_route("{provider}/v1")
    + """
[route.timeouts]
between_tokens_s = 100.0  # the provider waits for a test, on a machine that may be busy
[server]
port = {port}
caller_keys_env = ["DUB5_TEST_CALLERS_KEY"]
[database]
url_env = "DUB5_TEST_DATABASE_URL"
patience_s = {patience_s}
keep_s = {keep_s}
[conversation]
linger_s = {linger_s}
"""
)


class Interrupted(Exception):
    """The connection was lost: nobody knows what became of the request."""


class ServiceProcess:
    """The service as a process on a port of its own: `start`, `kill`, and `start` again."""

    def __init__(
        self,
        folder: Path,
        name: str,
        database: str,
        provider: str,
        *,
        patience_s: float = 2.0,
        keep_s: float = 5.0,
        linger_s: float = 15.0,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._config = folder / f"{name}.toml"
        settings = SETTINGS.format(
            port=self.port, provider=provider, patience_s=patience_s, keep_s=keep_s, linger_s=linger_s
        )
        self._config.write_text(settings, encoding="utf-8")
        self._environ = os.environ | {"DUB5_TEST_CALLERS_KEY": KEY, "DUB5_TEST_DATABASE_URL": database}
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start the service; return when it answers."""
        command = [sys.executable, "-m", "dub5.service", "serve", "--config", str(self._config)]
        with self._log.open("ab") as log:
            pipes = {"stdout": subprocess.PIPE, "stderr": log}
            self._process = subprocess.Popen(command, env=self._environ, **pipes)  # noqa: ASYNC220  # for an instant
        assert self._process.stdout is not None
        async with asyncio.timeout(START_S):
            line = await asyncio.to_thread(self._process.stdout.readline)
        assert line.startswith(b"listening"), self._log.read_text(encoding="utf-8")[-2000:]

    def kill(self) -> None:
        """End the process as `kill -9` does."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


class Person:
    """One conversation, and what its client was told. `told`: the answer of each turn that ended as kept."""

    def __init__(self, http: aiohttp.ClientSession, url: str, number: int) -> None:
        self.conversation = ""
        self.told: dict[str, str] = {}
        self.asked = 0
        self._http = http
        self._url = url
        self._number = number

    async def begin(self) -> None:
        """Begin the conversation."""
        reply = await self._call("POST", "/v1/conversations", {"title": f"Conversation {self._number}"})
        assert reply["kept"], reply
        self.conversation = reply["id"]

    async def ask(self, *, stream: bool) -> dict[str, Any]:
        """Ask the next question, or the last one again if it was interrupted; return what it ended with."""
        ask = {"text": f"Question {self.asked} of {self._number}", "id": f"q-{self.asked}", "stream": stream}
        turns = f"/v1/conversations/{self.conversation}/turns"
        found = await (self._streamed(turns, ask) if stream else self._call("POST", turns, ask))
        self.asked += 1
        if found["kept"] and found["outcome"] == "complete":
            text = found["text"] if stream else found["answer"]["text"]
            self.told[found["turn"] if stream else found["id"]] = text
        return found

    async def read(self) -> list[dict[str, Any]]:
        """Return all turns of the conversation, oldest first."""
        found: list[dict[str, Any]] = []
        more = True
        while more:
            before = f"?before={found[0]['id']}" if found else ""
            page = await self._call("GET", f"/v1/conversations/{self.conversation}{before}")
            found, more = page["turns"] + found, page["has_more"]
        return found

    async def _streamed(self, path: str, ask: dict[str, Any]) -> dict[str, Any]:
        """Return the `end` of a stream with its text. Raises Interrupted."""
        text = ""
        async for message in self._messages(path, ask):
            match message["type"]:
                case "delta":
                    text += message["text"]
                case "end":
                    return {**message, "text": text}
                case "error":
                    raise Interrupted
        raise Interrupted

    async def _messages(self, path: str, ask: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        try:
            async with self._http.post(self._url + path, json=ask) as reply:
                assert reply.status == 200, await reply.text()
                async for line in reply.content:
                    if line.startswith(b"data: "):
                        yield json.loads(line.removeprefix(b"data: "))
        except (aiohttp.ClientError, OSError):
            raise Interrupted from None

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the JSON of a reply. Raises Interrupted."""
        try:
            async with self._http.request(method, self._url + path, json=body) as reply:
                found: dict[str, Any] = await reply.json()
                assert reply.status < 300, found
                return found
        except (aiohttp.ClientError, OSError):
            raise Interrupted from None


def client() -> aiohttp.ClientSession:
    """Return a client with the people's key."""
    headers = {"authorization": f"Bearer {KEY}"}
    return aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0))


async def metric(url: str, series: str) -> float:
    """Return the value of one series of a service's metrics; 0 if it is not there."""
    async with client() as http, http.get(f"{url}/metrics") as reply:
        assert reply.status == 200, await reply.text()
        lines = (await reply.text()).splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{series} ")), 0.0)
