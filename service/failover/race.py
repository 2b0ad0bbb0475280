"""Race: attempts for one request in parallel. The first content wins.

Call `Race.add(branch)`, then `Race.finish`.

    main       the request's main attempts, awaited in its own task; a branch that has an answer cuts their
               wait short
    branch     attempts in a task of their own, started now or later: a hedge; or a probe or canary, with the
               rest of the targets in a second branch
    losers     are cancelled, or finish in the background, where they show the state of their target; a branch
               that finds no answer leaves its probes to the race that it takes part in

Every branch is ended, whatever happens: an error, the deadline, a request that is cancelled twice, two
answers at one instant. A request without branches costs no task.
"""

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum

from dub5.service import clock
from dub5.service.failover.attempt import CANCELLED, SUPERSEDED, ProviderAnswer, StreamedAnswer
from dub5.service.failover.context import RequestContext
from dub5.service.resilience.permit import Permit
from dub5.service.timeouts import NEVER, TimedOut, Timeouts

Work = Callable[["Branch", Timeouts], Awaitable[ProviderAnswer | None]]


class Purpose(StrEnum):
    """Why a branch was started."""

    HEDGE = "hedge"  # the main attempt is slow, or late
    PROBE = "probe"  # its target may be down: a request with a fallback does not wait for it
    CANARY = "canary"  # its target fails now and then; it may answer what another target refuses
    REST = "rest"  # the other targets, in parallel with a probe or canary


class Branch:
    """Attempts in a task of their own.

    `may_finish` decides, when the branch has lost, whether it finishes in the background. `permit` was
    acquired for the branch before it began.
    """

    def __init__(
        self,
        context: RequestContext,
        purpose: Purpose,
        deadline_s: float,
        work: Work,
        may_finish: Callable[[], bool] = lambda: False,
        permit: Permit | None = None,
    ) -> None:
        self.answer: ProviderAnswer | None = None
        self.superseded = False  # the main attempts or another branch were faster
        self.in_background = False  # the request has its answer
        self.purpose = purpose
        self.race: Race | None = None  # in which it takes part
        self.may_finish = may_finish
        self._permit = permit
        self.task = asyncio.create_task(self._run(context, deadline_s, work))

    async def _run(self, context: RequestContext, deadline_s: float, work: Work) -> None:
        timeouts = Timeouts(deadline_s, outer=context.timeouts)
        try:
            self.answer = await work(self, timeouts)
        finally:
            timeouts.close()

    async def end(self, superseded: bool) -> None:
        """Cancel the branch and wait for its end."""
        self.superseded = superseded
        self.task.cancel()
        await self.close()

    async def close(self) -> None:
        """Wait for the branch's end. Release its answer, and its permit if it never began."""
        try:
            await asyncio.wait({self.task})
        except asyncio.CancelledError:
            self.task.cancel()
            await asyncio.wait({self.task})
            raise
        finally:
            if isinstance(self.answer, StreamedAnswer):
                await self.answer.aclose(SUPERSEDED)
            if self._permit is not None:  # no attempt has ended it if none has begun
                self._permit.end(CANCELLED, clock.now(), reached=False)


class BranchPool:
    """The branches that outlive their request, until the process ends."""

    def __init__(self) -> None:
        self._background: dict[asyncio.Task[None], Branch] = {}
        self._ending: dict[asyncio.Future[list[None]], None] = {}

    @property
    def in_background(self) -> int:
        """Return the number of branches that finish in the background."""
        return len(self._background)

    def finish_in_background(self, branch: Branch) -> None:
        """Let a branch finish by itself. Its attempt is not repeated."""
        branch.in_background = True
        finishing = asyncio.create_task(branch.close(), name="losing probe")
        self._background[finishing] = branch
        finishing.add_done_callback(self._background.pop)

    async def end(self, *branches: Branch, superseded: bool) -> None:
        """Cancel branches and wait for their end. They also end where the caller is cancelled meanwhile."""
        ending = asyncio.gather(*(branch.end(superseded) for branch in branches))
        self._ending[ending] = None
        ending.add_done_callback(self._ending.pop)
        await asyncio.shield(ending)

    async def aclose(self) -> None:
        """End every branch that is still out."""
        for finishing, branch in list(self._background.items()):
            finishing.cancel()
            await asyncio.gather(finishing, return_exceptions=True)
            await branch.end(
                superseded=True
            )  # a task that is cancelled before its first step has ended nothing
        await asyncio.gather(*self._ending, return_exceptions=True)


class Race:
    """The main attempts of one request, or of one of its branches, and the branches in parallel with them.

    `timeouts` are those of the main task. `branch` is the one whose attempts are the main ones here.
    """

    def __init__(
        self, pool: BranchPool, context: RequestContext, timeouts: Timeouts, branch: Branch | None
    ) -> None:
        self.won_by_branch = False  # the wait of the main attempts was cut short
        self._pool = pool
        self._context = context
        self._timeouts = timeouts
        self._outer = None if branch is None else branch.race
        self._main_over = False
        self._branches: list[Branch] = []

    def add(self, branch: Branch) -> None:
        """Let a branch take part from now on."""
        branch.race = self
        self._branches.append(branch)
        branch.task.add_done_callback(lambda _: self._on_branch_end(branch))

    def _on_branch_end(self, branch: Branch) -> None:
        if branch.answer is not None and not (self._main_over or self.won_by_branch):
            self.won_by_branch = True
            self._timeouts.cut_short()

    async def finish(self, answer: ProviderAnswer | None) -> ProviderAnswer | None:
        """Return the main answer, else that of the first branch, else None. End all other branches."""
        self._main_over = True
        self._timeouts.resume()
        try:
            if answer is None:
                answer = await self._first_answer()
            await self._end_losers(answer)
        except BaseException:  # cancelled meanwhile: the answer has no taker
            try:
                await self.abandon(superseded=answer is not None)
            finally:  # cancelled again
                if isinstance(answer, StreamedAnswer):
                    await answer.aclose(SUPERSEDED if self.won_by_branch else CANCELLED)
            raise
        if isinstance(answer, StreamedAnswer):
            answer.move_to(self._timeouts)
        return answer

    async def abandon(self, *, superseded: bool) -> None:
        """End every branch: the request wants no answer any more."""
        self._main_over = True
        await self._pool.end(*self._branches, superseded=superseded)

    async def _first_answer(self) -> ProviderAnswer | None:
        while True:
            for branch in self._branches:
                if branch.task.done():
                    branch.task.result()  # a defect of ours is raised
                    if branch.answer is not None:
                        return branch.answer
            running = [branch for branch in self._branches if not branch.task.done()]
            if not any(map(self._is_awaited, running)):
                return None
            before_ns = clock.tick_ns()
            try:
                change = asyncio.wait([b.task for b in running], return_when=asyncio.FIRST_COMPLETED)
                await self._timeouts.run("race", NEVER, change)
            except TimedOut:  # the deadline: the final error says so, unless an answer came at that instant
                return next((b.answer for b in self._branches if b.answer is not None), None)
            finally:
                if self._timeouts is self._context.timeouts:
                    self._context.progress.upstream_ns += clock.tick_ns() - before_ns

    def _is_awaited(self, branch: Branch) -> bool:
        if branch.purpose is Purpose.CANARY:
            return True
        if self._context.progress.given_up:
            return False
        return not (branch.purpose is Purpose.PROBE and self._context.has_fallback)

    async def _end_losers(self, answer: ProviderAnswer | None) -> None:
        losers = []
        for branch in self._branches:
            if not branch.task.done() and branch.may_finish():
                if answer is None and self._outer is not None:
                    self._outer.add(branch)  # other attempts may still be waited for: this one may be faster
                else:
                    self._pool.finish_in_background(branch)
            elif answer is None or branch.answer is not answer:
                losers.append(branch)
        if losers:
            await self._pool.end(*losers, superseded=True)
