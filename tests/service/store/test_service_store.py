"""The service with a store: where the settings have conversations, and only there."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dub5.service.app import Service
from dub5.service.config.settings import (
    ConversationSettings,
    DatabaseSettings,
    LoadedSettings,
    ProviderSettings,
    RouteSettings,
    Secret,
    SessionSettings,
    Settings,
)
from dub5.service.store.base import Database, Statement
from dub5.service.store.store import Store
from dub5.simulators.virtual import VirtualWire
from tests.support.fake_database import FakeDatabase
from tests.support.store_turns import PUT

COUNT_WORKERS = Statement("count_workers", "SELECT count(*) FROM worker")


def settings(url: str | None, **more: Any) -> LoadedSettings:
    found = Settings(
        (ProviderSettings("one", "openai", "http://one.test/v1"),),
        (RouteSettings("chat", ("one/m",)),),
        session=SessionSettings(),
        conversation=None if url is None else ConversationSettings(),
        database=DatabaseSettings(**more),
    )
    return LoadedSettings(found, {"one": ()}, (), database_url=None if url is None else Secret(url))


def service_of(url: str | None, database: Database | None = None, **more: Any) -> Service:
    return Service(settings(url, **more), wire=VirtualWire({}), database=database, seed="1")


def health(service: Service) -> tuple[str, dict[str, Any]]:
    _, found = service._current.ops.deep_health()
    return found["status"], found["components"]["database"]


async def until_ok(store: Store) -> None:
    while not store.is_ok():
        await asyncio.sleep(0.01)


@pytest.mark.real_sockets
async def test_sqlite(tmp_path: Path) -> None:
    """With a file of SQLite the tables are made at the start, and the process has its row of `worker`."""
    service = service_of(f"sqlite:///{tmp_path}/kept.db", patience_s=5.0)  # a busy machine is not lost
    await service.start()
    assert service.store is not None
    async with asyncio.timeout(20.0):
        await until_ok(service.store)
        while await service.store.read(COUNT_WORKERS.bind(), lane="worker") != [(1,)]:
            await asyncio.sleep(0.01)
    assert health(service) == (
        "ok",
        {"status": "ok", "engine": "sqlite", "outbox": 0, "outbox_bytes": 0, "last_error": None},
    )
    assert service.board.happened["migrated"] >= 1
    text = service.metrics.scrape().decode()
    assert "gateway_store_ready 1.0" in text
    assert 'gateway_store_duration_seconds_count{result="ok",statement="renew_worker"} 1.0' in text
    await service.aclose()


@pytest.mark.real_sockets
async def test_tables_that_nobody_made(tmp_path: Path) -> None:
    """Where the settings say so, tables are not made; the health says which are missing, and all goes on."""
    service = service_of(f"sqlite:///{tmp_path}/kept.db", migrate="never")
    await service.start()
    assert service.store is not None
    async with asyncio.timeout(20.0):
        while health(service)[1]["status"] != "behind":
            await asyncio.sleep(0.01)
    overall, database = health(service)
    assert overall == "ok"
    assert "not applied; run `dub5 db up`" in database["last_error"]
    assert service.store.status != "ok"
    await service.aclose()


async def test_a_given_database() -> None:
    """The simulation gives its own database, which is used as it is, and closed at the end."""
    database = FakeDatabase()
    service = service_of("sqlite:///never.db", database)
    await service.start()
    assert service.store is not None
    assert await service.store.write([PUT.bind("lane", 1)], lane="lane").kept(1.0) == [[]]
    await service.aclose()
    assert database.closed
    assert not Path("never.db").exists()


async def test_a_lost_database_in_the_health() -> None:
    """A lost database is a failing component with its error, and no failing service: answers go on."""
    database = FakeDatabase()
    database.trouble = "lost"
    service = service_of("sqlite:///never.db", database)
    await service.start()
    await asyncio.sleep(20.0)
    overall, component = health(service)
    assert overall == "ok"
    assert component["status"] == "lost"
    assert component["last_error"] == "connection refused"
    incident = service.board.snapshot()["incidents"][0]
    assert incident["target"] == "database"
    assert "connection refused" in incident["why"] or "probe" in incident["why"]
    text = service.metrics.scrape().decode()
    assert "gateway_store_ready 0.0" in text
    assert 'gateway_breaker_changes_total{after="open",scope="database"}' in text
    await service.aclose()


async def test_a_reload() -> None:
    """The store outlives a reload, which may change how long conversations are kept."""
    service = service_of("sqlite:///never.db", FakeDatabase())
    await service.start()
    store = service.store
    service.reload(settings("sqlite:///never.db"))
    assert service.store is store
    assert store is not None and store.keeper.keep_days == ConversationSettings().keep_days
    await service.aclose()


def test_without_conversations_no_engine_is_loaded() -> None:
    """A service without conversations has no store, and imports neither an engine nor what opens one."""
    engines = (
        "sqlite3",
        "asyncpg",
        *(f"dub5.service.store.{name}" for name in ("sqlite", "postgres", "opening")),
    )
    code = f"import sys, dub5.service.app; print(sorted(sys.modules.keys() & {set(engines)}))"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == "[]"
    assert service_of(None).store is None


async def test_room_on_the_disk(tmp_path: Path) -> None:
    """With SQLite the free room of its disk is a metric; a folder that is gone, or PostgreSQL, has none."""
    name = "gateway_store_room_bytes"
    for url, has_room in {
        f"sqlite:///{tmp_path}/dub5.db": True,
        f"sqlite:///{tmp_path}/gone/dub5.db": False,
        "postgresql://dub5@127.0.0.1:1/dub5": False,
    }.items():
        service = service_of(url)
        lines = [line for line in service.metrics.scrape().decode().splitlines() if line.startswith(name)]
        assert [float(line.split()[1]) > 1e6 for line in lines] == [True] * has_room, url
        service.metrics.close()
