"""Spending in the database: so that a restart forgets nothing, and several processes share a budget.

Each process has a row of its own for each day and key, which only grows: a write that is sent twice changes
nothing, and no process loses what another one has added.
"""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Protocol

from dub5.service import clock
from dub5.service.resilience.spending import DAY_S, Spender, SpendingBook
from dub5.service.store.base import BoundStatement, Row, Statement
from dub5.service.store.store import StoreLost

EXCHANGE_S = 5.0  # a budget may be exceeded by what the processes spend within this time
KEEP_DAYS = 400
LANE = "spending"

ADD = Statement(
    "spending_add",
    "INSERT INTO spending (day, worker, provider, key, usd)"
    " VALUES (CAST($1 AS BIGINT), $2, $3, $4, CAST($5 AS DOUBLE PRECISION))"
    " ON CONFLICT (day, worker, provider, key) DO UPDATE SET usd ="
    " CASE WHEN excluded.usd > spending.usd THEN excluded.usd ELSE spending.usd END",
)
OTHERS = Statement(
    "spending_others",
    "SELECT provider, key, SUM(usd) FROM spending WHERE day = CAST($1 AS BIGINT) AND worker <> $2"
    " GROUP BY provider, key",
)
FORGET = Statement("spending_forget", "DELETE FROM spending WHERE day < CAST($1 AS BIGINT)")


class SpendingStore(Protocol):
    """What is needed of the store."""

    worker: str

    async def read(self, bound: BoundStatement, *, lane: str) -> list[Row]: ...

    def write(self, bounds: list[BoundStatement], *, lane: str) -> object: ...


class SharedSpending:
    """Exchanges what this process has spent with the database. `used`: some provider has prices."""

    def __init__(
        self, store: SpendingStore, book: SpendingBook, used: Callable[[], bool], rng: Random
    ) -> None:
        self._store = store
        self._book = book
        self._used = used
        self._rng = rng
        self._written: dict[Spender, float] = {}
        self._cleaned_day = 0

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            if self._used():
                await self.read()
                self.write()
            await asyncio.sleep(EXCHANGE_S * self._rng.uniform(0.8, 1.2))

    async def read(self) -> None:
        """Learn what others have spent today. Without the database, what is known so far stays."""
        day = int(clock.wall() // DAY_S)
        try:
            rows = await self._store.read(OTHERS.bind(day, self._store.worker), lane=LANE)
        except StoreLost:
            return
        others = {Spender(day, str(row[0]), str(row[1])): float(row[2] or 0.0) for row in rows}
        self._book.note_others(others, clock.wall(), clock.now())

    def write(self) -> None:
        """Write what has grown since the last time."""
        wall = clock.wall()
        own, day = self._book.own(wall), int(wall // DAY_S)
        bounds = [
            ADD.bind(spender.day, self._store.worker, spender.provider, spender.key, usd)
            for spender, usd in own.items()
            if usd > self._written.get(spender, 0.0)
        ]
        if bounds and day != self._cleaned_day:
            self._cleaned_day = day
            bounds.append(FORGET.bind(day - KEEP_DAYS))
        if bounds:
            self._store.write(bounds, lane=LANE)
        self._written = own
