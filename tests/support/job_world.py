"""A service with jobs of a tiny kind, in virtual time: its steps write numbers, and note what was asked."""

import asyncio
from collections.abc import Callable
from typing import Any

from dub5.service.jobs.jobs import Jobs
from dub5.service.jobs.model import Job
from dub5.service.store.base import BoundStatement, Statement
from dub5.simulators.virtual.database import VirtualDatabase, VirtualStorage
from tests.support.conversation_world import ConversationWorld, schema

TABLE = "CREATE TABLE result (job TEXT NOT NULL, step BIGINT NOT NULL, PRIMARY KEY (job, step));"
PUT = Statement("put_result", "INSERT INTO result (job, step) VALUES ($1, $2) ON CONFLICT DO NOTHING")
OWNER = "session:owner"
ASK_S = 2.0

Ask = Callable[[Job], Any]  # awaited where it returns an awaitable; what it raises, the step raises


class NumberKind:
    """A kind whose steps take a while, and then write their number. `asked`: each step that was begun."""

    def __init__(self, asked: list[tuple[str, int]], ask: Ask | None = None, ask_s: float = ASK_S) -> None:
        self.asked = asked
        self.ask_s = ask_s
        self.paid: list[tuple[str, int]] = []  # steps whose work was done
        self._ask = ask

    async def step(self, job: Job) -> list[BoundStatement]:
        """Do a step."""
        self.asked.append((job.id, job.done))
        if self._ask is not None and (found := self._ask(job)) is not None:
            await found
        await asyncio.sleep(self.ask_s)
        self.paid.append((job.id, job.done))
        return [PUT.bind(job.id, job.done)]


class JobWorld(ConversationWorld):
    """A service that does jobs of the kind "number". Several may share a storage: `database`."""

    def __init__(self, *, kind: NumberKind | None = None, **more: Any) -> None:
        super().__init__(**more)
        self.kind = kind or NumberKind([])
        self.jobs.kinds["number"] = self.kind

    @property
    def jobs(self) -> Jobs:
        """The jobs of the service."""
        assert self.service.jobs is not None
        return self.service.jobs

    @property
    def storage(self) -> VirtualStorage:
        """What is in the database."""
        storage: VirtualStorage = self.database.storage
        return storage

    async def make(self, steps: int = 3, owner: str = OWNER) -> Job:
        """Make a job."""
        job = self.jobs.new(owner, "number", f"subject of {owner}", steps)
        store = self.service.store
        assert store is not None
        assert await store.write([self.jobs.creation(job)], lane=job.subject).kept(1.0) is not None
        self.jobs.wake()
        return job

    def row(self, job: Job) -> tuple[Any, ...]:
        """Return state, position, tries and problem of a job, as the database has it now."""
        (row,) = self.storage.rows("SELECT state, done, tries, problem FROM job WHERE id = $1", job.id)
        return row

    async def until_over(self, job: Job, within_s: float = 3_600.0) -> str:
        """Wait for the end of a job; return its state."""
        async with asyncio.timeout(within_s):
            while (state := self.row(job)[0]) not in ("done", "failed"):
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.01)  # then the process knows, too: the answer was still on its way
        return str(state)

    def results(self, job: Job) -> list[int]:
        """Return the numbers that the steps of a job have written."""
        rows = self.storage.rows("SELECT step FROM result WHERE job = $1 ORDER BY step", job.id)
        return [step for (step,) in rows]


def job_database(rng: Any, faults: Any = ()) -> VirtualDatabase:
    """Return a database with the table of the results."""
    return VirtualDatabase(schema() + TABLE, rng, faults)
