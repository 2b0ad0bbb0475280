"""JobWorker: the jobs that this process does, and who takes the next one.

    a free place --claim, each second or when woken--> JobRun --ended--> the place is free

One claim is one statement, tried once. Where nobody hears its answer, it is taken back; should it be kept
later than that, its job waits until the lease has run out.
"""

import asyncio
from collections.abc import Callable, Mapping
from random import Random

from dub5.service import clock
from dub5.service.config.settings import JobsSettings
from dub5.service.events import Events
from dub5.service.jobs import statements
from dub5.service.jobs.job_run import LEASE_S, Claim, JobRun
from dub5.service.jobs.model import JobKind
from dub5.service.jobs.rows import job_of
from dub5.service.store.base import BoundStatement
from dub5.service.store.store import Store, StoreLost
from dub5.service.timeouts import wait_at_most

LOOK_S = 1.0  # how often other processes' jobs are looked for
RETURN_S = 5.0  # after a loss of the database: who had a job may have a result to keep, and goes first
FINISH_S = 0.5  # for a step that is nearly done when the process ends
GIVE_BACK_S = 0.5  # until the database knows that a job was given back
RUNS_MAX = 16  # of the workers and of those who watch, together


class JobWorker:
    """The worker of a process. `kinds` may grow until `start`. `on_change` is told the id of a job."""

    def __init__(
        self,
        store: Store,
        kinds: Mapping[str, JobKind],
        options: JobsSettings,
        events: Events,
        rng: Random,
        on_change: Callable[[str], None],
    ) -> None:
        self.options = options  # a reload replaces them
        self._store = store
        self._kinds = kinds
        self._events = events
        self._rng = rng
        self._on_change = on_change
        self._runs: dict[str, JobRun] = {}  # by job
        self._wake = asyncio.Event()
        self._taking: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def count(self) -> int:
        """The number of jobs that this process does now."""
        return len(self._runs)

    def start(self) -> None:
        """Begin to take jobs, if there are kinds of them, and it has not begun."""
        if self._kinds and self._taking is None:
            self._taking = asyncio.create_task(self._take(), name="jobs")

    def wake(self) -> None:
        """Look for jobs now."""
        self._wake.set()

    async def take_one(self, owner: str, id_: str) -> bool:
        """Take this job, if nobody has it. Return whether it was taken."""
        if self._closed or id_ in self._runs or len(self._runs) >= RUNS_MAX or not self._kinds:
            return False
        lease, now = self._new_lease(), clock.wall()
        until = now + LEASE_S
        return await self._claim(statements.CLAIM_ONE.bind(owner, id_, lease, now, until), lease, until)

    def lose(self, id_: str) -> None:
        """End the run of a job that is over, if it is here."""
        if (run := self._runs.get(id_)) is not None:
            run.lose()

    async def give_back(self, id_: str) -> None:
        """Let another process go on with a job, if it is here."""
        if (run := self._runs.get(id_)) is not None:
            run.give_back()
            await run.wait(GIVE_BACK_S)

    async def drain(self) -> None:
        """Take no more jobs. Let steps end that nearly have, and give back the rest."""
        self._closed = True
        self._wake.set()
        if self._taking is not None:
            await asyncio.wait({self._taking}, timeout=GIVE_BACK_S)  # a claim under way may be kept
            self._taking.cancel()
        runs = list(self._runs.values())
        for run in runs:
            run.finish()
        if runs:
            await asyncio.wait({run.task for run in runs}, timeout=FINISH_S)
        for run in runs:
            run.give_back()
        await asyncio.gather(*(run.wait(GIVE_BACK_S) for run in runs))

    async def aclose(self) -> None:
        """Give back all jobs, and end what is left."""
        await self.drain()
        tasks = [run.task for run in self._runs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self) -> None:
        resting_until_s = 0.0
        while not self._closed:
            self._wake.clear()
            if not self._store.is_ok():
                resting_until_s = clock.now() + RETURN_S
            elif clock.now() >= resting_until_s:
                while len(self._runs) < self.options.workers and await self._take_next():
                    pass
            await wait_at_most(self._wake, LOOK_S)

    async def _take_next(self) -> bool:
        lease, now = self._new_lease(), clock.wall()
        until = now + LEASE_S
        return await self._claim(
            statements.CLAIM.bind(lease, now, until, ",".join(self._kinds)), lease, until
        )

    async def _claim(self, bound: BoundStatement, lease: str, until: float) -> bool:
        try:
            (rows,) = await self._store.write_once([bound])
        except StoreLost:
            self._take_back(lease, until)
            return False
        except asyncio.CancelledError:
            self._take_back(lease, until)
            raise
        if not rows:
            return False
        claim = Claim(job_of(rows[0]), lease)
        self._begin(claim)
        return True

    def _take_back(self, lease: str, until: float) -> None:
        """Let anybody have the job of a claim, if there is one, and count no try for it."""
        self._store.write([statements.UNCLAIM.bind(lease, clock.wall(), until)], lane="jobs")

    def _begin(self, claim: Claim) -> None:
        id_ = claim.job.id
        self.lose(id_)  # a lease of ours that ran out unnoticed
        kind = self._kinds[claim.job.kind]
        run = JobRun(claim, kind, self._store, self._events, self._rng, self._on_change)
        self._runs[id_] = run
        if self._closed:
            run.give_back()
        run.task.add_done_callback(lambda _: self._ended(id_, run))
        self._on_change(id_)

    def _ended(self, id_: str, run: JobRun) -> None:
        if self._runs.get(id_) is run:
            del self._runs[id_]
        self._wake.set()

    def _new_lease(self) -> str:
        return f"{self._rng.getrandbits(64):016x}"
