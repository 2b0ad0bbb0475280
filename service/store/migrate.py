"""Migrations: numbered SQL files, applied in order, each in a transaction with its own row in `migration`.

    connect -> compare -> lock -> per file: BEGIN, statements, row, COMMIT    a failure undoes that file alone

Any number of processes may do it at once: one applies, the others find it done. A database that is newer than
this release is left alone. Rules of the files: migrations/README.md.
"""

import asyncio
import hashlib
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal, Protocol, cast

from msgspec import Struct

from dub5.service import VERSION, clock
from dub5.service.optional_parts import load_part
from dub5.service.store.base import DatabaseBusy, DatabaseLost, NotMigrated, Row, StatementRefused, Value
from dub5.service.store.url import NO_DRIVER, DatabaseUrl, parse_url

EngineName = Literal["sqlite", "postgresql"]
State = Literal["pending", "applied", "changed", "newer"]

FOLDER = Path(__file__).parent / "migrations"
FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
WORDS = {  # where the engines differ
    "sqlite": {"{real}": "REAL", "{concurrently}": ""},
    "postgresql": {"{real}": "DOUBLE PRECISION", "{concurrently}": "CONCURRENTLY"},
}
UNDO, ALONE = "-- undo", "-- alone"
TRIES = 3  # for a lock that a statement needs
LOCK_WAIT_S = 60.0  # while another process applies the same files
ROOM_BYTES = 64 * 1024 * 1024
TABLE = """CREATE TABLE IF NOT EXISTS migration (number BIGINT PRIMARY KEY, name TEXT NOT NULL,
 sum TEXT NOT NULL, at {real} NOT NULL, took_ms BIGINT NOT NULL, release TEXT NOT NULL)"""
HAS_TABLE = {
    "sqlite": "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'migration'",
    "postgresql": "SELECT 1 WHERE to_regclass('migration') IS NOT NULL",
}
BEGIN = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "BEGIN"}
ROWS = "SELECT number, name, sum, at, took_ms, release FROM migration ORDER BY number"
IS_APPLIED = "SELECT 1 FROM migration WHERE number = $1"
INSERT = "INSERT INTO migration (number, name, sum, at, took_ms, release) VALUES ($1, $2, $3, $4, $5, $6)"
DELETE = "DELETE FROM migration WHERE number = $1"


class Migration(Struct, frozen=True):
    """One file. `alone`: outside a transaction, where the engine wants it so."""

    number: int
    name: str
    sum: str
    up: tuple[str, ...]
    down: tuple[str, ...]
    alone: bool = False

    @property
    def label(self) -> str:
        return f"{self.number:04}_{self.name}"


class Applied(Struct, frozen=True):
    """One row of the table `migration`. `at`: epoch seconds."""

    number: int
    name: str
    sum: str
    at: float
    took_ms: int
    release: str

    @property
    def label(self) -> str:
        return f"{self.number:04}_{self.name}"


class Step(Struct, frozen=True):
    """How one migration stands: its file, its row, or both."""

    label: str
    state: State
    applied: Applied | None


class MigrationFailed(DatabaseLost):
    """A migration could not be applied or undone; the database is as it was before that file."""


class MigrationSession(Protocol):
    """One connection of an engine, in which migrations begin and end transactions by themselves."""

    @property
    def engine(self) -> EngineName: ...

    async def run(self, sql: str, *values: Value) -> list[Row]: ...

    async def version(self) -> str: ...

    async def lock(self, wait_s: float) -> None: ...

    async def aclose(self) -> None: ...


OnStep = Callable[[str], None]


def silent(line: str) -> None:
    """Tell nobody."""


@cache
def read_migrations(engine: EngineName, folder: Path = FOLDER) -> tuple[Migration, ...]:
    """Return the migrations of this release, in order. Raises ValueError where a file breaks the rules."""
    found: list[Migration] = []
    for path in sorted(folder.glob("*.sql")):
        name = FILE_NAME.fullmatch(path.name)
        if name is None or int(name[1]) != len(found) + 1:
            raise ValueError(f"{path.name}: expected a file {len(found) + 1:04}_name.sql")
        text = path.read_text(encoding="utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        up, _, down = text.partition(f"\n{UNDO}\n")
        alone = ALONE in up.splitlines()
        forward, back = (tuple(statements(part, engine)) for part in (up, down))
        found.append(Migration(int(name[1]), name[2], digest, forward, back, alone))
    return tuple(found)


def statements(text: str, engine: EngineName) -> list[str]:
    """Return the statements of a script, for one engine. Each ends with a semicolon at the end of a line."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    text = "\n".join(lines) + "\n"
    for word, meaning in WORDS[engine].items():
        text = text.replace(word, meaning)
    return [part.strip() for part in re.split(r";\s*\n", text) if part.strip()]


def sqlite_schema() -> str:
    """Return the script that makes all tables of this release in SQLite."""
    return "".join(f"{sql};\n" for migration in read_migrations("sqlite") for sql in migration.up)


def open_session(url: str) -> MigrationSession:
    """Return a session with the database of a URL. Raises DatabaseLost, ValueError."""
    parsed = parse_url(url)
    try:
        kind = load_part(f"migrations {parsed.engine}")
    except ModuleNotFoundError:
        raise DatabaseLost(f"{NO_DRIVER}.") from None
    return cast(MigrationSession, kind(parsed.path if parsed.engine == "sqlite" else url))


async def applied(session: MigrationSession) -> list[Applied]:
    """Return the rows of the table. Raises DatabaseLost."""
    if not await session.run(HAS_TABLE[session.engine]):
        return []
    return [Applied(*row) for row in await session.run(ROWS)]  # type: ignore[arg-type]


async def steps(session: MigrationSession, files: tuple[Migration, ...] | None = None) -> list[Step]:
    """Return how each migration of the release and of the database stands. Raises DatabaseLost."""
    files = read_migrations(session.engine) if files is None else files
    rows = {row.number: row for row in await applied(session)}
    found = []
    for file in files:
        row = rows.pop(file.number, None)
        state: State = "pending" if row is None else "applied" if row.sum == file.sum else "changed"
        found.append(Step(file.label, state, row))
    return [*found, *(Step(row.label, "newer", row) for row in rows.values())]


def obstacles(found: list[Step], parsed: DatabaseUrl) -> list[str]:
    """Return why nothing can be applied now: a sentence each."""
    problems = [
        f"{step.label}: the file is not the one that was applied; put the old one back, and add a new file"
        for step in found
        if step.state == "changed"
    ]
    if parsed.engine == "sqlite" and any(step.state == "pending" for step in found):
        size = parsed.path.stat().st_size if parsed.path.exists() else 0
        folder = next(place for place in parsed.path.absolute().parents if place.exists())
        if (free := shutil.disk_usage(folder).free) < ROOM_BYTES + size:
            problems.append(
                f"{folder}: {free // 2**20} MiB are free and {(ROOM_BYTES + size) // 2**20} MiB are needed"
            )
    return problems


async def up(
    url: str, say: OnStep = silent, files: tuple[Migration, ...] | None = None, release: str = VERSION
) -> list[Applied]:
    """Apply what is pending. Return what was applied. Raises DatabaseLost, StatementRefused, ValueError."""
    session = open_session(url)
    try:
        files = read_migrations(session.engine) if files is None else files
        found = await steps(session, files)
        if problems := obstacles(found, parse_url(url)):
            raise MigrationFailed("; ".join(problems))
        pending = {step.label for step in found if step.state == "pending"}
        if pending:
            await session.lock(LOCK_WAIT_S)
        done = []
        for file in (file for file in files if file.label in pending):
            if (row := await _patiently(session, file, release, say)) is not None:
                done.append(row)
        return done
    finally:
        await session.aclose()


async def migrate_at_start(url: str) -> list[Applied]:
    """Apply what is pending when a service starts. Raises DatabaseLost if that cannot be done now."""
    try:
        return await up(url)
    except (StatementRefused, ValueError, OSError) as error:
        raise MigrationFailed(str(error)) from None


async def _patiently(session: MigrationSession, file: Migration, release: str, say: OnStep) -> Applied | None:
    """Apply a file; try again if a table that it changes is in use."""
    for left in reversed(range(TRIES)):
        try:
            return await _apply(session, file, release, say)
        except DatabaseBusy as error:
            if not left:
                raise MigrationFailed(
                    f"{file.label}: what it changes is in use ({error}); try again"
                ) from None
            say(f"{file.label}: in use; trying again")
        except (StatementRefused, NotMigrated) as error:
            rest = "what its first statements did stays" if file.alone else "nothing of it was applied"
            raise MigrationFailed(f"{file.label}: {_why(error)}; {rest}") from None
    return None


async def _apply(session: MigrationSession, file: Migration, release: str, say: OnStep) -> Applied | None:
    """Apply a file, unless it was applied meanwhile."""
    alone = file.alone and session.engine == "postgresql"
    await session.run(BEGIN[session.engine])
    try:
        await session.run(_table(session.engine))
        if await session.run(IS_APPLIED, file.number):
            await session.run("COMMIT")
            return None
        if alone:
            await session.run("COMMIT")
        say(f"{file.label}: applying")
        began_ns = clock.tick_ns()
        for sql in file.up:
            await session.run(sql)
        if alone:
            await session.run(BEGIN[session.engine])
        took_ms = (clock.tick_ns() - began_ns) // 1_000_000
        row = Applied(file.number, file.name, file.sum, clock.wall(), took_ms, release)
        await session.run(INSERT, row.number, row.name, row.sum, row.at, row.took_ms, row.release)
        await session.run("COMMIT")
    except BaseException:
        await _roll_back(session)
        raise
    say(f"{file.label}: applied in {row.took_ms} ms")
    return row


async def down(url: str, to: int, say: OnStep = silent) -> list[str]:
    """Undo what has a number above `to`, the newest first. Return the labels. Raises as `up` does."""
    session = open_session(url)
    try:
        refuse_newer(await steps(session))
        await session.lock(LOCK_WAIT_S)
        undone = []
        for file in reversed(read_migrations(session.engine)):
            if file.number > to and await _undo(session, file):
                say(f"{file.label}: undone")
                undone.append(file.label)
        return undone
    finally:
        await session.aclose()


def refuse_newer(found: list[Step]) -> None:
    """Raise MigrationFailed if the database is newer than this release: it does not know how to undo that."""
    if newer := [step.label for step in found if step.state == "newer"]:
        raise MigrationFailed(f"{', '.join(newer)}: undo this with the release that applied it")


async def _undo(session: MigrationSession, file: Migration) -> bool:
    await session.run(BEGIN[session.engine])
    try:
        await session.run(_table(session.engine))
        was_applied = bool(await session.run(IS_APPLIED, file.number))
        if was_applied:
            for sql in file.down:
                await session.run(sql)
            await session.run(DELETE, file.number)
        await session.run("COMMIT")
    except (DatabaseBusy, NotMigrated, StatementRefused) as error:
        await _roll_back(session)
        raise MigrationFailed(f"{file.label}: {_why(error)}; nothing of it was undone") from None
    except BaseException:
        await _roll_back(session)
        raise
    return was_applied


async def losses(session: MigrationSession, to: int) -> list[str]:
    """Return what `down` to a number would delete: "turn (8 rows)"."""
    present = {row.number for row in await applied(session)}
    tables = [
        table
        for file in read_migrations(session.engine)
        if file.number > to and file.number in present
        for sql in file.down
        for table in re.findall(r"DROP TABLE (?:IF EXISTS )?(\w+)", sql)
    ]
    counts = [(await session.run(f"SELECT count(*) FROM {table}"))[0][0] for table in tables]  # noqa: S608
    return [f"{table} ({count!r} rows)" for table, count in zip(tables, counts, strict=True)]


def _why(error: Exception) -> str:
    return "a table or column is missing" if isinstance(error, NotMigrated) else str(error)


async def _roll_back(session: MigrationSession) -> None:
    """Undo an open transaction; a connection that is lost has none."""
    try:
        async with asyncio.timeout(2.0):
            await session.run("ROLLBACK")
    except (DatabaseLost, StatementRefused, TimeoutError):
        pass


def _table(engine: EngineName) -> str:
    return TABLE.replace("{real}", WORDS[engine]["{real}"])
