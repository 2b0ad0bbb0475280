"""Real processes that are killed in mid-deck: the deck ends whole, and no kept part is asked again."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import Popen
from typing import Any

import aiohttp
import pytest

from dub5.service.store.base import Database, Statement
from dub5.simulators.server.thread import ProviderHandle, SimulatorThread
from tests.support.child_processes import child
from tests.support.databases import opened
from tests.support.deck_world import text_of
from tests.support.machine import free_port
from tests.support.one_route import one_route

pytestmark = pytest.mark.real_sockets

PARTS = 8
LEASE_S = 2.0
KEY = "a-key-for-a-simulator"
ASK_S = 0.25
SETTINGS = (
    one_route("{provider}/v1")
    + """
[server]
port = {port}
caller_keys_env = ["DUB5_TEST_KEY"]
[database]
url_env = "DUB5_TEST_DATABASE_URL"
patience_s = 2.0
keep_s = 5.0
[conversation]
[documents]
[jobs]
workers = {workers}
"""
)
KEPT = Statement("kept", "SELECT number FROM deck_part WHERE source = 'model'")


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderHandle]:
    """A provider that writes cards, and takes a while for each answer."""
    thread = SimulatorThread()
    stall = {"kind": "stall", "before": "first_token", "s": ASK_S}
    handle = thread.start("openai", (stall,), {"models": ["m"]})
    yield handle
    handle.close()
    thread.close()


class Processes:
    """The processes of a test, and what a client asks the one that serves."""

    def __init__(self, stack: ExitStack, folder: Path, provider: str) -> None:
        self.port = free_port()
        self._stack = stack
        self._folder = folder
        self._given = {"provider": provider, "port": self.port}

    async def begin(self, verb: str, workers: int = 1) -> "Popen[str]":
        """Start a process; return it once it is ready."""
        config = self._folder / f"{verb}-{workers}.toml"
        config.write_text(SETTINGS.format(**self._given, workers=workers), encoding="utf-8")
        arguments = ("tests.support.short_lease", str(LEASE_S), verb, "--config", str(config))
        process = self._stack.enter_context(child(*arguments))
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        assert line.startswith(("listening", "working")), line
        return process

    async def call(self, method: str, path: str, **more: Any) -> Any:
        """Return the JSON of a reply."""
        headers = {"authorization": f"Bearer {KEY}"}
        url = f"http://127.0.0.1:{self.port}{path}"
        async with aiohttp.request(method, url, headers=headers, **more) as reply:
            found = await reply.json()
            assert reply.status < 300, found
            return found

    async def make(self) -> Any:
        """Upload a text, and begin a deck of it."""
        document = await self.call("POST", "/v1/documents?name=plants.txt", data=text_of(PARTS).encode())
        return await self.call("POST", "/v1/decks", json={"document": document["id"]})

    async def until_over(self, id_: str) -> Any:
        """Return the deck once its job is over."""
        async with asyncio.timeout(60):
            while True:
                deck = await self.call("GET", f"/v1/decks/{id_}")
                if deck["job"]["state"] in ("done", "failed"):
                    return deck
                await asyncio.sleep(0.1)  # what other processes do has no event


async def kept_parts(database: Database, at_least: int = 0) -> set[object]:
    """Return the parts that are kept, once there are so many."""
    async with asyncio.timeout(60):
        while len(kept := await database.read(KEPT.bind())) < at_least:
            await asyncio.sleep(0.02)
    return {number for (number,) in kept}


def chats(provider: ProviderHandle) -> int:
    """Return how many chats the provider has been asked for and has ended, or was left by."""
    return sum(line.path.endswith("/completions") for line in provider.ledger())


async def check(
    processes: Processes, provider: ProviderHandle, id_: str, kept: set[object], before: int
) -> None:
    """Check that a deck is whole, and that after `before` chats none was about a part that was kept."""
    deck = await processes.until_over(id_)
    assert (deck["job"]["state"], deck["parts"], deck["template_parts"]) == ("done", PARTS, 0)
    assert {card["part"] for card in deck["cards"]} == set(range(1, PARTS + 1))
    assert {card["source"] for card in deck["cards"]} == {"model"}
    assert chats(provider) - before == PARTS - len(kept)


async def test_service_killed(
    provider: ProviderHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole service is killed in mid-deck, and started again over SQLite."""
    database = f"sqlite:///{tmp_path}/kept.db"
    monkeypatch.setenv("DUB5_TEST_DATABASE_URL", database)
    with ExitStack() as stack:
        processes = Processes(stack, tmp_path, provider.url)
        service = await processes.begin("serve")
        deck = await processes.make()
        async with opened(database, migrated=False) as seen:
            await kept_parts(seen, 3)
            service.kill()
            service.wait()
            await asyncio.sleep(2 * ASK_S)  # until the provider has seen that its client is gone
            kept, before = await kept_parts(seen), chats(provider)
        assert 3 <= len(kept) < PARTS
        await processes.begin("serve")
        await check(processes, provider, deck["id"], kept, before)


async def test_worker_killed(
    provider: ProviderHandle, tmp_path: Path, postgres: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two `dub5 work` over PostgreSQL, the one with the deck is killed: the other one takes over."""
    database = postgres.new_database()
    monkeypatch.setenv("DUB5_TEST_DATABASE_URL", database)
    with ExitStack() as stack:
        processes = Processes(stack, tmp_path, provider.url)
        begin = processes.begin
        _, first, second = await asyncio.gather(begin("serve", 0), begin("work", 1), begin("work", 2))
        second.send_signal(signal.SIGSTOP)  # so that the first one has the deck
        deck = await processes.make()
        async with opened(database, migrated=False) as seen:
            await kept_parts(seen, 2)
            second.send_signal(signal.SIGCONT)
            first.kill()
            first.wait()
            await asyncio.sleep(2 * ASK_S)
            kept, before = await kept_parts(seen), chats(provider)
            assert 2 <= len(kept) < PARTS
        await check(processes, provider, deck["id"], kept, before)
