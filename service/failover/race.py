"""One side of a race: a way of its own over targets, in a task of its own."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dub5.service.failover.attempt import OUTRUN, Found, Streaming
from dub5.service.failover.context import Task
from dub5.service.timeouts import Watch


class Leg:
    """`go` walks it: until the leg is ended, or goes on for nobody."""

    def __init__(
        self, task: Task, deadline_s: float, go: Callable[["Leg", Watch], Awaitable[Found | None]]
    ) -> None:
        self.found: Found | None = None
        self.outrun = False  # another one was faster
        self.for_nobody = False  # the request has its answer
        self.task = asyncio.create_task(self._run(task, deadline_s, go))

    async def _run(
        self, task: Task, deadline_s: float, go: Callable[["Leg", Watch], Awaitable[Found | None]]
    ) -> None:
        watch = Watch(deadline_s, within=task.watch)
        try:
            self.found = await go(self, watch)
        finally:
            watch.close()

    def go_on_for_nobody(self) -> None:
        """The request has its answer; what is out may tell how its target does, and is not repeated."""
        self.for_nobody = True

    async def end(self, outrun: bool) -> None:
        """It is not wanted any more."""
        self.outrun = outrun
        self.task.cancel()
        await self.close()

    async def close(self) -> None:
        """Waits for its end, and lets go of what it found."""
        try:
            await asyncio.wait({self.task})
        except asyncio.CancelledError:
            self.task.cancel()
            await asyncio.wait({self.task})
            raise
        finally:
            if isinstance(self.found, Streaming):
                await self.found.aclose(OUTRUN)


@dataclass(slots=True)
class Beside:
    """The other leg of a hedged try, once there is one. It ends the first one's wait when it has found something."""

    leg: Leg | None = None
    may_interrupt: bool = True


async def first(task: Task, *legs: Leg, unless: Leg | None = None, sure: Leg | None = None) -> Found | None:
    """What the first leg found; None when all have ended without, or `unless` has, or the request has no hope, and
    `sure` says so too."""
    running = list(legs)
    while running:
        await asyncio.wait([leg.task for leg in running], return_when=asyncio.FIRST_COMPLETED)
        for leg in running:
            if leg.task.done():
                leg.task.result()  # a defect of ours is raised
                if leg.found is not None:
                    return leg.found
        hopeless = task.given_up and (sure is None or sure.task.done())
        if hopeless or (unless is not None and unless.task.done()):
            return None
        running = [leg for leg in running if not leg.task.done()]
    return None
