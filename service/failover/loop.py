"""Failover: one answer from many attempts. The only loop over targets. Call `Failover.run(context, targets)`.

    try_all      try the targets in order, then the last resorts; else `exhausted_error` says why nobody answered
    try_targets  acquire   a permit from the guards, or go on to the next target
                 attempt   one attempt; retry here if `decide_retry` says so and the retry budget covers it
                 hedge     a target that takes longer than usual, or half of the deadline, gets a second one beside it
                 race      a probe or canary in parallel with the other targets: no request waits for a dead one

A failure is classified once; the guards, the trail and this loop all use that classification. Before the commit point
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
from dub5.service.failover.attempt import (
    ATTEMPT_ERRORS,
    CANCELLED,
    SUPERSEDED,
    Attempt,
    ProviderAnswer,
    StreamedAnswer,
)
from dub5.service.failover.context import Dependencies, RequestContext
from dub5.service.failover.final_error import UNSUPPORTED, exhausted_error
from dub5.service.failover.race import Branch, PendingHedge, first_success
from dub5.service.model import AttemptRecord, Target
from dub5.service.resilience.circuit_breaker import SUCCESSES_REQUIRED
from dub5.service.resilience.classify import Classification, Then, classify
from dub5.service.resilience.fleet import Fleet
from dub5.service.resilience.permit import Permit
from dub5.service.resilience.retry import BudgetCharge, RetryDecision, RetryState, decide_retry
from dub5.service.resilience.target import NotPermitted
from dub5.service.timeouts import NEVER, Interrupted, TimedOut, Timeouts

T = TypeVar("T")
LATE_HEDGE_SHARE = 0.75  # of the time left is when another one is asked at last
ATTEMPT_MIN_S = 0.05  # with less time left than this, no try can bring an answer


class Failover:
    """Asks targets until one answers."""

    def __init__(self, dependencies: Dependencies, fleet: Fleet, options: RetryOptions, rng: Random) -> None:
        self.dependencies = dependencies
        self.fleet = fleet
        self.options = options
        self.rng = rng
        self._background: dict[asyncio.Task[None], None] = {}
        self._ending: dict[asyncio.Future[list[None]], None] = {}

    async def run(self, context: RequestContext, targets: Sequence[Target]) -> ProviderAnswer:
        """The first answer to be had. Raises GatewayError; the trail in `context` says what was tried."""
        self.dependencies.hedges.note_request(clock.now())
        answer = await _FailoverLoop(self, context, context.timeouts).try_all(targets)
        if answer is None:
            raise self._exhausted_error(context, targets)
        return answer

    async def probe(self, context: RequestContext, target: Target) -> None:
        """Asks one target whether it is back, for nobody. Its guards hear the answer."""
        answer = await _FailoverLoop(self, context, context.timeouts).try_targets([target], "probe")
        if isinstance(answer, StreamedAnswer):
            await answer.aclose(SUPERSEDED)

    @property
    def in_background(self) -> int:
        """How many are heard out now."""
        return len(self._background)

    def finish_in_background(self, branch: Branch) -> None:
        """A probe that was outrun goes on by itself, until it has told whether its target is back."""
        branch.continue_in_background()
        finishing = asyncio.create_task(branch.close(), name="probe heard out")
        self._background[finishing] = None
        finishing.add_done_callback(self._background.pop)

    async def end(self, *branches: Branch, superseded: bool) -> None:
        """They are not wanted any more. Who is cancelled meanwhile need not wait: they end, and give back what they
        took, all the same."""
        ending = asyncio.gather(*(branch.end(superseded) for branch in branches))
        self._ending[ending] = None
        ending.add_done_callback(self._ending.pop)
        await asyncio.shield(ending)

    async def aclose(self) -> None:
        """Ends the probes that are still out."""
        for finishing in list(self._background):
            finishing.cancel()
            await asyncio.gather(finishing, return_exceptions=True)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _exhausted_error(self, context: RequestContext, targets: Sequence[Target]) -> GatewayError:
        now_s = clock.now()
        incapable = {attempt.target for attempt in context.trail if attempt.reason.startswith(UNSUPPORTED)}
        capable = [
            target
            for target in targets
            if target.name not in incapable and self.dependencies.upstreams[target].supports(context.request)
        ]
        wait_s = min(self.fleet.wait_s(target, now_s) for target in capable or targets)
        out_of_time = context.timeouts.deadline_s - now_s < ATTEMPT_MIN_S
        return exhausted_error(context, wait_s, out_of_time=out_of_time, feature_available=bool(capable))


class _FailoverLoop:
    """One way over targets, for one request. `timeouts` guards its waits."""

    def __init__(
        self, failover: Failover, context: RequestContext, timeouts: Timeouts, branch: Branch | None = None
    ) -> None:
        self._branch = branch  # None: the request's own
        self._failover = failover
        self._fleet = failover.fleet
        self._context = context
        self._timeouts = timeouts
        self._last_resorts: list[Target] = []  # passed over, though better than nobody
        self._current: Attempt | None = None

    async def try_all(
        self,
        targets: Sequence[Target],
        kind: str = "first",
        last_resorts: Sequence[Target] = (),
        charge: BudgetCharge = BudgetCharge.DEPOSIT,
    ) -> ProviderAnswer | None:
        """The first answer of all targets, at last of those that were passed over, now or before (`last_resorts`), and are
        better than nobody. `kind` and `charge` are of the first try."""
        self._last_resorts += last_resorts
        answer = await self.try_targets(targets, kind, charge)
        if answer is None and self._last_resorts:
            last_resorts, self._last_resorts = self._last_resorts, []
            kind = "first" if charge is BudgetCharge.NONE else kind  # what was paid for was another one
            answer = await self.try_targets(last_resorts, kind, last_resort=True)
        return answer

    async def try_targets(
        self,
        targets: Sequence[Target],
        kind: str = "first",
        charge: BudgetCharge = BudgetCharge.DEPOSIT,
        *,
        last_resort: bool = False,
    ) -> ProviderAnswer | None:
        """The first answer on this way; None: nobody gave one."""
        # A request with side effects that is sent twice leaves two: no target is asked beside another one.
        has_side_effects = self._context.request.has_side_effects
        for i, target in enumerate(targets):
            now_s = clock.now()
            if self._context.given_up or self._timeouts.deadline_s - now_s < ATTEMPT_MIN_S:
                return None
            if has_side_effects and not last_resort and self._fleet.probe_due(target, now_s):
                self._last_resorts.append(target)  # it may be dead, and nobody may be asked beside it
                continue
            permit = self._acquire(target, now_s, charge, last_resort)
            if permit is None:
                if charge is BudgetCharge.NONE:  # who was paid for has no room any more
                    kind, charge = "first", BudgetCharge.DEPOSIT
                continue
            rest = targets[i + 1 :]
            if self._should_race(target, permit, rest, now_s):
                return await self._race(target, permit, rest)
            if delays_s := self._hedge_delays_s(target, rest):
                answer, exhausted = await self._attempt_hedged(target, permit, rest, delays_s)
            else:
                answer, exhausted = await self._attempt_target(target, permit, kind, rest), False
            if answer is not None or exhausted:
                return answer
            kind, charge = "first", BudgetCharge.DEPOSIT
        return None

    def _acquire(
        self, target: Target, now_s: float, charge: BudgetCharge, last_resort: bool
    ) -> Permit | None:
        permit = self._fleet.try_acquire(target, now_s, charge, last_resort=last_resort)
        if isinstance(permit, Permit):
            return permit
        at_s = now_s - self._context.started_s
        self._context.trail.append(AttemptRecord(target.name, at_s, at_s, permit.reason, tried=False))
        if permit.usable_as_last_resort and not last_resort:
            self._last_resorts.append(target)
        return None

    def _should_race(self, target: Target, permit: Permit, rest: Sequence[Target], now_s: float) -> bool:
        """Whether this one may be dead or sick, and somebody else can be asked instead."""
        has_side_effects = self._context.request.has_side_effects
        if permit.probe:
            return self._context.has_fallback or not (has_side_effects or self._is_last(rest))
        if has_side_effects or self._fleet.is_healthy(target, now_s):
            return False
        return any(
            self._fleet.is_healthy(other, now_s) and self._fleet.may_ask(other, now_s) for other in rest
        )

    def _is_last(self, rest: Sequence[Target]) -> bool:
        """Whether nobody else can be asked now."""
        now_s = clock.now()
        return not any(self._fleet.may_ask(other, now_s) for other in (*rest, *self._last_resorts))

    async def _attempt_target(
        self, target: Target, permit: Permit, kind: str, rest: Sequence[Target]
    ) -> ProviderAnswer | None:
        """One target, and the same again while that is sensible; `rest` is who comes after it."""
        context, retry_state = self._context, RetryState()
        while True:
            outcome = await self._attempt_once(target, permit, kind, fresh=retry_state.fresh)
            if not isinstance(outcome, Classification):
                return outcome
            context.classifications.append(outcome)
            context.given_up = context.given_up or outcome.then is Then.GIVE_UP
            last = self._is_last(rest)
            decision = self._decide_retry(target, outcome, retry_state, last)
            if decision is None or not self._has_time(decision.wait_s):
                return None
            if decision.wait_s:
                pause = asyncio.sleep(decision.wait_s)
                await self._await_provider(self._timeouts.run("backoff", NEVER, pause))
            if (
                self._branch is not None
                and self._branch.in_background
                and decision.charge is BudgetCharge.WITHDRAW
            ):
                return None
            acquired = self._fleet.try_acquire(target, clock.now(), decision.charge, last_resort=last)
            if isinstance(acquired, NotPermitted):
                return None
            permit, kind = acquired, decision.why
            retry_state.note(decision)

    def _decide_retry(
        self, target: Target, classification: Classification, retry_state: RetryState, last: bool
    ) -> RetryDecision | None:
        failover, fleet, now_s = self._failover, self._fleet, clock.now()
        return decide_retry(
            classification,
            retry_state,
            has_side_effects=self._context.request.has_side_effects,
            last=last,
            other_key=retry_state.keys < fleet.keys(target) - 1 and fleet.has_free_key(target, now_s),
            healthy=fleet.is_healthy(target, now_s),
            options=failover.options,
            rng=failover.rng,
        )

    async def _attempt_once(
        self, target: Target, permit: Permit, kind: str, *, fresh: bool
    ) -> ProviderAnswer | Classification:
        self._current = attempt = Attempt(
            self._failover.dependencies, self._context, target, permit, self._timeouts, kind
        )
        try:
            return await self._await_provider(attempt.open(fresh))
        except ATTEMPT_ERRORS as error:
            classification = permit.reconsider(classify(error), clock.now())
            attempt.end(classification)
            await attempt.close()
            return classification
        except Interrupted:
            permit.record_inconclusive(clock.now())
            attempt.end(SUPERSEDED)
            await attempt.close()
            raise
        except BaseException:  # cancelled, or a defect of ours: what was taken goes back all the same
            attempt.end(SUPERSEDED if self.superseded else CANCELLED)
            await attempt.close()
            raise

    def _hedge_delays_s(self, target: Target, rest: Sequence[Target]) -> dict[str, float]:
        """After how long another target is asked beside this one, and why then; nothing: not at all."""
        context, hedges = self._context, self._failover.dependencies.hedges
        request, timeout_options = context.request, context.timeout_options
        if self._timeouts is not context.timeouts or not rest or request.has_side_effects:
            return {}
        delays_s = {}
        if (usual_s := hedges.delay_s(target.name, request.stream, request.size)) is not None:
            delays_s["slow"] = usual_s
        left_s = context.timeouts.deadline_s - clock.now()
        if left_s <= (timeout_options.first_token_s if request.stream else timeout_options.whole_answer_s):
            # Else this one could use up all the time there is. One that often takes longer than half of it is waited for.
            delays_s["late"] = max(left_s / 2, min(usual_s or 0.0, left_s * LATE_HEDGE_SHARE))
        return delays_s

    async def _attempt_hedged(
        self, target: Target, permit: Permit, rest: Sequence[Target], delays_s: Mapping[str, float]
    ) -> tuple[ProviderAnswer | None, bool]:
        """One target, and after a while another one beside it: the first content wins. Also whether the rest of the
        way was walked."""
        timeouts, hedge, loop = self._timeouts, PendingHedge(), asyncio.get_running_loop()
        timers = [
            loop.call_later(delay_s, self._start_hedge, target, rest, hedge, why)
            for why, delay_s in delays_s.items()
        ]
        answer: ProviderAnswer | None = None
        try:
            try:
                with contextlib.suppress(Interrupted):
                    answer = await self._attempt_target(target, permit, "first", rest)
            finally:
                for timer in timers:
                    timer.cancel()
                hedge.may_interrupt = False
                timeouts.resume()
            if answer is None and hedge.branch is not None and not self._context.given_up:
                with contextlib.suppress(TimedOut):  # the deadline: there is nothing to tell but that
                    answer = await self._await_provider(
                        timeouts.run("race", NEVER, first_success(self._context, hedge.branch))
                    )
        finally:
            if hedge.branch is not None and (answer is None or answer is not hedge.branch.answer):
                await self._end_hedge(hedge.branch, answer)
        if isinstance(answer, StreamedAnswer):
            answer.move_to(timeouts)
        return answer, hedge.branch is not None

    def _start_hedge(self, target: Target, rest: Sequence[Target], hedge: PendingHedge, why: str) -> None:
        """The time is up: another target is asked. One that is slow must be within the share of hedges, and is paid for;
        one that is late is a failover that gives nobody up: free, if somebody does well, and else paid for."""
        fleet, failover, context, now_s = self._fleet, self._failover, self._context, clock.now()
        hedges, late = failover.dependencies.hedges, why == "late"
        began = self._current is not None and self._current.first_token_s is not None
        if hedge.branch is not None or not self._has_time(0.0) or (began and not late):
            return  # a stream that is held until it is whole may take long and be as quick as usual
        elsewhere = [o for o in rest if o.provider != target.provider and fleet.may_ask(o, now_s)]
        healthy = [o for o in elsewhere if fleet.is_healthy(o, now_s) and not fleet.in_slow_start(o, now_s)]
        if late and not healthy:  # or nobody would learn that one of them is back
            other = next((o for o in elsewhere if not fleet.probe_due(o, now_s)), None)
        else:
            other = healthy[0] if healthy else None
        free = late and bool(healthy)
        if other is None or not (free or ((late or hedges.may_send(now_s)) and fleet.withdraw(other, now_s))):
            return
        if not late:
            hedges.note_hedge(now_s)
        failover.dependencies.events.emit(Hedged(context.request.id, context.route, target.name, why))
        targets = [other, *(o for o in rest if o is not other)]
        charge = BudgetCharge.DEPOSIT if free else BudgetCharge.NONE
        hedge.branch = branch = Branch(
            context,
            self._timeouts.deadline_s,
            lambda branch, timeouts: _FailoverLoop(failover, context, timeouts, branch).try_all(
                targets, "hedge", charge=charge
            ),
        )

        def done(_: object) -> None:
            if hedge.may_interrupt and branch.answer is not None:
                self._timeouts.interrupt()

        branch.task.add_done_callback(done)

    async def _race(self, target: Target, permit: Permit, rest: Sequence[Target]) -> ProviderAnswer | None:
        """A probe or trial, and the rest of the way beside it: the first content wins. A probe that was outrun is
        heard out, and so is a trial, unless that would cost a whole answer and there are proofs enough; others that were
        outrun are ended."""
        failover, context = self._failover, self._context
        kind, why = ("probe", "probe") if permit.probe else ("first", "degraded")
        failover.dependencies.events.emit(Hedged(context.request.id, context.route, target.name, why))
        # The probe may have to go on without the request.
        alone_s = context.timeout_options.connect_s + context.timeout_options.first_token_s
        own_s = max(self._timeouts.deadline_s, clock.now() + alone_s)
        probe = Branch(
            context,
            own_s,
            lambda branch, timeouts: _FailoverLoop(failover, context, timeouts, branch)._attempt_target(
                target, permit, kind, rest
            ),
        )
        last_resorts, self._last_resorts = self._last_resorts, []
        now_s = clock.now()
        # Those who do well go first, or each of the others would be raced again, all at one time.
        targets = sorted(rest, key=lambda other: not self._fleet.is_healthy(other, now_s))
        others = Branch(
            context,
            self._timeouts.deadline_s,
            lambda branch, timeouts: _FailoverLoop(failover, context, timeouts, branch).try_all(
                targets, "hedge", last_resorts
            ),
        )
        unless = others if permit.probe and context.has_fallback else None
        sure = None if permit.probe else probe  # a trial may answer what another one refuses
        answer: ProviderAnswer | None = None
        try:
            answer = await self._await_provider(
                self._timeouts.run(
                    "race", NEVER, first_success(context, probe, others, unless=unless, sure=sure)
                )
            )
        except TimedOut:
            pass  # the deadline: there is nothing to tell but that
        except BaseException:
            try:
                await failover.end(probe, others, superseded=self.superseded)
            finally:
                permit.end(CANCELLED, clock.now(), reached=False)  # the probe may not even have begun
            raise
        try:
            if not probe.task.done():
                # A stream is read until its first content.
                begins = context.request.stream and not context.deliver_whole
                if permit.probe or begins or self._needs_success(target):
                    failover.finish_in_background(probe)
                else:
                    await failover.end(probe, superseded=True)
            if answer is None or answer is probe.answer:
                await failover.end(others, superseded=True)
        except BaseException:  # cancelled meanwhile: nobody takes what was found
            await failover.end(probe, others, superseded=self.superseded)
            raise
        if isinstance(answer, StreamedAnswer):
            answer.move_to(self._timeouts)
        return answer

    async def _end_hedge(self, branch: Branch, answer: ProviderAnswer | None) -> None:
        try:
            await self._failover.end(branch, superseded=answer is not None)
        except BaseException:  # cancelled meanwhile: nobody takes what was found
            if isinstance(answer, StreamedAnswer):
                await answer.aclose(SUPERSEDED if self.superseded else CANCELLED)
            raise

    def _needs_success(self, target: Target) -> bool:
        """Whether a whole answer that nobody waits for is worth its price: it may end a suspicion, which costs more."""
        return self._fleet.on_probation(target) and self._failover.in_background < SUCCESSES_REQUIRED

    def _has_time(self, wait_s: float) -> bool:
        return self._timeouts.deadline_s - clock.now() >= wait_s + ATTEMPT_MIN_S

    @property
    def superseded(self) -> bool:
        """Whether another way was faster."""
        return self._branch is not None and self._branch.superseded

    async def _await_provider(self, awaitable: Awaitable[T]) -> T:
        """Waits, and counts the time as the providers', not ours."""
        context, before_ns = self._context, clock.tick_ns()
        try:
            return await awaitable
        finally:
            if self._timeouts is context.timeouts:
                context.upstream_ns += clock.tick_ns() - before_ns
