"""Jobs: background work that is kept in the database, as its makers and its owners see it.

    maker   new -> creation, in the transaction that makes the subject -> wake
    owner   read, watch, stop
    kinds   who does them (`JobKind`), by name; registered before `start`

Who takes a job and does its steps: worker.py and job_run.py.
"""

import asyncio
from random import Random

from dub5.service import clock
from dub5.service.config.settings import JobsSettings
from dub5.service.errors import JobNotFound, Overloaded
from dub5.service.events import Events
from dub5.service.ids import Ids
from dub5.service.jobs import statements
from dub5.service.jobs.job_run import ended
from dub5.service.jobs.model import Job, JobKind
from dub5.service.jobs.rows import job_of
from dub5.service.jobs.watching import JobListener, WatchedJob
from dub5.service.jobs.worker import JobWorker
from dub5.service.store.base import BoundStatement, Row
from dub5.service.store.records import Records
from dub5.service.store.store import Store

RETRY_AFTER_S = 5.0
STOPPED = "It was stopped."
WATCHED_MAX = 1_000  # jobs that are watched here: each asks the database every second


class Jobs:
    """The jobs of all owners."""

    def __init__(self, store: Store, ids: Ids, events: Events, rng: Random, options: JobsSettings) -> None:
        self.kinds: dict[str, JobKind] = {}
        self.worker = JobWorker(store, self.kinds, options, events, rng, self._changed)
        self._records = Records(store, "Jobs cannot be read or stopped now.")
        self._ids = ids
        self._events = events
        self._watched: dict[str, WatchedJob] = {}
        self._giving_back: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to do jobs."""
        self.worker.start()

    def new(self, owner: str, kind: str, subject: str, steps: int) -> Job:
        """Return a job of at least one step. `creation` keeps it."""
        if steps < 1 or kind not in self.kinds:
            raise ValueError(f"a job of the kind {kind!r} with {steps} steps cannot be done")
        return Job(self._ids.new(), owner, kind, subject, steps, clock.wall())

    def creation(self, job: Job) -> BoundStatement:
        """Return the statement that keeps a new job, for the transaction that makes its subject."""
        return statements.CREATE.bind(job.owner, job.id, job.kind, job.subject, job.steps, job.made_at)

    def deletion(self, owner: str, subject: str) -> BoundStatement:
        """Return the statement that deletes the jobs of a subject, for the transaction that deletes it."""
        return statements.DELETE.bind(owner, subject)

    def wake(self) -> None:
        """Look for jobs now: one was made."""
        self.worker.wake()

    async def read(self, owner: str, id_: str) -> Job | None:
        """Return a job of this owner. Raises StorageUnavailable."""
        rows = await self._records.read(statements.READ.bind(owner, id_), id_)
        return job_of(rows[0]) if rows else None

    async def watch(self, owner: str, id_: str) -> JobListener:
        """Return a listener of a job. Raises JobNotFound, StorageUnavailable, Overloaded."""
        job = await self.read(owner, id_)
        if job is None:
            raise not_found()
        watched = self._watched.get(id_)
        if watched is None or watched.closed:
            if len(self._watched) >= WATCHED_MAX:
                raise Overloaded("Too many jobs are watched on this instance.", retry_after_s=RETRY_AFTER_S)
            watched = WatchedJob(job, lambda: self._look(owner, id_), self._unwatched)
            self._watched[id_] = watched
        return watched.listen()

    async def stop(self, owner: str, id_: str) -> Job:
        """End a job, unless it has ended. Return it. Raises JobNotFound, StorageUnavailable.

        A step that another process is doing ends when its lease is to be renewed.
        """
        stop = statements.STOP.bind(owner, id_, STOPPED, clock.wall())
        (stopped,) = await self._records.change([stop], id_)
        if stopped:
            return self._stopped(stopped[0])
        job = await self.read(owner, id_)
        if job is None:
            raise not_found()
        return job

    async def drain(self) -> None:
        """Give back all jobs at work, so that another process goes on; end all watching."""
        await self.worker.drain()
        for watched in list(self._watched.values()):
            watched.close()

    async def given_back(self) -> None:
        """Wait until the database knows of the jobs that nobody watches any more. It ends soon."""
        await asyncio.gather(*self._giving_back)

    async def aclose(self) -> None:
        """End all that runs."""
        await self.drain()
        await self.worker.aclose()
        await self.given_back()

    def _stopped(self, row: Row) -> Job:
        job = job_of(row)
        self.worker.lose(job.id)
        self._events.emit(ended(job))
        self._changed(job.id)
        return job

    def _changed(self, id_: str) -> None:
        if (watched := self._watched.get(id_)) is not None:
            watched.poke()

    async def _look(self, owner: str, id_: str) -> Job | None:
        """Return the job as it is now. Where those who watch do the work, take it if nobody has it."""
        job = await self.read(owner, id_)
        if job is not None and not job.ended and self.worker.options.watchers_work:
            await self.worker.take_one(owner, id_)
        return job

    def _unwatched(self, watched: WatchedJob) -> None:
        """Forget what nobody watches any more."""
        id_, options = watched.job.id, self.worker.options
        if self._watched.get(id_) is watched:
            del self._watched[id_]
        if options.watchers_work and not options.workers:
            task = asyncio.create_task(self.worker.give_back(id_), name=f"give back {id_}")
            self._giving_back.add(task)
            task.add_done_callback(self._giving_back.discard)


def not_found() -> JobNotFound:
    """Return the error for a job that the owner does not have."""
    return JobNotFound("There is no job with this id here.")
