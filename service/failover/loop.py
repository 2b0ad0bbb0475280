"""One answer from many tries: the only loop over targets.

    run     walk the targets in order; then those that are better than nobody; then say why not
    walk    enter     a pass from the guards, or the next target
            ask       a try; once more here if backoff says so and the budget pays
            hedge     a target that takes longer than usual, or half the time there is, gets another one beside it
            race      a probe or trial and the rest of the walk side by side: nobody waits for who may be dead

A failure is classified once; the guards, the trail and this loop all take that verdict. Before the commit point
nothing has been sent to the client and any target may still answer. After it, none may.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping, Sequence
from random import Random
from typing import TypeVar

from dub5.service import clock
from dub5.service.config.options import RetryOptions
from dub5.service.errors import GatewayError
from dub5.service.events import Hedged
from dub5.service.failover.attempt import BROKEN, CANCELLED, OUTRUN, Found, Streaming, Try
from dub5.service.failover.context import Means, Task
from dub5.service.failover.final_error import UNSUPPORTED, why_not
from dub5.service.failover.race import Beside, Leg, first
from dub5.service.model import Attempt, Target
from dub5.service.resilience.circuit_breaker import PROOFS
from dub5.service.resilience.classify import Then, Verdict, classify
from dub5.service.resilience.fleet import Fleet
from dub5.service.resilience.permit import Pass
from dub5.service.resilience.retry import Again, Fare, Tries, again
from dub5.service.resilience.target import Barred
from dub5.service.timeouts import NEVER, ClockRanOut, Interrupted, Watch

T = TypeVar("T")
LATEST = 0.75  # of the time left is when another one is asked at last
ATTEMPT_MIN_S = 0.05  # with less time left than this, no try can bring an answer


class Runner:
    """Asks targets until one answers."""

    def __init__(self, means: Means, fleet: Fleet, options: RetryOptions, dice: Random) -> None:
        self.means = means
        self.fleet = fleet
        self.options = options
        self.dice = dice
        self._heard: dict[asyncio.Task[None], None] = {}
        self._ending: dict[asyncio.Future[list[None]], None] = {}

    async def run(self, task: Task, targets: Sequence[Target]) -> Found:
        """The first answer to be had. Raises GatewayError; the trail in `task` says what was tried."""
        self.means.hedges.note_request(clock.now())
        found = await _Walk(self, task, task.watch).to_the_end(targets)
        if found is None:
            raise self._why_not(task, targets)
        return found

    async def probe(self, task: Task, target: Target) -> None:
        """Asks one target whether it is back, for nobody. Its guards hear the answer."""
        found = await _Walk(self, task, task.watch).over([target], "probe")
        if isinstance(found, Streaming):
            await found.aclose(OUTRUN)

    @property
    def hearing(self) -> int:
        """How many are heard out now."""
        return len(self._heard)

    def hear_out(self, leg: Leg) -> None:
        """A probe that was outrun goes on by itself, until it has told whether its target is back."""
        leg.go_on_for_nobody()
        heard = asyncio.create_task(leg.close(), name="probe heard out")
        self._heard[heard] = None
        heard.add_done_callback(self._heard.pop)

    async def end(self, *legs: Leg, outrun: bool) -> None:
        """They are not wanted any more. Who is cancelled meanwhile need not wait: they end, and give back what they
        took, all the same."""
        ending = asyncio.gather(*(leg.end(outrun) for leg in legs))
        self._ending[ending] = None
        ending.add_done_callback(self._ending.pop)
        await asyncio.shield(ending)

    async def aclose(self) -> None:
        """Ends the probes that are still out."""
        for heard in list(self._heard):
            heard.cancel()
            await asyncio.gather(heard, return_exceptions=True)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _why_not(self, task: Task, targets: Sequence[Target]) -> GatewayError:
        now_s = clock.now()
        unable = {attempt.target for attempt in task.trail if attempt.reason.startswith(UNSUPPORTED)}
        able = [
            target
            for target in targets
            if target.name not in unable and self.means.upstreams[target].carries(task.request)
        ]
        wait_s = min(self.fleet.wait_s(target, now_s) for target in able or targets)
        out_of_time = task.watch.deadline_s - now_s < ATTEMPT_MIN_S
        return why_not(task, wait_s, out_of_time=out_of_time, able=bool(able))


class _Walk:
    """One way over targets, for one request. `watch` guards its waits."""

    def __init__(self, runner: Runner, task: Task, watch: Watch, leg: Leg | None = None) -> None:
        self._leg = leg  # None: the request's own
        self._runner = runner
        self._fleet = runner.fleet
        self._task = task
        self._watch = watch
        self._soft: list[Target] = []  # passed over, though better than nobody
        self._trying: Try | None = None

    async def to_the_end(
        self,
        targets: Sequence[Target],
        kind: str = "first",
        soft: Sequence[Target] = (),
        fare: Fare = Fare.FIRST,
    ) -> Found | None:
        """The first answer of all targets, at last of those that were passed over, now or before (`soft`), and are
        better than nobody. `kind` and `fare` are of the first try."""
        self._soft += soft
        found = await self.over(targets, kind, fare)
        if found is None and self._soft:
            soft, self._soft = self._soft, []
            kind = "first" if fare is Fare.FREE else kind  # what was paid for was another one
            found = await self.over(soft, kind, last_resort=True)
        return found

    async def over(
        self,
        targets: Sequence[Target],
        kind: str = "first",
        fare: Fare = Fare.FIRST,
        *,
        last_resort: bool = False,
    ) -> Found | None:
        """The first answer on this way; None: nobody gave one."""
        stored = self._task.request.stored  # asked twice leaves two: nobody is asked beside anybody
        for i, target in enumerate(targets):
            now_s = clock.now()
            if self._task.given_up or self._watch.deadline_s - now_s < ATTEMPT_MIN_S:
                return None
            if stored and not last_resort and self._fleet.probe_due(target, now_s):
                self._soft.append(target)  # it may be dead, and nobody may be asked beside it
                continue
            leave = self._enter(target, now_s, fare, last_resort)
            if leave is None:
                if fare is Fare.FREE:  # who was paid for has no room any more
                    kind, fare = "first", Fare.FIRST
                continue
            rest = targets[i + 1 :]
            if self._is_trial(target, leave, rest, now_s):
                return await self._race(target, leave, rest)
            if delays_s := self._hedge_delays_s(target, rest):
                found, at_the_end = await self._ask_hedged(target, leave, rest, delays_s)
            else:
                found, at_the_end = await self._ask(target, leave, kind, rest), False
            if found is not None or at_the_end:
                return found
            kind, fare = "first", Fare.FIRST
        return None

    def _enter(self, target: Target, now_s: float, fare: Fare, last_resort: bool) -> Pass | None:
        leave = self._fleet.enter(target, now_s, fare, last_resort=last_resort)
        if isinstance(leave, Pass):
            return leave
        at_s = now_s - self._task.started_s
        self._task.trail.append(Attempt(target.name, at_s, at_s, leave.reason, tried=False))
        if leave.soft and not last_resort:
            self._soft.append(target)
        return None

    def _is_trial(self, target: Target, leave: Pass, rest: Sequence[Target], now_s: float) -> bool:
        """Whether this one may be dead or sick, and somebody else can be asked instead."""
        stored = self._task.request.stored
        if leave.probe:
            return self._task.stand_in or not (stored or self._is_last(rest))
        if stored or self._fleet.does_well(target, now_s):
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
                pause = asyncio.sleep(following.wait_s)
                await self._waited(self._watch.guard("backoff", NEVER, pause))
            if self._leg is not None and self._leg.for_nobody and following.fare is Fare.PAID:
                return None
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
        self._trying = attempt = Try(self._runner.means, self._task, target, leave, self._watch, kind)
        try:
            return await self._waited(attempt.open(fresh))
        except BROKEN as error:
            verdict = leave.reconsider(classify(error), clock.now())
            attempt.end(verdict)
            await attempt.close()
            return verdict
        except Interrupted:
            leave.doubt(clock.now())
            attempt.end(OUTRUN)
            await attempt.close()
            raise
        except BaseException:  # cancelled, or a defect of ours: what was taken goes back all the same
            attempt.end(OUTRUN if self.outrun else CANCELLED)
            await attempt.close()
            raise

    def _hedge_delays_s(self, target: Target, rest: Sequence[Target]) -> dict[str, float]:
        """After how long another target is asked beside this one, and why then; nothing: not at all."""
        task, hedges = self._task, self._runner.means.hedges
        request, clocks = task.request, task.clocks
        if self._watch is not task.watch or not rest or request.stored:
            return {}
        delays_s = {}
        if (usual_s := hedges.delay_s(target.name, request.stream, request.size)) is not None:
            delays_s["slow"] = usual_s
        left_s = task.watch.deadline_s - clock.now()
        if left_s <= (clocks.first_token_s if request.stream else clocks.whole_answer_s):
            # Else this one could use up all the time there is. One that often takes longer than half of it is waited for.
            delays_s["late"] = max(left_s / 2, min(usual_s or 0.0, left_s * LATEST))
        return delays_s

    async def _ask_hedged(
        self, target: Target, leave: Pass, rest: Sequence[Target], delays_s: Mapping[str, float]
    ) -> tuple[Found | None, bool]:
        """One target, and after a while another one beside it: the first content wins. Also whether the rest of the
        way was walked."""
        watch, beside, loop = self._watch, Beside(), asyncio.get_running_loop()
        timers = [
            loop.call_later(delay_s, self._hedge, target, rest, beside, why)
            for why, delay_s in delays_s.items()
        ]
        found: Found | None = None
        try:
            try:
                with contextlib.suppress(Interrupted):
                    found = await self._ask(target, leave, "first", rest)
            finally:
                for timer in timers:
                    timer.cancel()
                beside.may_interrupt = False
                watch.calm()
            if found is None and beside.leg is not None and not self._task.given_up:
                with contextlib.suppress(ClockRanOut):  # the deadline: there is nothing to tell but that
                    found = await self._waited(watch.guard("race", NEVER, first(self._task, beside.leg)))
        finally:
            if beside.leg is not None and (found is None or found is not beside.leg.found):
                await self._end_beside(beside.leg, found)
        if isinstance(found, Streaming):
            found.move_to(watch)
        return found, beside.leg is not None

    def _hedge(self, target: Target, rest: Sequence[Target], beside: Beside, why: str) -> None:
        """The time is up: another target is asked. One that is slow must be within the share of hedges, and is paid for;
        one that is late is a failover that gives nobody up: free, if somebody does well, and else paid for."""
        fleet, runner, task, now_s = self._fleet, self._runner, self._task, clock.now()
        hedges, late = runner.means.hedges, why == "late"
        began = self._trying is not None and self._trying.first_token_s is not None
        if beside.leg is not None or not self._has_time(0.0) or (began and not late):
            return  # a stream that is held until it is whole may take long and be as quick as usual
        away = [o for o in rest if o.provider != target.provider and fleet.may_ask(o, now_s)]
        well = [o for o in away if fleet.does_well(o, now_s) and not fleet.on_ramp(o, now_s)]
        if late and not well:  # or nobody would learn that one of them is back
            other = next((o for o in away if not fleet.probe_due(o, now_s)), None)
        else:
            other = well[0] if well else None
        free = late and bool(well)
        if other is None or not (free or ((late or hedges.may_send(now_s)) and fleet.pay(other, now_s))):
            return
        if not late:
            hedges.note_hedge(now_s)
        runner.means.events.emit(Hedged(task.request.id, task.route, target.name, why))
        way = [other, *(o for o in rest if o is not other)]
        fare = Fare.FIRST if free else Fare.FREE
        beside.leg = leg = Leg(
            task,
            self._watch.deadline_s,
            lambda leg, watch: _Walk(runner, task, watch, leg).to_the_end(way, "hedge", fare=fare),
        )

        def done(_: object) -> None:
            if beside.may_interrupt and leg.found is not None:
                self._watch.interrupt()

        leg.task.add_done_callback(done)

    async def _race(self, target: Target, leave: Pass, rest: Sequence[Target]) -> Found | None:
        """A probe or trial, and the rest of the way beside it: the first content wins. A probe that was outrun is
        heard out, and so is a trial, unless that would cost a whole answer and there are proofs enough; others that were
        outrun are ended."""
        runner, task = self._runner, self._task
        kind, why = ("probe", "probe") if leave.probe else ("first", "degraded")
        runner.means.events.emit(Hedged(task.request.id, task.route, target.name, why))
        alone_s = task.clocks.connect_s + task.clocks.first_token_s  # it may have to go on without us
        own_s = max(self._watch.deadline_s, clock.now() + alone_s)
        probe = Leg(
            task, own_s, lambda leg, watch: _Walk(runner, task, watch, leg)._ask(target, leave, kind, rest)
        )
        soft, self._soft = self._soft, []
        now_s = clock.now()
        # Those who do well go first, or each of the others would be raced again, all at one time.
        way = sorted(rest, key=lambda other: not self._fleet.does_well(other, now_s))
        others = Leg(
            task,
            self._watch.deadline_s,
            lambda leg, watch: _Walk(runner, task, watch, leg).to_the_end(way, "hedge", soft),
        )
        unless = others if leave.probe and task.stand_in else None
        sure = None if leave.probe else probe  # a trial may answer what another one refuses
        found: Found | None = None
        try:
            found = await self._waited(
                self._watch.guard("race", NEVER, first(task, probe, others, unless=unless, sure=sure))
            )
        except ClockRanOut:
            pass  # the deadline: there is nothing to tell but that
        except BaseException:
            try:
                await runner.end(probe, others, outrun=self.outrun)
            finally:
                leave.end(CANCELLED, clock.now(), reached=False)  # the probe may not even have begun
            raise
        try:
            if not probe.task.done():
                begins = task.request.stream and not task.whole  # then it is heard until its first content
                if leave.probe or begins or self._lacks_proof(target):
                    runner.hear_out(probe)
                else:
                    await runner.end(probe, outrun=True)
            if found is None or found is probe.found:
                await runner.end(others, outrun=True)
        except BaseException:  # cancelled meanwhile: nobody takes what was found
            await runner.end(probe, others, outrun=self.outrun)
            raise
        if isinstance(found, Streaming):
            found.move_to(self._watch)
        return found

    async def _end_beside(self, leg: Leg, found: Found | None) -> None:
        try:
            await self._runner.end(leg, outrun=found is not None)
        except BaseException:  # cancelled meanwhile: nobody takes what was found
            if isinstance(found, Streaming):
                await found.aclose(OUTRUN if self.outrun else CANCELLED)
            raise

    def _lacks_proof(self, target: Target) -> bool:
        """Whether a whole answer that nobody waits for is worth its price: it may end a suspicion, which costs more."""
        return self._fleet.is_suspect(target) and self._runner.hearing < PROOFS

    def _has_time(self, wait_s: float) -> bool:
        return self._watch.deadline_s - clock.now() >= wait_s + ATTEMPT_MIN_S

    @property
    def outrun(self) -> bool:
        """Whether another way was faster."""
        return self._leg is not None and self._leg.outrun

    async def _waited(self, wait: Awaitable[T]) -> T:
        """Waits, and counts the time as the providers', not ours."""
        task, before_ns = self._task, clock.tick_ns()
        try:
            return await wait
        finally:
            if self._watch is task.watch:
                task.upstream_ns += clock.tick_ns() - before_ns
