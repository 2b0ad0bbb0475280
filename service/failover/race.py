"""One branch of a race: its own failover over targets, in its own task."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dub5.service.failover.attempt import SUPERSEDED, ProviderAnswer, StreamedAnswer
from dub5.service.failover.context import RequestContext
from dub5.service.timeouts import Timeouts


class Branch:
    """`work` runs until the branch is ended, or goes on in the background."""

    def __init__(
        self,
        context: RequestContext,
        deadline_s: float,
        work: Callable[["Branch", Timeouts], Awaitable[ProviderAnswer | None]],
    ) -> None:
        self.answer: ProviderAnswer | None = None
        self.superseded = False  # another one was faster
        self.in_background = False  # the request has its answer
        self.task = asyncio.create_task(self._run(context, deadline_s, work))

    async def _run(
        self,
        context: RequestContext,
        deadline_s: float,
        work: Callable[["Branch", Timeouts], Awaitable[ProviderAnswer | None]],
    ) -> None:
        timeouts = Timeouts(deadline_s, outer=context.timeouts)
        try:
            self.answer = await work(self, timeouts)
        finally:
            timeouts.close()

    def continue_in_background(self) -> None:
        """The request has its answer; what is out may tell how its target does, and is not repeated."""
        self.in_background = True

    async def end(self, superseded: bool) -> None:
        """It is not wanted any more."""
        self.superseded = superseded
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
            if isinstance(self.answer, StreamedAnswer):
                await self.answer.aclose(SUPERSEDED)


@dataclass(slots=True)
class PendingHedge:
    """The second branch of a hedged attempt, once there is one. Its answer ends the wait for the first one."""

    branch: Branch | None = None
    may_interrupt: bool = True


async def first_success(
    context: RequestContext, *branches: Branch, unless: Branch | None = None, sure: Branch | None = None
) -> ProviderAnswer | None:
    """What the first leg found; None when all have ended without, or `unless` has, or the request has no hope, and
    `sure` says so too."""
    running = list(branches)
    while running:
        await asyncio.wait([branch.task for branch in running], return_when=asyncio.FIRST_COMPLETED)
        for branch in running:
            if branch.task.done():
                branch.task.result()  # a defect of ours is raised
                if branch.answer is not None:
                    return branch.answer
        hopeless = context.given_up and (sure is None or sure.task.done())
        if hopeless or (unless is not None and unless.task.done()):
            return None
        running = [branch for branch in running if not branch.task.done()]
    return None
