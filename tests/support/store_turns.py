"""Turns over a store at a steady rate: read the history, write the question, write the end."""

import asyncio
import statistics

from dub5.service import clock
from dub5.service.events import Event
from dub5.service.store.base import Statement
from dub5.service.store.store import PendingWrite, Store, StoreLost

TABLE = "CREATE TABLE kept (lane TEXT NOT NULL, number BIGINT NOT NULL, PRIMARY KEY (lane, number))"
PUT = Statement("put", "INSERT INTO kept (lane, number) VALUES ($1, $2) ON CONFLICT DO NOTHING")
GET = Statement("get", "SELECT number FROM kept WHERE lane = $1 ORDER BY number")
ALL = Statement("all", "SELECT lane, number FROM kept")
ANSWER_S = 0.3


class KeptStore:
    """A store, and what it told."""

    def __init__(self, store: Store, events: list[Event]) -> None:
        self.store = store
        self.events = events

    def put(self, lane: str, number: int) -> PendingWrite:
        return self.store.write([PUT.bind(lane, number)], lane=lane)

    def told(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


class Turns:
    """Turns that begin each `every_s`, each in a lane of its own."""

    def __init__(self, kept: KeptStore, every_s: float) -> None:
        self.costs_s: list[float] = []  # how long each turn waited for the store
        self.labels: dict[str, bool] = {}  # by lane: its end was kept when it was told
        self.lag_s = 0.0  # the longest that the machine kept this loop from running: no fault of the store
        self._kept = kept
        self._every_s = every_s
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = False

    async def run(self) -> None:
        """Begin turns until `end`; return when all are over."""
        while not self._stop:
            self._tasks.append(asyncio.create_task(self._turn(f"turn {len(self._tasks)}")))
            due_s = clock.now() + self._every_s
            await asyncio.sleep(self._every_s)
            self.lag_s = max(self.lag_s, clock.now() - due_s)
        await asyncio.gather(*self._tasks)

    def end(self) -> None:
        """Begin no more turns."""
        self._stop = True

    def quantile_s(self, share: int) -> float:
        """Return what this share of the turns, in per cent, paid at most."""
        return statistics.quantiles(self.costs_s, n=100)[share - 1]

    async def _turn(self, lane: str) -> None:
        store, began_s = self._kept.store, clock.now()
        try:
            await store.read(GET.bind(lane), lane=lane)
        except StoreLost:
            pass
        question = self._kept.put(lane, 1)
        cost_s = clock.now() - began_s
        await asyncio.sleep(ANSWER_S)
        began_s = clock.now()
        end = self._kept.put(lane, 2)
        self.labels[lane] = await end.kept(store.keep_s) is not None and question.done
        self.costs_s.append(cost_s + clock.now() - began_s)


async def until_in_use(store: Store, within_s: float) -> float:
    """Wait until requests use the database again. Return how long that took. Raises AssertionError."""
    began_s = clock.now()
    while not store.is_ok():
        await asyncio.sleep(0.01)
        assert clock.now() - began_s <= within_s, f"not in use: {store.snapshot()}"
    return clock.now() - began_s
