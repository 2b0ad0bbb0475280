"""A database that is exchanged for an empty one while the service runs, and one that only reads."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from urllib.parse import urlsplit

import pytest

from dub5.service.config.settings import DatabaseSettings
from dub5.service.events import BreakerChanged, Crashed, Event, Events
from dub5.service.store import migrate
from dub5.service.store.base import BoundStatement, DatabaseLost, NotMigrated, Row, Statement
from dub5.service.store.keeper import RENEW
from dub5.service.store.opening import ConfiguredStore
from dub5.service.store.store import Store, StoreLost, StoreOptions
from dub5.service.store.url import parse_url
from tests.support.fake_database import WRONG, FakeDatabase
from tests.support.store_turns import PUT, KeptStore, until_in_use

WORKERS = Statement("workers", "SELECT id FROM worker")
BACK_S = 20.0  # 5 s are promised; the machine may be busy


@asynccontextmanager
async def configured(url: str, settings: DatabaseSettings) -> AsyncIterator[KeptStore]:
    events: list[Event] = []
    store = ConfiguredStore(url, settings, 30, Events(events.append), Random(1))
    await store.start()
    try:
        yield KeptStore(store, events)
    finally:
        await store.aclose()


def exchange(url: str, request: pytest.FixtureRequest) -> None:
    """Put an empty database in the place of this one."""
    parsed = parse_url(url)
    if parsed.engine == "sqlite":
        for path in parsed.path.parent.glob(f"{parsed.path.name}*"):
            path.unlink()
        return
    name, server = urlsplit(url).path[1:], request.getfixturevalue("postgres")
    server.sql(f"DROP DATABASE {name} WITH (FORCE)")
    server.sql(f"CREATE DATABASE {name}")


async def until_renewed(store: Store) -> None:
    """Wait until the row of this process is in the database."""
    async with asyncio.timeout(BACK_S):
        while True:
            store.write([RENEW.bind(store.worker, 1.0)], lane="worker")
            try:
                if await store.read(WORKERS.bind(), lane="worker") == [(store.worker,)]:
                    return
            except StoreLost:
                await asyncio.sleep(0.02)


@pytest.mark.real_sockets
async def test_exchanged(url: str, request: pytest.FixtureRequest) -> None:
    """The tables are made again in an empty database that takes the place of the old one."""
    async with configured(url, DatabaseSettings(patience_s=2.0)) as kept:
        for _ in range(2):
            await until_renewed(kept.store)
            await asyncio.to_thread(exchange, url, request)
        await until_renewed(kept.store)


@pytest.mark.real_sockets
async def test_exchanged_and_checked_only(url: str, request: pytest.FixtureRequest) -> None:
    """Where tables are only checked, the health says what to do, until somebody has done it."""
    await migrate.up(url)
    async with configured(url, DatabaseSettings(patience_s=2.0, migrate="never")) as kept:
        await until_renewed(kept.store)
        await asyncio.to_thread(exchange, url, request)
        async with asyncio.timeout(BACK_S):
            while kept.store.snapshot()["status"] != "behind":
                kept.store.write([RENEW.bind(kept.store.worker, 1.0)], lane="worker")
                await asyncio.sleep(0.02)
        assert "dub5 db up" in kept.store.snapshot()["last_error"]
        await migrate.up(url)
        await until_renewed(kept.store)


class Tables:
    """Tables that are missing until they are made; `make` may succeed and make nothing."""

    def __init__(self, database: FakeDatabase) -> None:
        self.made_at_s: list[float] = []
        self.missing = False
        self.hopeless = False
        self._answer = database._answer
        database._answer = self.answer  # type: ignore[method-assign]

    async def answer(self, bound: object) -> None:
        await self._answer(bound)  # type: ignore[arg-type]
        if self.missing and bound.statement.name == "put":  # type: ignore[attr-defined]
            raise NotMigrated("no such table")

    async def make(self) -> str | None:
        self.made_at_s.append(asyncio.get_running_loop().time())
        self.missing = self.missing and self.hopeless
        return None


async def test_missing_tables_are_made_within_5_s() -> None:
    """Tables that are found missing are made at once; nothing that waits is lost, and nobody waits long."""
    database = FakeDatabase()
    tables = Tables(database)
    store = Store(database, StoreOptions(), Events(lambda event: None), Random(1), tables.make)
    await store.start()
    tables.missing = True
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    assert await store.write([PUT.bind("lane", 1)], lane="lane").kept(60.0) is None
    assert loop.time() - began_s < 0.05
    await asyncio.sleep(1.0)
    assert database.lanes["lane"] == [1]
    tables.missing = True
    store.write([PUT.bind("lane", 2)], lane="lane")
    await asyncio.sleep(5.0)
    assert database.lanes["lane"] == [1, 2]
    await store.aclose()


async def test_missing_tables_that_cannot_be_made() -> None:
    """Tables that are missing again and again are made again each few seconds, and the breaker stays calm."""
    events: list[Event] = []
    database = FakeDatabase()
    tables = Tables(database)
    store = Store(database, StoreOptions(), Events(events.append), Random(1), tables.make)
    await store.start()
    tables.missing = tables.hopeless = True
    store.write([PUT.bind("lane", 1)], lane="lane")
    await asyncio.sleep(100.0)
    assert 20 <= len(tables.made_at_s) <= 30
    assert sum(isinstance(event, BreakerChanged) for event in events) <= 100 / 4
    await store.aclose()


@pytest.mark.parametrize("which", ["all", "of one table"])
async def test_only_reads(which: str) -> None:
    """A database that answers queries and takes no writes stays lost until it takes them."""
    events: list[Event] = []
    database = FakeDatabase()
    store = Store(database, StoreOptions(), Events(events.append), Random(1))
    await store.start()
    write = database.write

    async def refuse(bounds: list[BoundStatement]) -> list[list[Row]]:
        if which == "all" or bounds[0].statement is PUT:
            raise DatabaseLost("the disk is full, or a right is missing")
        return await write(bounds)

    database.write = refuse  # type: ignore[method-assign]
    for number in range(60):
        store.write([PUT.bind("lane", number)], lane="lane")
        await asyncio.sleep(1.0)
    closed = [each for each in events if isinstance(each, BreakerChanged) and each.after.value == "closed"]
    assert closed == []
    database.write = write  # type: ignore[method-assign]
    await until_in_use(store, 5.0)
    await asyncio.sleep(1.0)
    assert database.lanes["lane"] == list(range(60))
    await store.aclose()


async def test_a_refused_probe() -> None:
    """A write that is refused when it is sent as the probe is told and dropped, and proves the database."""
    events: list[Event] = []
    database = FakeDatabase()
    database.trouble = "lost"
    store = Store(database, StoreOptions(), Events(events.append), Random(1))
    await store.start()
    wrong = store.write([WRONG.bind()], lane="a")
    await asyncio.sleep(20.0)
    database.trouble = "none"
    await until_in_use(store, 5.0)
    assert wrong.done
    assert Crashed("", "StatementRefused at wrong") in events
    await store.aclose()
