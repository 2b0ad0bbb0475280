"""JobRun: a job that this process does, step by step, under one lease.

claim -> step -> its writes and the new position, one transaction -> step -> ... -> done, failed or released
           a renewal each 10 s; a lease that is lost ends the step

A result that is not known to be kept is written until it is: no provider is asked for it again, for as long
as this process lives. A write of results does no harm if another process was faster; the position is changed
only by whoever has the lease.
"""

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from random import Random

from msgspec import Struct

from dub5.service import clock
from dub5.service.errors import GatewayError
from dub5.service.events import Events, JobEnded, JobStepEnded, StepResult, crash_of
from dub5.service.jobs import statements
from dub5.service.jobs.after_step import KILLED, TRIES_MAX, GiveUp, Retry, after_error
from dub5.service.jobs.model import Job, JobFailed, JobKind
from dub5.service.jobs.rows import job_of
from dub5.service.store.base import BoundStatement, Row, Statement
from dub5.service.store.store import PendingWrite, Store, StoreLost

LEASE_S = 30.0
RENEW_S = 10.0
RENEW_AGAIN_S = 1.0  # after one that the database did not take
LOOK_S = 1.0  # how often a result that waits looks at the database
SHARE_S = 20.0  # then it is another job's turn, if one waits


class Claim(Struct, frozen=True):
    """A job that this process may do, for as long as the lease is renewed."""

    job: Job
    lease: str


class ResultRefused(Exception):
    """The database refuses what a step wants to keep: a defect, which the store has told."""


EXPECTED = (GatewayError, JobFailed, StoreLost, ResultRefused)


class EndReason(Enum):
    """Why a run ends before its job does."""

    LOST = auto()  # nothing is to be written
    GIVEN_BACK = auto()


class JobRun:
    """A job at work. `job` is what is known to be kept of it. `on_change` is told its id."""

    def __init__(
        self,
        claim: Claim,
        kind: JobKind,
        store: Store,
        events: Events,
        rng: Random,
        on_change: Callable[[str], None],
    ) -> None:
        self.job = claim.job
        self._lease = claim.lease
        self._kind = kind
        self._store = store
        self._events = events
        self._rng = rng
        self._on_change = on_change
        self._began_s = self._step_began_s = clock.now()
        self._started = self._in_step = self._finishing = False
        self._reason: EndReason | None = None
        self._released: PendingWrite | None = None
        self.task = asyncio.create_task(self._run(), name=f"job {self.job.id}")

    def lose(self) -> None:
        """End it without a word to the database: the lease is another one's, or the job is over."""
        self._end(EndReason.LOST)

    def give_back(self) -> None:
        """End it, and let another process go on at once."""
        self.finish()
        if self._in_step:  # else it does so by itself
            self._end(EndReason.GIVEN_BACK)

    def finish(self) -> None:
        """Begin no other step, and let another process go on after this one."""
        self._finishing = True

    async def wait(self, at_most_s: float) -> None:
        """Wait until it has ended, and the database knows of it."""
        await asyncio.wait({self.task}, timeout=at_most_s)
        if self._released is not None:
            await self._released.wait(at_most_s)

    def _end(self, reason: EndReason) -> None:
        if self._reason is None and not self.task.done():
            self._reason = reason
            if self._started:  # else it looks before its first step
                self.task.cancel()

    async def _run(self) -> None:
        self._started = True
        if self._reason is EndReason.LOST:
            return
        renewal = asyncio.create_task(self._renew(), name=f"lease {self.job.id}")
        try:
            await self._steps()
        except asyncio.CancelledError:
            if self._reason is None:
                raise
            if self._reason is EndReason.GIVEN_BACK:
                self._release(clock.wall(), self.job.tries - 1)
            if self._in_step:
                given_back = self._reason is EndReason.GIVEN_BACK
                self._tell_step(StepResult.GIVEN_BACK if given_back else StepResult.LOST)
        finally:
            renewal.cancel()
            self._on_change(self.job.id)

    async def _steps(self) -> None:
        """Do steps until the job is over, released or lost, or it is another one's turn."""
        if self.job.tries > TRIES_MAX:
            await self._fail(KILLED)
            return
        while not (self.job.ended or self._finishing) and clock.now() < self._began_s + SHARE_S:
            self._step_began_s, self._in_step = clock.now(), True
            error = await self._step()
            if error is not None:
                await self._after_error(error)
            if error is not None or self._reason is not None:
                return
        if not self.job.ended:
            await self._through(self._release(clock.wall(), self.job.tries - 1))

    async def _step(self) -> BaseException | None:
        """Do the step under way and keep its result. Return why it has not worked."""
        step = asyncio.create_task(self._kind.step(self.job), name=f"step {self.job.done} of {self.job.id}")
        try:
            await asyncio.wait({step})
        finally:
            if not step.done():
                step.cancel()
                await asyncio.wait({step})  # its connections are closed
        if step.cancelled():
            return asyncio.CancelledError()
        if (error := step.exception()) is not None:
            return error
        return await self._keep(step.result())

    async def _keep(self, writes: list[BoundStatement]) -> BaseException | None:
        """Keep the result of the step with the new position. Return why that is not possible."""
        now = clock.wall()
        advance = self._bind(statements.ADVANCE, self.job.done, now, now + LEASE_S)
        rows = await self._kept([*writes, advance])
        if rows is None:
            return ResultRefused("the database refused the result of a step")
        if rows[-1]:
            self._tell_step(StepResult.KEPT)
            self._know(job_of(rows[-1][0]))
        else:
            self._reason = EndReason.LOST
            self._tell_step(StepResult.LOST)
        return None

    async def _after_error(self, error: BaseException) -> None:
        """Let the step be tried again later, or the job fail."""
        if not isinstance(error, EXPECTED):
            self._events.emit(crash_of(error, self.job.id))
        match after_error(error, self.job.tries, self._rng.random()):
            case Retry(pause_s):
                self._tell_step(StepResult.RETRY)
                await self._through(self._release(clock.wall() + pause_s, self.job.tries))
            case GiveUp(problem):
                self._tell_step(StepResult.FAILED)
                await self._fail(problem)

    async def _fail(self, problem: str) -> None:
        rows = await self._kept([self._bind(statements.FAIL, problem, clock.wall())])
        if rows and rows[0]:
            self._know(job_of(rows[0][0]))

    def _release(self, run_at: float, tries: int) -> PendingWrite:
        release = self._bind(statements.RELEASE, run_at, max(0, tries))
        self._released = self._store.write([release], lane=self.job.subject)
        return self._released

    def _bind(self, statement: Statement, *values: str | float) -> BoundStatement:
        return statement.bind(self.job.owner, self.job.id, self._lease, *values)

    async def _kept(self, bounds: list[BoundStatement]) -> list[list[Row]] | None:
        """Write until it is kept, and return the rows; None if the database refuses it."""
        while True:
            write = self._store.write(bounds, lane=self.job.subject)
            await self._through(write)
            if write.rows is not None or write.refused:
                return write.rows
            await asyncio.sleep(LOOK_S)  # it was forgotten: too much waits for a lost database

    async def _through(self, write: PendingWrite) -> None:
        while not write.done:
            await write.wait(LOOK_S)
            if not write.done and not self._store.is_ok():
                await asyncio.sleep(LOOK_S)

    async def _renew(self) -> None:
        """Renew the lease until it is lost."""
        pause_s = RENEW_S
        while True:
            await asyncio.sleep(pause_s)
            try:
                (rows,) = await self._store.write_once([self._bind(statements.RENEW, clock.wall() + LEASE_S)])
            except StoreLost:
                pause_s = RENEW_AGAIN_S
                continue
            if not rows:
                self.lose()
                return
            pause_s = RENEW_S

    def _know(self, job: Job) -> None:
        """Note what is kept now."""
        self.job = job
        if job.ended:
            self._events.emit(ended(job))
        self._on_change(job.id)

    def _tell_step(self, result: StepResult) -> None:
        took_s, self._in_step = clock.now() - self._step_began_s, False
        self._events.emit(
            JobStepEnded(self.job.kind, self.job.id, self.job.done, result, took_s, self.job.tries)
        )


def ended(job: Job) -> JobEnded:
    """Return the event of a job that is over."""
    assert job.ended_at is not None, "it is over"
    return JobEnded(job.kind, job.id, job.state, max(0.0, job.ended_at - job.made_at), job.tries)
