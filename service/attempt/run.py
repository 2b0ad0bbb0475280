"""One answer from many tries: the only loop over targets.

    run     walk the targets in order; then those that are better than nobody; then say why not
    walk    enter     a pass from the guards, or the next target
            ask       a try; once more here if backoff says so and the budget pays
            race      a probe or trial and the rest of the walk side by side: nobody waits for who may be dead

A failure is classified once; the guards, the trail and this loop all take that verdict. Before the commit point
nothing has been sent to the client and any target may still answer. After it, none may.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import TypeVar

from service import clock
from service.attempt.backoff import Again, Tries, again
from service.attempt.classify import Then, Verdict, classify
from service.attempt.clocks import NEVER, ClockRanOut, Watch
from service.attempt.tries import BROKEN, CANCELLED, OUTRUN, Means, Streaming, Task, Try, Whole
from service.attempt.why_not import why_not
from service.chat import Attempt, Target
from service.errors import GatewayError
from service.events import Hedged
from service.options import RetryOptions
from service.routing.fleet import Barred, Fleet, Pass

T = TypeVar("T")
Found = Whole | Streaming
ATTEMPT_MIN_S = 0.05  # with less time left than this, no try can bring an answer


class Runner:
    """Asks targets until one answers."""

    def __init__(self, means: Means, fleet: Fleet, options: RetryOptions, dice: Random) -> None:
        self.means = means
        self.fleet = fleet
        self.options = options
        self.dice = dice
        self._heard: dict[asyncio.Task[None], None] = {}

    async def run(self, task: Task, targets: Sequence[Target]) -> Found:
        """The first answer to be had. Raises GatewayError; the trail in `task` says what was tried."""
        found = await _Walk(self, task, task.watch).to_the_end(targets)
        if found is None:
            raise self._why_not(task, targets)
        return found

    async def probe(self, task: Task, target: Target) -> None:
        """Asks one target whether it is back, for nobody. Its guards hear the answer."""
        found = await _Walk(self, task, task.watch).over([target], "probe")
        if isinstance(found, Streaming):
            await found.aclose(OUTRUN)

    def hear_out(self, leg: "_Leg") -> None:
        """A probe that was outrun goes on by itself, until it has told whether its target is back."""
        heard = asyncio.create_task(leg.close(), name="probe heard out")
        self._heard[heard] = None
        heard.add_done_callback(self._heard.pop)

    async def aclose(self) -> None:
        """Ends the probes that are still out."""
        for heard in list(self._heard):
            heard.cancel()
            await asyncio.gather(heard, return_exceptions=True)

    def _why_not(self, task: Task, targets: Sequence[Target]) -> GatewayError:
        now_s = clock.now()
        wait_s = min(self.fleet.wait_s(target, now_s) for target in targets)
        return why_not(task, wait_s, out_of_time=task.watch.deadline_s - now_s < ATTEMPT_MIN_S)


class _Walk:
    """One way over targets, for one request. `watch` guards its waits."""

    def __init__(self, runner: Runner, task: Task, watch: Watch) -> None:
        self.outrun = False
        self._runner = runner
        self._fleet = runner.fleet
        self._task = task
        self._watch = watch
        self._soft: list[Target] = []  # passed over, though better than nobody

    async def to_the_end(
        self, targets: Sequence[Target], kind: str = "first", soft: Sequence[Target] = ()
    ) -> Found | None:
        """The first answer of all targets, at last of those that were passed over, now or before (`soft`), and are
        better than nobody."""
        self._soft += soft
        found = await self.over(targets, kind)
        if found is None and self._soft:
            soft, self._soft = self._soft, []
            found = await self.over(soft, kind, last_resort=True)
        return found

    async def over(
        self, targets: Sequence[Target], kind: str = "first", *, last_resort: bool = False
    ) -> Found | None:
        """The first answer on this way; None: nobody gave one."""
        for i, target in enumerate(targets):
            if self._task.given_up or not self._has_time():
                return None
            leave = self._enter(target, last_resort)
            if leave is None:
                continue
            rest = targets[i + 1 :]
            if self._is_trial(target, leave, rest):
                return await self._race(target, leave, rest)
            found = await self._ask(target, leave, kind, rest)
            if found is not None:
                return found
            kind = "first"
        return None

    def _enter(self, target: Target, last_resort: bool) -> Pass | None:
        task, now_s = self._task, clock.now()
        leave = self._fleet.enter(target, now_s, last_resort=last_resort)
        if isinstance(leave, Pass):
            return leave
        at_s = now_s - task.started_s
        task.trail.append(Attempt(target.name, at_s, at_s, leave.reason, tried=False))
        if leave.soft and not last_resort:
            self._soft.append(target)
        return None

    def _is_trial(self, target: Target, leave: Pass, rest: Sequence[Target]) -> bool:
        """Whether this one may be dead or sick, and somebody else can be asked instead."""
        now_s = clock.now()
        if leave.probe:
            return not self._is_last(rest)
        if self._fleet.does_well(target, now_s):
            return False
        return any(
            self._fleet.does_well(other, now_s) and self._fleet.may_ask(other, now_s) for other in rest
        )

    def _is_last(self, rest: Sequence[Target]) -> bool:
        """Whether nobody else can be asked now."""
        now_s = clock.now()
        return not any(self._fleet.may_ask(other, now_s) for other in (*rest, *self._soft))

    async def _ask(self, target: Target, leave: Pass, kind: str, rest: Sequence[Target]) -> Found | None:
        """One target, and the same again while that is sensible; `rest` is who comes after it."""
        task, tries = self._task, Tries()
        while True:
            outcome = await self._try(target, leave, kind, fresh=tries.fresh)
            if not isinstance(outcome, Verdict):
                return outcome
            task.verdicts.append(outcome)
            task.given_up = task.given_up or outcome.then is Then.GIVE_UP
            last = self._is_last(rest)
            following = self._again(target, outcome, tries, last)
            if following is None or not self._has_time(following.wait_s):
                return None
            if following.wait_s:
                await self._waited(asyncio.sleep(following.wait_s))
            entered = self._fleet.enter(target, clock.now(), following.fare, last_resort=last)
            if isinstance(entered, Barred):
                return None
            leave, kind = entered, following.why
            tries.note(following)

    def _again(self, target: Target, verdict: Verdict, tries: Tries, last: bool) -> Again | None:
        runner, fleet, now_s = self._runner, self._fleet, clock.now()
        return again(
            verdict,
            tries,
            stored=self._task.request.stored,
            last=last,
            other_key=tries.keys < fleet.keys(target) - 1 and fleet.has_free_key(target, now_s),
            healthy=fleet.does_well(target, now_s),
            options=runner.options,
            dice=runner.dice,
        )

    async def _try(self, target: Target, leave: Pass, kind: str, *, fresh: bool) -> Found | Verdict:
        attempt = Try(self._runner.means, self._task, target, leave, self._watch, kind)
        try:
            return await self._waited(attempt.open(fresh))
        except BROKEN as error:
            verdict = leave.reconsider(classify(error), clock.now())
            attempt.end(verdict)
            await attempt.close()
            return verdict
        except BaseException:  # cancelled, or a defect of ours: what was taken goes back all the same
            attempt.end(OUTRUN if self.outrun else CANCELLED)
            await attempt.close()
            raise

    async def _race(self, target: Target, leave: Pass, rest: Sequence[Target]) -> Found | None:
        """A probe or trial, and the rest of the way beside it: the first content wins. A probe that was outrun is
        heard out, and so is a trial, unless that would cost a whole answer; others that were outrun are ended."""
        runner, task = self._runner, self._task
        kind, why = ("probe", "probe") if leave.probe else ("first", "degraded")
        runner.means.events.emit(Hedged(task.request.id, task.route, target.name, why))
        alone_s = task.clocks.connect_s + task.clocks.first_token_s  # it may have to go on without us
        own_s = max(self._watch.deadline_s, clock.now() + alone_s)
        probe = _Leg(runner, task, own_s, lambda walk: walk._ask(target, leave, kind, rest))
        soft, self._soft = self._soft, []
        others = _Leg(runner, task, self._watch.deadline_s, lambda walk: walk.to_the_end(rest, "hedge", soft))
        found: Found | None = None
        try:
            found = await self._waited(self._watch.guard("race", NEVER, _first(task, probe, others)))
        except ClockRanOut:
            pass  # the deadline: there is nothing to tell but that
        except BaseException:
            await probe.end(self.outrun)
            leave.end(CANCELLED, clock.now(), reached=False)  # the probe may not even have begun
            await others.end(self.outrun)
            raise
        if not probe.task.done():
            if leave.probe or task.request.stream:
                runner.hear_out(probe)
            else:
                await probe.end(outrun=True)
        if found is None or found is probe.found:
            await others.end(outrun=True)
        if isinstance(found, Streaming):
            found.move_to(self._watch)
        return found

    def _has_time(self, wait_s: float = 0.0) -> bool:
        return self._watch.deadline_s - clock.now() >= wait_s + ATTEMPT_MIN_S

    async def _waited(self, wait: Awaitable[T]) -> T:
        """Waits, and counts the time as the providers', not ours."""
        task, before_ns = self._task, clock.tick_ns()
        try:
            return await wait
        finally:
            if self._watch is task.watch:
                task.upstream_ns += clock.tick_ns() - before_ns


class _Leg:
    """A way of its own, in a task of its own: one side of a race."""

    def __init__(
        self, runner: Runner, task: Task, deadline_s: float, go: Callable[[_Walk], Awaitable[Found | None]]
    ) -> None:
        self.found: Found | None = None
        self._walk: _Walk | None = None
        self.task = asyncio.create_task(self._run(runner, task, deadline_s, go))

    async def _run(
        self, runner: Runner, task: Task, deadline_s: float, go: Callable[[_Walk], Awaitable[Found | None]]
    ) -> None:
        watch = Watch(deadline_s)
        self._walk = _Walk(runner, task, watch)
        try:
            self.found = await go(self._walk)
        finally:
            watch.close()

    async def end(self, outrun: bool) -> None:
        """It is not wanted any more."""
        if self._walk is not None:
            self._walk.outrun = outrun
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


async def _first(task: Task, *legs: _Leg) -> Found | None:
    """What the first leg found; None when all have ended without, or the request has no hope."""
    running = list(legs)
    while running:
        await asyncio.wait([leg.task for leg in running], return_when=asyncio.FIRST_COMPLETED)
        for leg in running:
            if leg.task.done():
                leg.task.result()  # a defect of ours is raised
                if leg.found is not None:
                    return leg.found
        if task.given_up:
            return None
        running = [leg for leg in running if not leg.task.done()]
    return None
