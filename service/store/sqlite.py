"""SQLite: one thread writes, one reads, and the event loop waits for neither.

    write calls --queue--> writer thread --one transaction for all that wait, a savepoint each--> one fsync
    read calls  --queue--> reader thread --its own connection--> not held up by an fsync (write-ahead log)

Each thread opens its connection when it is first needed, and again after an error of the file.
"""

import asyncio
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal, NamedTuple

from dub5.service.store.base import (
    BoundStatement,
    DatabaseBusy,
    DatabaseLost,
    NotMigrated,
    Row,
    StatementRefused,
    Value,
)

Connection = sqlite3.Connection

BUSY_S = 2.0  # how long a statement waits for another process
MIGRATION_BUSY_S = 5.0
GROUP_MAX = 256  # writes in one transaction
LOOK_S = 1.0  # how often an idle thread looks whether the interpreter ends
CLOSE_S = 5.0
PLACEHOLDER = re.compile(r"\$(\d+)")
ROW_LOCK = " FOR UPDATE SKIP LOCKED"  # needless here: one transaction writes at a time
# What sqlite3 raises, for values too.
ERRORS = (sqlite3.Error, sqlite3.Warning, OverflowError, ValueError, TypeError, MemoryError, OSError)
LOST = {  # primary result codes -> what a person can do
    sqlite3.SQLITE_BUSY: "another process holds it locked; end that process, or try again",
    sqlite3.SQLITE_LOCKED: "another process holds it locked; end that process, or try again",
    sqlite3.SQLITE_READONLY: "it may not be written; check the rights of the file and of its folder",
    sqlite3.SQLITE_IOERR: "the disk reports an error; check the disk and the system's log",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; restore it from a backup",
    sqlite3.SQLITE_FULL: "the disk is full; free some space",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check that its folder exists and may be written",
    sqlite3.SQLITE_PERM: "it may not be opened; check the rights of the file and of its folder",
    sqlite3.SQLITE_PROTOCOL: "its locks do not work; the file must be on a local disk",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database; name another file, or move this one away",
    sqlite3.SQLITE_NOMEM: "there is no memory left",
    sqlite3.SQLITE_INTERRUPT: "the statement was interrupted",
    sqlite3.SQLITE_SCHEMA: "its tables are being changed; try again",
}
OLD_SCHEMA = ("no such table", "no such column", "has no column named")


class _Job(NamedTuple):
    """What one call wants of a thread, and where its result goes."""

    bounds: Sequence[BoundStatement]
    alone: Callable[[Connection], Any] | None
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"


class _Done(NamedTuple):
    job: _Job
    result: Any
    error: Exception | None


class SqliteDatabase:
    """A Database in one file, which is made if it is missing.

    `sync`: "power": a write survives a loss of power; "process": only the end of the process.
    """

    def __init__(self, path: Path, sync: Literal["power", "process"]) -> None:
        self._writer = _Thread("dub5-sqlite-write", path, sync, BUSY_S)
        self._reader = _Thread("dub5-sqlite-read", path, sync, BUSY_S, reads=True)

    async def read(self, bound: BoundStatement) -> list[Row]:
        """Do as Database says."""
        rows: list[list[Row]] = await self._reader.ask([bound])
        return rows[0]

    async def write(self, bounds: list[BoundStatement]) -> list[list[Row]]:
        """Do as Database says. A write whose caller is cancelled is committed all the same."""
        rows: list[list[Row]] = await self._writer.ask(bounds)
        return rows

    async def aclose(self) -> None:
        """End the threads, after the writes that wait."""
        await self._reader.aclose()
        await self._writer.aclose()


class SqliteSession:
    """One connection on a thread of its own, for migrations: it begins and ends transactions by itself."""

    engine: Literal["sqlite"] = "sqlite"

    def __init__(self, path: Path) -> None:
        self._thread = _Thread("dub5-sqlite-migrate", path, "power", MIGRATION_BUSY_S)
        self.path = path

    async def run(self, sql: str, *values: Value) -> list[Row]:
        """Execute one statement. Raises DatabaseLost, DatabaseBusy, StatementRefused."""

        def execute(connection: Connection) -> list[Row]:
            return connection.execute(question_marks(sql), values).fetchall()

        rows: list[Row] = await self._thread.ask([], execute)
        return rows

    async def version(self) -> str:
        """Return the name and the version of the database."""
        return f"SQLite {sqlite3.sqlite_version}"

    async def lock(self, wait_s: float) -> None:
        """Do nothing: BEGIN IMMEDIATE is the lock of each file."""

    async def aclose(self) -> None:
        """Close the connection; an open transaction is rolled back."""
        await self._thread.aclose()


class _Thread:
    """A thread with a connection of its own, which works off a queue. It starts when it is first asked."""

    def __init__(
        self, name: str, path: Path, sync: Literal["power", "process"], busy_s: float, *, reads: bool = False
    ) -> None:
        self._name, self._path, self._sync, self._busy_s = name, path, sync, busy_s
        self._reads = reads
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._beginning = threading.Lock()  # one thread at a time has the connection
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._file: tuple[int, int] | None = None  # of the open connection
        self._closed = False

    async def ask(
        self, bounds: Sequence[BoundStatement], alone: Callable[[Connection], Any] | None = None
    ) -> Any:
        """Return what the thread makes of it. Raises DatabaseLost, StatementRefused."""
        if self._closed:
            raise DatabaseLost(f"{self._path}: the database is closed")
        with self._beginning:
            if self._thread is None or not self._thread.is_alive():
                self._begin()
        loop = asyncio.get_running_loop()
        job = _Job(bounds, alone, loop, loop.create_future())
        self._queue.put(job)
        return await job.future

    async def aclose(self) -> None:
        """End the thread after what waits in its queue; give it up after some seconds."""
        self._closed = True
        if self._thread is None or not self._thread.is_alive():
            return
        loop = asyncio.get_running_loop()
        last = _Job([], lambda _: self._close(), loop, loop.create_future())
        self._queue.put(last)
        self._queue.put(None)
        try:
            async with asyncio.timeout(CLOSE_S):
                await last.future
        except (TimeoutError, DatabaseLost):
            return
        self._thread.join(CLOSE_S)

    def _begin(self) -> None:
        """Start a thread. Raises DatabaseLost if the system gives none."""
        thread = threading.Thread(target=self._run, name=self._name, daemon=False)
        try:
            thread.start()
        except RuntimeError as error:
            raise DatabaseLost(f"{self._path}: {error}") from None
        self._thread = thread

    def _run(self) -> None:
        """Work until the queue says that it is over, or the interpreter ends.

        A defect ends this thread, which tells its stack. What waits in the queue is its successor's.
        """
        jobs: list[_Job] = []
        try:
            while (jobs := self._next()) is not None:
                _settle(self._work(jobs))
        except BaseException as error:
            why = f"{self._path}: its thread has failed ({type(error).__name__})"
            _settle([_Done(job, None, DatabaseLost(why)) for job in jobs])
            self._close()
            with self._beginning:
                self._begin()
            raise
        self._close()

    def _next(self) -> Any:
        """Return all jobs that wait, at least one; None when the thread has to end."""
        while True:
            try:
                first = self._queue.get(timeout=LOOK_S)
                break
            except Empty:
                if not threading.main_thread().is_alive():  # it waits for us, then
                    return None
        jobs = [first]
        while first is not None and not self._reads and len(jobs) < GROUP_MAX and not self._queue.empty():
            jobs.append(self._queue.get())
        if None in jobs:
            self._queue.put(None)
            jobs = [job for job in jobs if job is not None]
            return jobs or None
        return jobs

    def _work(self, jobs: list[_Job]) -> list[_Done]:
        """Answer all jobs: those of a writer together, then what wants the connection for itself."""
        done: list[_Done] = []
        together = [] if self._reads else [job for job in jobs if job.alone is None]
        if together:
            done += self._guarded(together, lambda: self._group(together))
        for job in jobs:
            if self._reads or job.alone is not None:
                done += self._guarded([job], partial(self._one, job))
        return done

    def _guarded(self, jobs: list[_Job], work: Callable[[], list[_Done]]) -> list[_Done]:
        try:
            return work()
        except ERRORS as error:
            meant = understood(error, self._path)
            if self._reads and _code(error) == sqlite3.SQLITE_READONLY:
                meant = StatementRefused("a statement for reading writes")
            if not isinstance(meant, StatementRefused | DatabaseBusy):
                self._close()
            return [_Done(job, None, type(meant)(*meant.args)) for job in jobs]

    def _one(self, job: _Job) -> list[_Done]:
        connection = self._open()
        if job.alone is not None:
            return [_Done(job, job.alone(connection), None)]
        return [_Done(job, [execute(connection, bound) for bound in job.bounds], None)]

    def _group(self, jobs: list[_Job]) -> list[_Done]:
        """Execute all of them in one transaction. One that is refused undoes itself alone."""
        connection = self._open()
        connection.execute("BEGIN IMMEDIATE")
        try:
            if len(jobs) == 1:
                done = [_Done(jobs[0], [execute(connection, bound) for bound in jobs[0].bounds], None)]
            else:
                done = [self._savepoint(connection, job) for job in jobs]
            connection.execute("COMMIT")
        except ERRORS:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return done

    def _savepoint(self, connection: Connection, job: _Job) -> _Done:
        """Execute one write. Raises an error of sqlite3 that concerns the whole transaction."""
        connection.execute("SAVEPOINT one")
        try:
            rows = [execute(connection, bound) for bound in job.bounds]
        except ERRORS as error:
            meant = understood(error, self._path)
            if not isinstance(meant, StatementRefused):
                raise
            connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")
            return _Done(job, None, meant)
        connection.execute("RELEASE one")
        return _Done(job, rows, None)

    def _open(self) -> Connection:
        """Return the connection to the file that is there now, which may have been exchanged."""
        try:
            found = os.stat(self._path)
            there: tuple[int, int] | None = (found.st_dev, found.st_ino)
        except OSError:
            there = None
        if self._connection is not None and there != self._file:
            self._close()
        if self._connection is None:
            self._connection = connect(self._path, self._sync, self._busy_s, reads=self._reads)
            found = os.stat(self._path)
            self._file = (found.st_dev, found.st_ino)
        return self._connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error:  # a file that is lost
                pass


_opening = threading.Lock()  # a file is made, and given its write-ahead log, by one thread


def connect(path: Path, sync: Literal["power", "process"], busy_s: float, *, reads: bool) -> Connection:
    """Open the file, or make it, for the owner only. Raises sqlite3.Error, OSError, DatabaseLost."""
    with _opening:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(
            path, timeout=busy_s, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            ((mode,),) = connection.execute("PRAGMA journal_mode = WAL").fetchall()
            if mode != "wal":
                raise OSError(f"no write-ahead log is possible here (it is {mode!r})")
            connection.execute(f"PRAGMA synchronous = {'FULL' if sync == 'power' else 'NORMAL'}")
            connection.execute("PRAGMA foreign_keys = ON")
            if reads:
                connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
        return connection


@lru_cache(1_024)
def question_marks(sql: str) -> str:
    """Return a statement in SQLite's words: ?1 for $1, and without locks of rows."""
    return PLACEHOLDER.sub(r"?\1", sql.replace(ROW_LOCK, ""))


def understood(error: Exception, path: Path) -> DatabaseLost | StatementRefused:
    """Return what an error of sqlite3 means. It shows no value of a statement."""
    if isinstance(error, OSError | MemoryError):
        reason = getattr(error, "strerror", None) or str(error) or "there is no memory left"
        return DatabaseLost(f"{path}: {reason}; check the file, its folder and their rights")
    code, text = _code(error), str(error)
    if code is None or isinstance(error, sqlite3.IntegrityError | sqlite3.DataError):
        told = f": {text}" if isinstance(error, sqlite3.Error | sqlite3.Warning) else ""
        return StatementRefused(f"{type(error).__name__}{told}")
    if code == sqlite3.SQLITE_ERROR and any(words in text for words in OLD_SCHEMA):
        return NotMigrated(f"{path}: {text}: its migrations have not run; run `dub5 db up`")
    if code not in LOST:
        return StatementRefused(f"{type(error).__name__}: {text}")
    kind = DatabaseBusy if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) else DatabaseLost
    return kind(f"{path}: {LOST[code]} (SQLite: {text})")


def _code(error: Exception) -> int | None:
    """Return SQLite's primary result code; None: the error is not SQLite's own."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def execute(connection: Connection, bound: BoundStatement) -> list[Row]:
    """Execute a statement; return its rows. Raises ERRORS."""
    for value in bound.values:
        if isinstance(value, str) and "\0" in value:  # PostgreSQL has no such text
            raise sqlite3.DataError("a text holds a NUL")
    return connection.execute(question_marks(bound.statement.sql), bound.values).fetchall()


def _settle(done: list[_Done]) -> None:
    """Hand the results to the loops that wait for them; a loop that is closed waits no more."""
    for loop in {each.job.loop for each in done}:
        try:
            loop.call_soon_threadsafe(_hand_over, [each for each in done if each.job.loop is loop])
        except RuntimeError:
            continue


def _hand_over(done: list[_Done]) -> None:
    for job, result, error in done:
        if job.future.done():  # its caller was cancelled
            continue
        if error is None:
            job.future.set_result(result)
        else:
            job.future.set_exception(error)
