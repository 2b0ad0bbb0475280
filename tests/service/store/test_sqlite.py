"""SQLite: one fsync for all who wait, readers that wait for nobody, and files that cannot be used."""

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dub5.service.store import migrate, sqlite
from dub5.service.store.base import DatabaseBusy, DatabaseLost, Statement, StatementRefused
from dub5.service.store.url import parse_url
from tests.support.database_statements import TURN, WORKER, WORKERS, talk
from tests.support.databases import opened

pytestmark = pytest.mark.real_sockets

NOBODY = 65534
IDS = Statement("ids", "SELECT id FROM turn ORDER BY id")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of all statements that connections execute from now on."""
    found: list[str] = []
    connect = sqlite.connect

    def listening(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(found.append)
        return connection

    monkeypatch.setattr(sqlite, "connect", listening)
    return found


@pytest.fixture
def locked(sqlite_url: str) -> Iterator[sqlite3.Connection]:
    """Return a connection of another process, so to say, that can hold the database locked."""
    path = parse_url(sqlite_url).path
    asyncio.run(migrate.up(sqlite_url))
    connection = sqlite3.connect(path, isolation_level=None)
    yield connection
    connection.close()


async def test_one_fsync_for_all(sqlite_url: str, locked: sqlite3.Connection, said: list[str]) -> None:
    """64 writes that wait for the same lock share two commits; one that is refused undoes itself alone."""
    async with opened(sqlite_url) as database:
        await database.write([WORKER.bind("first", 1.0)])
        said.clear()
        locked.execute("BEGIN IMMEDIATE")
        writes = [
            asyncio.ensure_future(database.write([WORKER.bind(f"{i}", None if i == 40 else 1.0)]))
            for i in range(64)
        ]
        while "BEGIN IMMEDIATE" not in said:
            await asyncio.sleep(0)
        locked.execute("COMMIT")
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert [type(each) for each in results if not isinstance(each, list)] == [StatementRefused]
        assert said.count("COMMIT") <= 2
        assert len(await database.read(WORKERS.bind())) == 64


async def test_readers_wait_for_nobody(sqlite_url: str, locked: sqlite3.Connection) -> None:
    """A read is answered while a write waits for another process."""
    async with opened(sqlite_url) as database:
        await database.write([WORKER.bind("w", 1.0)])
        locked.execute("BEGIN IMMEDIATE")
        write = asyncio.ensure_future(database.write([WORKER.bind("v", 1.0)]))
        assert await database.read(WORKERS.bind()) == [("w", 1.0)]
        assert not write.done()
        locked.execute("COMMIT")
        await write


async def test_cancelled_write_is_kept(sqlite_url: str, locked: sqlite3.Connection) -> None:
    """A write whose caller has gone is committed all the same."""
    async with opened(sqlite_url) as database:
        locked.execute("BEGIN IMMEDIATE")
        write = asyncio.ensure_future(database.write([WORKER.bind("w", 1.0)]))
        await asyncio.sleep(0)
        write.cancel()
        locked.execute("COMMIT")
        await database.write([WORKER.bind("v", 1.0)])
        assert await database.read(WORKERS.bind()) == [("v", 1.0), ("w", 1.0)]


async def test_locked(sqlite_url: str, locked: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that waits too long for another process is lost, not refused, and says why."""
    monkeypatch.setattr(sqlite, "BUSY_S", 0.05)
    async with opened(sqlite_url) as database:
        locked.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseBusy, match="another process"):
            await database.write([WORKER.bind("w", 1.0)])
        locked.execute("ROLLBACK")
        await database.write([WORKER.bind("w", 1.0)])


async def test_full_disk(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk nothing is half written; when there is room again, the next write is kept."""
    await migrate.up(sqlite_url)
    connect, pages = sqlite.connect, [60]

    def small(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.execute(f"PRAGMA max_page_count = {pages[0]}")
        return connection

    monkeypatch.setattr(sqlite, "connect", small)
    async with opened(sqlite_url, migrated=False) as database:
        await database.write([talk("c"), TURN.bind("small", "c", "?", 1)])
        with pytest.raises(DatabaseLost, match="disk is full"):
            await database.write([TURN.bind("a", "c", "?", 1), TURN.bind("b", "c", "x" * 400_000, 1)])
        pages[0] = 10_000
        await database.write([TURN.bind("b", "c", "x" * 400_000, 1)])
        ids = await database.read(IDS.bind())
        assert ids == [("b",), ("small",)]


async def test_no_rights() -> None:
    """A file that may not be written, and a folder in which none may be made, are said."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another account")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        url = f"sqlite:///{folder}/a.db"
        await migrate.up(url)
        Path(folder, "a.db").chmod(0o644)
        os.seteuid(NOBODY)
        try:
            for place in ("a.db", "new/b.db"):
                async with opened(f"sqlite:///{folder}/{place}", migrated=False) as database:
                    with pytest.raises(DatabaseLost, match="rights"):
                        await database.write([WORKER.bind("w", 1.0)])
        finally:
            os.seteuid(0)


async def test_unusable_files(tmp_path: Path) -> None:
    """A folder, a file of something else, and a path below a file are said in words, with the path."""
    (tmp_path / "text").write_text("This is no database. " * 100)
    for place in ("", "text", "text/below.db"):
        path = tmp_path / place
        async with opened(f"sqlite:///{path}", migrated=False) as database:
            with pytest.raises(DatabaseLost) as caught:
                await database.write([WORKER.bind("w", 1.0)])
        assert str(path) in str(caught.value)
    assert (tmp_path / "text").read_text().startswith("This is no database.")


async def test_file_that_vanishes(sqlite_url: str) -> None:
    """Nothing is acknowledged that went into a file which was deleted, and the new one can be used."""
    async with opened(sqlite_url) as database:
        await database.write([WORKER.bind("w", 1.0)])
        folder = parse_url(sqlite_url).path.parent
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        with pytest.raises(DatabaseLost, match="dub5 db up"):
            await database.write([WORKER.bind("v", 1.0)])
        await migrate.up(sqlite_url)
        await database.write([WORKER.bind("v", 1.0)])
        assert await database.read(WORKERS.bind()) == [("v", 1.0)]


async def test_rights_of_new_files(sqlite_url: str) -> None:
    """Only the owner can read the file, its log and its folder."""
    async with opened(sqlite_url) as database:
        await database.write([WORKER.bind("w", 1.0)])
        folder = parse_url(sqlite_url).path.parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


async def test_safe_by_default(sqlite_url: str) -> None:
    """A write survives a loss of power where that is asked for, and foreign keys hold."""
    await migrate.up(sqlite_url)
    levels = {}
    for sync in ("power", "process"):
        connection = sqlite.connect(parse_url(sqlite_url).path, sync, 1.0, reads=False)  # type: ignore[arg-type]
        levels[sync] = [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("synchronous", "foreign_keys", "journal_mode")
        ]
        connection.close()
    assert levels == {"power": [2, 1, "wal"], "process": [1, 1, "wal"]}


async def test_reads_do_not_write(sqlite_url: str) -> None:
    """A statement that writes is refused where rows are read: there is one writer."""
    async with opened(sqlite_url) as database:
        with pytest.raises(StatementRefused):
            await database.read(WORKER.bind("w", 1.0))
        assert await database.read(WORKERS.bind()) == []


class Defect(BaseException):
    """What no code expects."""


@pytest.mark.parametrize("where", ["execute", "connect", "understood", "_code"])
async def test_a_defect(sqlite_url: str, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """A defect in a thread is told with its stack; all that wait get an error, and the next calls work."""
    told: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", told.append)

    def broken(*arguments: object, **options: object) -> None:
        raise Defect

    async with opened(sqlite_url) as database:
        with monkeypatch.context() as patch:
            patch.setattr(sqlite, where, broken)
            calls = [database.write([WORKER.bind(f"w{n}", None)]) for n in range(300)]
            calls += [database.read(WORKERS.bind("too many")) for _ in range(20)]  # type: ignore[list-item]
            async with asyncio.timeout(30.0):
                errors = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(error, DatabaseLost) and "Defect" in str(error) for error in errors)
        await database.write([WORKER.bind("w", 1.0)])
        assert await database.read(WORKERS.bind()) == [("w", 1.0)]
    for thread in threading.enumerate():
        if thread.name.startswith("dub5-sqlite"):
            thread.join(10.0)
    assert told and all(isinstance(each.exc_value, Defect) for each in told)


async def test_no_more_threads(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no more threads, calls are lost; later ones work."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with opened(sqlite_url) as database:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(DatabaseLost, match="can't start new thread"):
                await database.write([WORKER.bind("w", 1.0)])
        await database.write([WORKER.bind("w", 1.0)])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return the mount point of a disk with 80 MiB; migrations want 64 of them."""
    disk = tmp_path / "data"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(disk)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this machine mounts nothing for us; test_full_disk plays it by a limit of SQLite")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


async def test_full_disk_within_a_group(sqlite_url: str, small_disk: Path) -> None:
    """On a disk that is really full none of a group is acknowledged; with room again, all can be kept."""
    async with opened(sqlite_url) as database:
        await database.write([talk("c")])
        filler = small_disk / "filler"
        filler.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 300_000))

        def group() -> list[Any]:
            sizes = [10, 10, 600_000, 10, 10]
            return [database.write([TURN.bind(f"t{n}", "c", "x" * size, 1)]) for n, size in enumerate(sizes)]

        results = await asyncio.gather(*group(), return_exceptions=True)
        kept = {f"t{n}" for n, result in enumerate(results) if not isinstance(result, Exception)}
        assert "t2" not in kept
        assert {row[0] for row in await database.read(IDS.bind())} == kept
        filler.unlink()
        again = await asyncio.gather(*group(), return_exceptions=True)
        assert not any(isinstance(result, DatabaseLost) for result in again)  # refused: kept before
        assert len(await database.read(IDS.bind())) == 5
