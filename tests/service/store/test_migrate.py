"""Migrations: each file whole or not at all, once, by whoever comes first."""

import asyncio
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from dub5.service.store import migrate, postgres, sqlite
from dub5.service.store.base import DatabaseLost, StatementRefused
from dub5.service.store.migrate import Migration, MigrationFailed, MigrationSession, Step
from tests.support.database_statements import CONVERSATION, WORKER
from tests.support.databases import opened
from tests.support.source import ROOT

pytestmark = pytest.mark.real_sockets

FIRST = Migration(1, "first", "sum1", ("CREATE TABLE one (id TEXT PRIMARY KEY)",), ("DROP TABLE one",))
BROKEN = Migration(2, "second", "sum2", ("CREATE TABLE two (id TEXT)", "CREATE TABLE one (id TEXT)"), ())
LOST = Migration(2, "second", "sum4", ("CREATE TABLE two (id TEXT)", "DELETE FROM three"), ())
MENDED = Migration(2, "second", "sum3", ("CREATE TABLE two (id TEXT)",), ("DROP TABLE two",))
# What only a file named contract_... may hold: the release before would no longer work.
REMOVES = re.compile(r"\b(DROP|RENAME|TYPE|SET\s+NOT\s+NULL)\b", re.IGNORECASE)
ADDED_COLUMN = re.compile(r"\bADD\s+(?:COLUMN\s+)?\w+[^,;]*", re.IGNORECASE)


async def _steps(url: str) -> list[Step]:
    session = migrate.open_session(url)
    try:
        return await migrate.steps(session, (FIRST, MENDED))
    finally:
        await session.aclose()


def test_four_processes_at_once(url: str) -> None:
    """Of four processes that migrate at the same time each file is applied by one; others find it done."""
    command = [sys.executable, "-m", "dub5", "db", "up", "--url", url]
    started = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(4)
    ]
    said = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0] * 4, said
    ends = [text.splitlines()[-1] for text in said]
    counts = [int(end.removesuffix(" applied.")) for end in ends if end != "Nothing was pending."]
    assert sum(counts) == len(migrate.read_migrations("sqlite")), said


async def test_four_connections_at_once(url: str) -> None:
    """The same in one process; each file has one row, and says how long it took and for which release."""
    done = await asyncio.gather(*(migrate.up(url, release="1.2.3") for _ in range(4)))
    rows = sorted((row for rows in done for row in rows), key=lambda row: row.number)
    assert [row.number for row in rows] == list(range(1, len(migrate.read_migrations("sqlite")) + 1))
    assert all(row.release == "1.2.3" and row.took_ms >= 0 and row.at > 1e9 for row in rows)
    assert await migrate.migrate_at_start(url) == []


async def test_a_failure_undoes_its_file(url: str) -> None:
    """Nothing stays of a file whose second statement fails; those before stay, and the mended one applies."""
    for broken in (BROKEN, LOST):
        with pytest.raises(MigrationFailed, match=r"0002_second: .*nothing of it was applied"):
            await migrate.up(url, files=(FIRST, broken))
    assert [step.state for step in await _steps(url)] == ["applied", "pending"]
    assert [row.label for row in await migrate.up(url, files=(FIRST, MENDED))] == ["0002_second"]
    assert [step.state for step in await _steps(url)] == ["applied", "applied"]


async def test_changed_file(url: str) -> None:
    """Nothing is applied where a file is not the one that was applied."""
    await migrate.up(url, files=(FIRST,))
    with pytest.raises(MigrationFailed, match="0001_first: the file is not the one"):
        await migrate.up(url, files=(replace(FIRST, sum="other"), MENDED))
    assert [step.state for step in await _steps(url)] == ["applied", "pending"]


async def test_newer_database(url: str) -> None:
    """A database that is newer than the release is left alone and works; only the newer release undoes it."""
    files = migrate.read_migrations("sqlite" if url.startswith("sqlite") else "postgresql")
    later = Migration(len(files) + 1, "later", "sum", ("ALTER TABLE worker ADD COLUMN note TEXT",), ())
    await migrate.up(url, files=(*files, later))
    assert await migrate.up(url) == []
    async with opened(url) as database:
        assert await database.write([WORKER.bind("w", 1.0)]) == [[("w", 1.0)]]
    with pytest.raises(MigrationFailed, match="_later: undo this with the release that applied it"):
        await migrate.down(url, 0)


async def test_down_and_up_again(url: str) -> None:
    """`down` takes everything away, and says before how many rows; `up` brings the tables back."""
    async with opened(url) as database:
        await database.write([CONVERSATION.bind(name, "o", "t", "m", 1.0, 1.0) for name in "ab"])
    session = migrate.open_session(url)
    assert "conversation (2 rows)" in await migrate.losses(session, 0)
    await session.aclose()
    assert len(await migrate.down(url, 0)) == len(migrate.read_migrations("sqlite"))
    assert await migrate.down(url, 0) == []
    async with opened(url) as database:
        assert await database.write([WORKER.bind("w", 1.0)]) == [[("w", 1.0)]]


async def test_failed_undo(url: str) -> None:
    """Nothing stays undone of a file whose undo part fails."""
    session = migrate.open_session(url)
    await migrate.up(url)
    await session.run("ALTER TABLE turn RENAME TO other")
    with pytest.raises(MigrationFailed, match="nothing of it was undone"):
        await migrate.down(url, 0)
    await session.run("ALTER TABLE other RENAME TO turn")
    await session.aclose()
    async with opened(url) as database:
        assert await database.write([WORKER.bind("w", 1.0)]) == [[("w", 1.0)]]


async def test_in_use(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table in use is tried three times, each for a bounded time, then said; afterwards it can be done."""
    monkeypatch.setattr(sqlite, "MIGRATION_BUSY_S", 0.05)
    monkeypatch.setattr(postgres, "MIGRATION_LOCK_S", 0.05)
    more = Migration(2, "more", "sum2", ("ALTER TABLE one ADD COLUMN more TEXT",), ())
    await migrate.up(url, files=(FIRST,))
    other, said = migrate.open_session(url), []
    await _hold(other)
    with pytest.raises(MigrationFailed, match=r"in use.*try again"):
        await migrate.up(url, said.append, files=(FIRST, more))
    assert said.count("0002_more: in use; trying again") == 2
    await other.run("ROLLBACK")
    await other.aclose()
    assert len(await migrate.up(url, files=(FIRST, more))) == 1


async def _hold(session: MigrationSession) -> None:
    await session.run(migrate.BEGIN[session.engine])
    await session.run("INSERT INTO one (id) VALUES ('x')")


async def test_alone(url: str) -> None:
    """A file marked `-- alone` may build an index while others read and write; four at once do it once."""
    engine = "sqlite" if url.startswith("sqlite") else "postgresql"
    text = "CREATE INDEX {concurrently} one_again ON one (id);\n"
    index = Migration(2, "index", "sum2", tuple(migrate.statements(text, engine)), (), alone=True)
    await migrate.up(url, files=(FIRST,))
    done = await asyncio.gather(*(migrate.up(url, files=(FIRST, index)) for _ in range(4)))
    assert sorted(map(len, done)) == [0, 0, 0, 1]


async def test_lock_is_bounded(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for another process that migrates gives up after a time, and says so."""
    monkeypatch.setattr(sqlite, "MIGRATION_BUSY_S", 0.05)
    monkeypatch.setattr(migrate, "LOCK_WAIT_S", 0.05)
    other = migrate.open_session(url)
    await other.lock(1.0)
    await other.run(migrate.BEGIN[other.engine])
    with pytest.raises(DatabaseLost, match="another process"):
        await migrate.up(url)
    await other.aclose()
    assert await migrate.up(url)


async def test_at_start_a_lost_database_is_lost(tmp_path: Path) -> None:
    """Whatever keeps a service from migrating at its start is a lost database, never another error."""
    (tmp_path / "text").write_text("no database " * 100)
    for bad in (f"sqlite:///{tmp_path}/text", "postgresql://u:p@127.0.0.1:1/x", "nonsense"):
        with pytest.raises(DatabaseLost):
            await migrate.migrate_at_start(bad)


async def test_room(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is begun where the disk has hardly any room."""
    monkeypatch.setattr(migrate, "ROOM_BYTES", 2**60)
    with pytest.raises(MigrationFailed, match="MiB are needed"):
        await migrate.up(sqlite_url)


def test_files_of_this_release() -> None:
    """Each file can be undone, is there for both engines, and only adds unless its name says otherwise."""
    files = migrate.read_migrations("sqlite"), migrate.read_migrations("postgresql")
    assert [file.label for file in files[0]] == [file.label for file in files[1]]
    for file in files[0]:
        assert file.up and file.down, file.label
        assert not [sql for sql in (*file.up, *file.down) if "{" in sql or ";" in sql], file.label
        if not file.name.startswith("contract_"):
            assert not removals(file), file.label


def removals(file: Migration) -> list[str]:
    """Return the statements of a file after which the release before would no longer work."""
    found = [sql for sql in file.up if REMOVES.search(sql)]
    for sql in file.up:
        for column in ADDED_COLUMN.findall(sql):
            if re.search(r"NOT\s+NULL", column, re.IGNORECASE) and "DEFAULT" not in column.upper():
                found.append(sql)
    return found


@pytest.mark.parametrize(
    "sql, bad",
    [
        ("DROP TABLE turn", True),
        ("ALTER TABLE turn RENAME COLUMN a TO b", True),
        ("ALTER TABLE turn ALTER COLUMN a TYPE TEXT", True),
        ("ALTER TABLE turn ALTER COLUMN a SET NOT NULL", True),
        ("ALTER TABLE turn ADD COLUMN a TEXT NOT NULL", True),
        ("ALTER TABLE turn ADD a TEXT NOT NULL", True),
        ("ALTER TABLE turn ADD COLUMN a TEXT NOT NULL DEFAULT ''", False),
        ("ALTER TABLE turn ADD COLUMN a TEXT", False),
        ("CREATE TABLE x (id TEXT NOT NULL)", False),
        ("CREATE INDEX x ON turn (a)", False),
    ],
)
def test_what_removes_is_seen(sql: str, bad: bool) -> None:
    """The rule above can fail."""
    assert bool(removals(Migration(1, "x", "", (sql,), ()))) is bad


@pytest.mark.parametrize("names", [["0002_x.sql"], ["0001_x.sql", "0003_y.sql"], ["0001-x.sql"], ["x.sql"]])
def test_bad_names(tmp_path: Path, names: list[str]) -> None:
    """A number that is missing and a name of another form are refused."""
    for name in names:
        (tmp_path / name).write_text("SELECT 1;\n")
    with pytest.raises(ValueError, match="expected a file"):
        migrate.read_migrations("sqlite", tmp_path)


def test_statements() -> None:
    """A script is cut where a semicolon ends a line; comments go, and the words of the engine are put in."""
    text = "-- a; b;\nCREATE TABLE x (\n  a {real},\n  b TEXT DEFAULT ';'\n);\n\nDROP TABLE y;"
    for engine, real in (("postgresql", "DOUBLE PRECISION"), ("sqlite", "REAL")):
        assert migrate.statements(text, engine) == [  # type: ignore[arg-type]
            f"CREATE TABLE x (\n  a {real},\n  b TEXT DEFAULT ';'\n)",
            "DROP TABLE y",
        ]


def test_read_a_file(tmp_path: Path) -> None:
    """A file is its statements, those that undo it, whether it stands alone, and a sum of its text."""
    text = "-- alone\nCREATE INDEX {concurrently} i ON t (a);\n-- undo\nDROP INDEX i;\n"
    (tmp_path / "0001_an_index.sql").write_text(text)
    (file,) = migrate.read_migrations("postgresql", tmp_path)
    assert (file.label, file.alone) == ("0001_an_index", True)
    assert (file.up, file.down) == (("CREATE INDEX CONCURRENTLY i ON t (a)",), ("DROP INDEX i",))
    (tmp_path / "0001_an_index.sql").write_text(text.replace("-- alone\n", ""))
    migrate.read_migrations.cache_clear()
    (other,) = migrate.read_migrations("postgresql", tmp_path)
    assert not other.alone and other.sum != file.sum


def test_schema_of_sqlite(tmp_path: Path) -> None:
    """The script for the simulation makes the tables that the migrations make."""
    url = f"sqlite:///{tmp_path}/a.db"
    asyncio.run(migrate.up(url))
    tables = []
    for place, script in ((tmp_path / "a.db", ""), (":memory:", migrate.sqlite_schema())):
        connection = sqlite3.connect(place)
        connection.executescript(script)
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE tbl_name <> 'migration'")
        tables.append(sorted(rows, key=str))
        connection.close()
    assert tables[0] == tables[1] != []


async def test_session_refuses(url: str) -> None:
    """A session says what is wrong as a database does."""
    session = migrate.open_session(url)
    with pytest.raises(StatementRefused):
        await session.run("SELEC 1")
    assert re.match(r"(SQLite|PostgreSQL) \d", await session.version())
    await session.aclose()
