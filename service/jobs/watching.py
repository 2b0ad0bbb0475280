"""Watching a job: whoever does so is told of each change, whichever process does the job.

a step of this process ---.
                           '--> one look at the database --> WatchedJob --> each JobListener
each second, while watched-'
"""

import asyncio
from collections.abc import Awaitable, Callable

from dub5.service.errors import Overloaded, StorageUnavailable
from dub5.service.jobs.model import Job
from dub5.service.timeouts import wait_at_most

LOOK_S = 1.0
LISTENERS_MAX = 100

# Returns the job; None: there is none any more. Raises StorageUnavailable.
Look = Callable[[], Awaitable[Job | None]]


class WatchedJob:
    """A job that connections of this process watch. `close` ends their watching."""

    def __init__(self, job: Job, look: Look, on_unwatched: "Callable[[WatchedJob], None]") -> None:
        self.job = job
        self.closed = False
        self.listeners: set[JobListener] = set()
        self._look = look
        self._on_unwatched = on_unwatched
        self._poked = asyncio.Event()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def listen(self) -> "JobListener":
        """Return a listener. Raises Overloaded."""
        if len(self.listeners) >= LISTENERS_MAX:
            raise Overloaded("Too many connections watch this job.", retry_after_s=1.0)
        listener = JobListener(self)
        self.listeners.add(listener)
        if self._task is None:
            self._task = asyncio.create_task(self._watch(), name=f"watch {self.job.id}")
        return listener

    def leave(self, listener: "JobListener") -> None:
        """Remove a listener."""
        if listener in self.listeners:
            self.listeners.remove(listener)
            if not self.listeners:
                self.close()
                self._on_unwatched(self)

    def poke(self) -> None:
        """Look at the database now."""
        self._poked.set()

    def close(self) -> None:
        """Tell nobody anything any more."""
        self.closed = True
        if self._task is not None:
            self._task.cancel()
        self._wake()

    async def changed(self) -> None:
        """Wait until the job has changed, or it is closed."""
        await self._changed.wait()

    async def _watch(self) -> None:
        while not self.job.ended:
            self._poked.clear()
            try:
                job = await self._look()
            except StorageUnavailable:
                job = self.job
            if job is None:
                self.closed = True
                self._wake()
                return
            if job != self.job:
                self.job = job
                self._wake()
            if not job.ended:
                await wait_at_most(self._poked, LOOK_S)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class JobListener:
    """One who watches a job."""

    def __init__(self, watched: WatchedJob) -> None:
        self._watched = watched
        self._last: Job | None = None

    async def read(self) -> Job | None:
        """Return the job as soon as it is another than the one before; None when nothing more will come."""
        while True:
            if self._watched.job != self._last:
                self._last = self._watched.job
                return self._last
            if self._watched.closed or self._last.ended:
                return None
            await self._watched.changed()

    def leave(self) -> None:
        """Watch no more."""
        self._watched.leave(self)
