"""Keeper: the tasks that look after the database, so that no request has to.

watch      makes or checks the tables; finds out whether a lost database is back
renew      this process's row of `worker`
retention  deletes what is old: conversations, and what other rooms keep
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Protocol

from dub5.service import clock
from dub5.service.resilience.circuit_breaker import Breaker, BreakerState
from dub5.service.resilience.storage_guard import Patience, StorageLost
from dub5.service.store.base import BoundStatement, Database, DatabaseLost, Row, Statement, StatementRefused
from dub5.service.timeouts import wait_at_most

SILENCE_S = 5.0  # without any call, the database is asked whether it is there
PROBE_S = 0.9  # less than the breaker gives a probe to come back
CONNECT_SLOW_S = 0.5
PREPARE_FIRST_S, PREPARE_MAX_S = 1.0, 4.0  # between two tries
STEADY_S = 60.0  # tables that are missing again within this time are not made again at once
PREPARE_LIMIT_S = 600.0  # a migration of a large table
RENEW_S = 10.0
GOOD_FOR_S = 20.0  # a worker whose row is older is gone
RETENTION_S = 3_600.0
RETENTION_RETRY_S = 5.0
BATCH = 500
BATCH_WAIT_S = 10.0
DAY_S = 86_400.0

PROBE = Statement("probe", "SELECT 1")
RENEW = Statement(
    "renew_worker",
    "INSERT INTO worker (id, until) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET until = excluded.until",
)
DELETE_WORKERS = Statement("delete_workers", "DELETE FROM worker WHERE until < $1")
DELETE_OLD = Statement(
    "delete_old",
    "DELETE FROM conversation WHERE id IN"
    " (SELECT id FROM conversation WHERE used_at < $1 ORDER BY used_at LIMIT $2) RETURNING id",
)

# Makes or checks the tables. Returns None, or why they do not fit this release. Raises DatabaseLost.
Prepare = Callable[[], Awaitable[str | None]]


class Kept(Protocol):
    """A write that is under way."""

    async def kept(self, within_s: float) -> list[list[Row]] | None: ...


class StoreTasks(Protocol):
    """What the keeper needs of the store."""

    patience_s: float
    keep_s: float
    worker: str
    last_error: str | None
    database: Database

    @property
    def status(self) -> str: ...

    def write(self, bounds: list[BoundStatement], *, lane: str) -> Kept: ...

    def resume(self) -> None: ...

    async def send_waiting(self) -> bool: ...

    async def call(
        self,
        patience: Patience,
        statement: Statement,
        work: Callable[[], Awaitable[Any]],
        *,
        probe: bool = False,
    ) -> Any: ...


class Keeper:
    """The keeper of one store. `ready`: the tables fit. `behind`: why they do not."""

    def __init__(
        self, store: StoreTasks, breaker: Breaker, prepare: Prepare | None, keep_days: int, rng: Random
    ) -> None:
        self.ready = prepare is None
        self.lost = False  # while it is not ready: the database could not be asked
        self.behind: str | None = None
        self._store = store
        self._breaker = breaker
        self._prepare = prepare
        self.keep_days = keep_days
        # What deletes old rows, the oldest first: $1 is the time up to which, $2 how many at once.
        self.deletions: tuple[Statement, ...] = (DELETE_OLD,)
        self._rng = rng
        self._changed = asyncio.Event()
        self._renewal_due = asyncio.Event()
        self._tried = asyncio.Event()  # the first look at the tables is over
        self._called_at_s = 0.0
        self._remade_at_s = -STEADY_S

    def start(self) -> list[asyncio.Task[None]]:
        """Return the tasks, which run until they are cancelled."""
        self._called_at_s = clock.now()
        return [
            asyncio.create_task(self._watch(), name="store watch"),
            asyncio.create_task(self._renew(), name="store renewal"),
            asyncio.create_task(self._retention(), name="store retention"),
        ]

    async def wait_until_tried(self, at_most_s: float) -> None:
        """Wait until the tables are there, or the first try at them has failed."""
        if not self.ready:
            await wait_at_most(self._tried, at_most_s)

    def wake(self) -> None:
        """Look at the breaker again: it has changed."""
        self._changed.set()
        self._renewal_due.set()

    def note_missing_table(self) -> None:
        """Make or check the tables again: the database was exchanged while the service runs."""
        if self._prepare is not None:
            self.ready = False
            self.wake()

    def note_call(self) -> None:
        """Note that the database was asked something."""
        self._called_at_s = clock.now()

    async def _watch(self) -> None:
        while True:
            self._changed.clear()
            if not self.ready:
                await self._make_ready()
            if self._breaker.state is BreakerState.CLOSED:
                due_s = self._called_at_s + SILENCE_S
            else:
                due_s = self._breaker.opened_until_s
            if clock.now() >= due_s:
                await self._probe()
            else:
                await wait_at_most(self._changed, due_s - clock.now())

    async def _make_ready(self) -> None:
        pause_s = PREPARE_FIRST_S
        if self._tried.is_set():  # they were there
            if clock.now() - self._remade_at_s < STEADY_S:
                await asyncio.sleep(PREPARE_MAX_S)
            self._remade_at_s = clock.now()
        while not self.ready:
            assert self._prepare is not None
            try:
                async with asyncio.timeout(PREPARE_LIMIT_S):
                    self.behind = await self._prepare()
                self.lost, self.ready = False, self.behind is None
            except (DatabaseLost, TimeoutError) as error:
                self.lost = True
                self._store.last_error = str(error) or "the database did not answer in time"
            self._tried.set()
            if not self.ready:
                await asyncio.sleep(pause_s * self._rng.uniform(0.75, 1.0))
                pause_s = min(2 * pause_s, PREPARE_MAX_S)
        self.wake()
        self._store.resume()

    async def _probe(self) -> None:
        """Ask the database something, by the breaker's permit if it is not closed."""
        try:
            await self._store.call(
                Patience(PROBE_S, CONNECT_SLOW_S), PROBE, self._connect_and_ask, probe=True
            )
        except (StorageLost, StatementRefused):
            self._called_at_s = 0.0  # ask again soon, until the breaker has made up its mind
            await asyncio.sleep(self._store.patience_s)

    async def _connect_and_ask(self) -> None:
        """Ask twice: the first time it may have to connect, which says nothing about its speed.

        A database that was lost must also take a write: on a full disk, or where it only reads, queries work.
        It is one that waits, as a lock or a missing right may concern one table.
        """
        database = self._store.database
        await database.read(PROBE.bind())
        began_s = clock.now()
        await database.read(PROBE.bind())
        if clock.now() - began_s > self._store.patience_s / 2:
            raise DatabaseLost("too slow for requests")
        if self._breaker.state is not BreakerState.CLOSED:
            began_s = clock.now()
            if not await self._store.send_waiting():
                await database.write([self._renewal()])
            if clock.now() - began_s > self._store.keep_s:
                raise DatabaseLost("too slow for writes")

    async def _renew(self) -> None:
        """Renew this process's row of `worker`: at once when the database is back, then each `RENEW_S`."""
        while True:
            self._renewal_due.clear()
            if self._store.status == "ok":
                self._store.write([self._renewal()], lane="worker")
            await wait_at_most(self._renewal_due, RENEW_S)

    def _renewal(self) -> BoundStatement:
        return RENEW.bind(self._store.worker, clock.wall() + GOOD_FOR_S)

    async def _retention(self) -> None:
        """Delete what is old, at the start and each `RETENTION_S`."""
        while True:
            if self._store.status == "ok":
                await self._delete_old()
                await asyncio.sleep(RETENTION_S)
            await asyncio.sleep(RETENTION_RETRY_S)

    async def _delete_old(self) -> None:
        now = clock.wall()
        self._store.write([DELETE_WORKERS.bind(now - DAY_S)], lane="retention")
        for statement in self.deletions:
            deleted = BATCH
            while deleted == BATCH:
                delete = statement.bind(now - self.keep_days * DAY_S, BATCH)
                rows = await self._store.write([delete], lane="retention").kept(BATCH_WAIT_S)
                deleted = 0 if rows is None else len(rows[0])
