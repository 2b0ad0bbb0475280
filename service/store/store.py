"""The store: what conversations ask of the database. A lost database costs milliseconds, never an answer.

    read        behind a guard: within `patience_s` (`READ_S` where no answer waits), or StoreLost
    write       into the outbox, at once; `PendingWrite.kept` waits for it, as long as its caller likes
    write_once  behind the guard, for what must not be sent again

A write that failed because the database was lost stays the first of its lane, and is sent again when the
database is back. No request finds out whether it is: keeper.py does.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal, TypeVar

from dub5.service import clock
from dub5.service.events import BreakerChanged, Crashed, Events, StatementEnded, WritesForgotten
from dub5.service.resilience.circuit_breaker import BreakerState
from dub5.service.resilience.storage_guard import BreakerGuard, Patience, StorageLost
from dub5.service.store.base import (
    SCOPE,
    BoundStatement,
    Database,
    DatabaseLost,
    NotMigrated,
    Row,
    Statement,
    StatementRefused,
)
from dub5.service.store.keeper import Keeper, Prepare
from dub5.service.store.outbox import Outbox, size_of

T = TypeVar("T")
WRITE_S = 2.0  # longest time of one try at a write
READ_S = 2.0  # longest time of a read that no answer waits for
RETRY_S = 0.1  # pause before a write that failed is sent again, while the breaker is still closed
START_S = 2.0  # until the tables are there, before the first request
CLOSE_S = 2.0  # for what waits when the service ends
SAY_FORGOTTEN_S = 1.0  # one event for all that was forgotten within this time
WRITES_SHARE = 0.75  # of the concurrent calls; the rest is left to reads

StoreStatus = Literal["ok", "lost", "migrating"]


class StoreLost(Exception):
    """The store is unavailable now."""


class PendingWrite:
    """A write on its way to the database. Nothing that happens to its request cancels it."""

    __slots__ = ("_changed", "_store", "bounds", "done", "lane", "refused", "rows", "size")

    def __init__(self, store: "Store", bounds: list[BoundStatement], lane: str) -> None:
        self.bounds = bounds
        self.lane = lane
        self.size = size_of(bounds)
        self.done = False  # kept, refused or forgotten
        self.refused = False  # by the database, which would refuse it again
        self.rows: list[list[Row]] | None = None
        self._store = store
        self._changed: asyncio.Future[None] | None = None

    async def kept(self, within_s: float) -> list[list[Row]] | None:
        """Return the rows of each statement, once all of them are committed.

        None: not within this time, or the database is lost, or the write was refused or forgotten. The write
        may still be kept later.
        """
        await self.wait(within_s)
        return self.rows

    async def wait(self, within_s: float) -> None:
        """Wait until the write is through, the database is lost, or this time is up."""
        if self.done or self._store.status != "ok":
            return
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.wait({self._changed}, timeout=within_s)

    def end(self, rows: list[list[Row]] | None) -> None:
        """Be through: with its rows, or without if it is not in the database."""
        self.rows, self.done = rows, True
        self.wake()

    def wake(self) -> None:
        """Let nobody wait any longer."""
        if self._changed is not None:
            self._changed.set_result(None)
            self._changed = None


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How the store treats its database. `calls_max`: concurrent calls."""

    patience_s: float = 0.05
    keep_s: float = 0.25
    calls_max: int = 10
    keep_days: int = 30


class Store:
    """The store over any database. `prepare` checks its tables, and makes them if the settings say so."""

    def __init__(
        self,
        database: Database,
        options: StoreOptions,
        events: Events,
        rng: Random,
        prepare: Prepare | None = None,
    ) -> None:
        self.patience_s = options.patience_s
        self.keep_s = options.keep_s
        self.worker = f"{rng.getrandbits(64):016x}"
        self.database = database
        self.outbox: Outbox[PendingWrite] = Outbox()
        self.last_error: str | None = None  # of the last call that failed
        self.engine = "given"
        self.folder: Path | None = None  # of SQLite
        self.places: tuple[str, ...] = ()  # what errors begin with, and strangers need not know
        self._events = events
        self._rng = rng
        self._guard = BreakerGuard(
            options.patience_s, options.calls_max, (DatabaseLost,), rng, self._on_breaker_change
        )
        self._writes_max = max(1, int(options.calls_max * WRITES_SHARE))
        self._backlog_max = max(1, self._writes_max // 2)  # the rest is left to what somebody waits for
        self._sending: set[asyncio.Task[None]] = set()
        self._keeper_tasks: list[asyncio.Task[None]] = []
        self._forgotten = 0  # and no event has told it yet
        self._closed = False
        self.keeper = Keeper(self, self._guard.breaker, prepare, options.keep_days, rng)

    @property
    def status(self) -> StoreStatus:
        """Whether requests use the database now: "ok", or why not."""
        if not self.keeper.ready:
            return "lost" if self.keeper.lost else "migrating"
        return "ok" if self._guard.breaker.state is BreakerState.CLOSED else "lost"

    def is_ok(self) -> bool:
        """Return whether requests use the database now."""
        return self.status == "ok"

    async def read(self, bound: BoundStatement, *, lane: str, patiently: bool = False) -> list[Row]:
        """Return the rows of a query, which sees all that its lane wrote before. Raises StoreLost.

        `patiently`: no answer waits for them, so a slow database has `READ_S`, not `patience_s`.
        """
        if self.status != "ok":
            raise StoreLost(f"the database is {self.status}")
        patience = Patience(READ_S, self.keep_s) if patiently else Patience(self.patience_s)
        if (before := self.outbox.last(lane)) is not None:
            began_s = clock.now()
            await before.wait(patience.left_s)
            if not before.done:
                raise StoreLost("the writes before it are not through")
            patience.left_s -= clock.now() - began_s
        try:
            return await self.call(patience, bound.statement, lambda: self.database.read(bound))
        except StorageLost as error:
            raise StoreLost(str(error)) from None
        except StatementRefused:
            raise StoreLost("the database refused the statement") from None

    def write(self, bounds: list[BoundStatement], *, lane: str, is_bulk: bool = False) -> PendingWrite:
        """Send these statements as one transaction, after the lane's writes before. Returns at once.

        `is_bulk`: it is large, and its maker waits: where much waits already, it is not sent.
        """
        write = PendingWrite(self, bounds, lane)
        if is_bulk and not self.outbox.has_room_for_bulk(write.size):
            write.end(None)
        elif self._closed or not self.outbox.add(write):
            self._forget([write])
        else:
            self._pump()
        return write

    async def write_once(self, bounds: list[BoundStatement]) -> list[list[Row]]:
        """Commit these statements as one transaction, tried once; return the rows of each.

        For what must not be sent again, and is in no lane. Raises StoreLost: nobody knows what became of it.
        """
        if self.status != "ok":
            raise StoreLost(f"the database is {self.status}")
        patience = Patience(WRITE_S, slow_s=self.keep_s)
        try:
            return await self.call(patience, bounds[0].statement, lambda: self.database.write(bounds))
        except StorageLost as error:
            raise StoreLost(str(error)) from None
        except StatementRefused:
            raise StoreLost("the database refused the statement") from None

    async def start(self) -> None:
        """Begin to look after the database, which need not be there: it is waited for, at most `START_S`."""
        self._keeper_tasks = self.keeper.start()
        await self.keeper.wait_until_tried(START_S)

    async def aclose(self) -> None:
        """Send what waits, for at most `CLOSE_S`; close the database."""
        for task in self._keeper_tasks:
            task.cancel()
        until_s = clock.now() + CLOSE_S
        while self._sending and self.status == "ok" and clock.now() < until_s:
            await asyncio.wait(self._sending, timeout=until_s - clock.now())
        self._closed = True
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._keeper_tasks, *self._sending, return_exceptions=True)
        self._forget(list(self.outbox))
        self._say_forgotten()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.database.aclose()
        except (TimeoutError, DatabaseLost):
            pass  # its connections end with the process

    async def call(
        self,
        patience: Patience,
        statement: Statement,
        work: Callable[[], Awaitable[T]],
        *,
        probe: bool = False,
    ) -> T:
        """Return `await work()`, counted and behind the guard. Raises StorageLost, StatementRefused."""
        try:
            return await self._guard.call(patience, lambda: self._counted(statement, work), probe=probe)
        except StatementRefused:
            self._tell_refused(statement)
            raise

    def snapshot(self) -> dict[str, Any]:
        """Return the state of the database in /health?deep=true and /status format, without its address."""
        behind = self.keeper.behind
        status = "behind" if behind is not None and not self.keeper.ready else self.status
        return {
            "status": status,
            "engine": self.engine,
            "outbox": self.outbox.count,
            "outbox_bytes": self.outbox.bytes,
            "last_error": self._without_place(behind) if status == "behind" else self.last_error,
        }

    def pool(self) -> Mapping[str, int] | None:
        """Return the connections, by state; None where the database has no pool."""
        read: Callable[[], Mapping[str, int] | None] | None = getattr(self.database, "pool", None)
        return None if read is None else read()

    def room(self) -> int | None:
        """Return the free room of the disk that the database writes to; None where it is not ours to know."""
        if self.folder is None:
            return None
        try:
            found = os.statvfs(self.folder)
        except OSError:
            return None
        return found.f_bavail * found.f_frsize

    def resume(self) -> None:
        """Send what waits: the database is ready, or back."""
        self.outbox.defer()
        self._pump()

    async def send_waiting(self) -> bool:
        """Send one write that waits, whatever the breaker says. Return whether there was one.

        Raises DatabaseLost; then another lane is the first to be sent next time.
        """
        write = self.outbox.take()
        if write is None:
            return False
        again, rows = True, None
        try:
            rows = await self.database.write(write.bounds)
            again = False
        except StatementRefused:
            again, write.refused = False, True
            self._tell_refused(write.bounds[0].statement)
        finally:
            self._settle(write, rows, again=again)
        return True

    async def _counted(self, statement: Statement, work: Callable[[], Awaitable[T]]) -> T:
        began_ns, result = clock.tick_ns(), "late"  # who gives up cancels it
        try:
            found = await work()
            result = "ok"
            return found
        except DatabaseLost as error:
            result, self.last_error = "lost", self._without_place(str(error))
            if isinstance(error, NotMigrated) and self.keeper.ready:
                self.keeper.note_missing_table()
                self._release_waiters()
            raise
        except asyncio.CancelledError:
            self.last_error = "the database did not answer in time"
            raise
        except StatementRefused:
            result = "refused"
            raise
        finally:
            took_s = (clock.tick_ns() - began_ns) / 1e9
            self._events.emit(StatementEnded(statement.name, result, took_s))
            self.keeper.note_call()

    def _without_place(self, text: str | None) -> str:
        for place in self.places:
            text = (text or "").removeprefix(place)
        return text or "the database is lost"

    def _pump(self) -> None:
        """Begin to send as many writes as may be under way."""
        while not self._closed and self.status == "ok" and len(self._sending) < self._writes_max:
            write = self.outbox.take(backlog=len(self._sending) < self._backlog_max)
            if write is None:
                return
            task = asyncio.create_task(self._send(write), name="store write")
            self._sending.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._pump()

    async def _send(self, write: PendingWrite) -> None:
        patience, again, rows = Patience(WRITE_S, slow_s=self.keep_s), False, None
        statement = write.bounds[0].statement  # a transaction is counted under its first one
        try:
            rows = await self.call(patience, statement, lambda: self.database.write(write.bounds))
        except StorageLost:
            again = True
            if self.status == "ok":
                await asyncio.sleep(RETRY_S * self._rng.uniform(0.5, 1.5))
        except StatementRefused:
            write.refused = True  # a defect, which has been told; the others go on
        except asyncio.CancelledError:
            again = True
            raise
        finally:
            self._settle(write, rows, again=again)

    def _settle(self, write: PendingWrite, rows: list[list[Row]] | None, *, again: bool) -> None:
        if again:
            self.outbox.put_back(write)
        else:
            self.outbox.remove(write)
            write.end(rows)

    def _tell_refused(self, statement: Statement) -> None:
        self.last_error = f"the database refused the statement {statement.name}"
        self._events.emit(Crashed("", f"StatementRefused at {statement.name}"))

    def _forget(self, writes: Sequence[PendingWrite]) -> None:
        for write in writes:
            write.end(None)
        if writes and not self._forgotten:
            asyncio.get_running_loop().call_later(SAY_FORGOTTEN_S, self._say_forgotten)
        self._forgotten += len(writes)

    def _say_forgotten(self) -> None:
        if self._forgotten:
            why = "the service ended" if self._closed else "the outbox is full"
            self._events.emit(WritesForgotten(self._forgotten, why))
            self._forgotten = 0

    def _on_breaker_change(self, before: BreakerState, after: BreakerState, why: str) -> None:
        if after is BreakerState.OPEN and self.last_error is not None:
            why = f"{why}: {self.last_error}"
        self._events.emit(BreakerChanged(SCOPE, before, after, why))
        self.keeper.wake()
        if after is BreakerState.CLOSED:
            self.resume()
        elif after is BreakerState.OPEN:
            self._release_waiters()

    def _release_waiters(self) -> None:
        for write in self.outbox:
            write.wake()
