"""Failover: one answer from many attempts. The only loop over targets. Call `Failover.run(context, targets)`.

    run             the targets in order, then the last resorts, then the error that says why
    _try_targets    acquire    a permit for the target, or go on to the next one
                    branch     a target that may be down is asked in parallel with the rest of the targets
                    hedge      a target that is slow, or late, gets the rest of the targets in parallel
                    attempts   at one target, with its retries: target_attempts.py

A failure is classified once; the resilience state, the trail and this loop all use that classification.
Before the commit point nothing has been sent to the client and any target may still answer. After it, none
may. race.py owns the branches, hedge_timer.py starts the hedges.
"""

from collections.abc import Awaitable, Sequence
from functools import partial
from typing import NamedTuple

from msgspec import Struct

from dub5.service import clock
from dub5.service.errors import GatewayError
from dub5.service.failover.attempt import (
    SUPERSEDED,
    ProviderAnswer,
    StreamedAnswer,
    has_time,
)
from dub5.service.failover.context import Dependencies, RequestContext
from dub5.service.failover.final_error import UNSUPPORTED, exhausted_error
from dub5.service.failover.hedge_timer import HedgeTimer, emit_hedged
from dub5.service.failover.hedging import latency_class
from dub5.service.failover.race import Branch, BranchPool, Purpose, Race
from dub5.service.failover.target_attempts import TargetAttempts
from dub5.service.model import AttemptRecord, Target
from dub5.service.resilience.circuit_breaker import SUCCESSES_REQUIRED
from dub5.service.resilience.fleet import Fleet
from dub5.service.resilience.permit import Permit
from dub5.service.resilience.retry import BudgetCharge
from dub5.service.timeouts import CutShort, Timeouts

DEPOSIT = BudgetCharge.DEPOSIT


class Failover:
    """Tries targets until one answers."""

    def __init__(self, dependencies: Dependencies) -> None:
        self.dependencies = dependencies
        self.fleet: Fleet = dependencies.fleet
        self.branches = BranchPool()

    async def run(self, context: RequestContext, targets: Sequence[Target], now_s: float) -> ProviderAnswer:
        """Return the first answer. The trail in `context` lists the attempts. Raises GatewayError."""
        self.dependencies.hedges.note_request(now_s)
        context.targets, context.latency_class = targets, latency_class(context.request)
        answer = await _FailoverLoop(self, self.fleet, context, context.timeouts).run(targets)
        if answer is None:
            raise self._exhausted_error(context, targets)
        context.progress.answered = True
        for _, permit in context.progress.refusals:
            permit.contradict(context.request.caller, clock.now())
        return answer

    async def probe(self, context: RequestContext, target: Target) -> None:
        """Ask one target whether it is back. Its circuit breaker and health record the answer."""
        context.latency_class = latency_class(context.request)
        loop = _FailoverLoop(self, self.fleet, context, context.timeouts)
        answer = await loop._try_targets([target], _Start("probe", DEPOSIT))
        if isinstance(answer, StreamedAnswer):
            await answer.aclose(SUPERSEDED)
        for _, permit in context.progress.refusals:
            permit.contradict(None, clock.now())

    async def aclose(self) -> None:
        """End the attempts that are still out."""
        await self.branches.aclose()

    def _exhausted_error(self, context: RequestContext, targets: Sequence[Target]) -> GatewayError:
        now_s = clock.now()
        incapable = {
            attempt.target for attempt in context.progress.trail if attempt.reason.startswith(UNSUPPORTED)
        }
        capable = [
            target
            for target in targets
            if target.name not in incapable and self.dependencies.upstreams[target].supports(context.request)
        ]
        caller = context.request.caller
        wait_s = min(self.fleet.wait_s(target, now_s, caller) for target in capable or targets)
        out_of_time = not has_time(context.timeouts, now_s)
        return exhausted_error(context, wait_s, out_of_time=out_of_time, feature_available=bool(capable))


class _Start(NamedTuple):
    """How the first attempt of a loop is named in the trail, and charged."""

    kind: str
    charge: BudgetCharge


FIRST = _Start("first", DEPOSIT)


class _FailoverLoop(Struct, eq=False):
    """The loop over targets, for one request or one of its branches. `timeouts` are those of its task."""

    _failover: Failover
    _fleet: Fleet
    _context: RequestContext
    _timeouts: Timeouts
    _branch: Branch | None = None  # None: the request's main attempts
    _race: Race | None = None
    _last_resorts: list[Target] = []  # skipped, though better than no target

    async def run(
        self, targets: Sequence[Target], start: _Start = FIRST, last_resorts: Sequence[Target] = ()
    ) -> ProviderAnswer | None:
        """Return the first answer of the targets, then of the last resorts."""
        self._last_resorts = list(last_resorts)
        try:
            answer = await self._try_targets(targets, start)
            if answer is None and self._last_resorts:
                last_resorts, self._last_resorts = self._last_resorts, []
                if start.charge is BudgetCharge.NONE:  # the budget was charged for another target
                    start = FIRST
                answer = await self._try_targets(last_resorts, start, last_resort=True)
        except CutShort:  # a branch has the answer
            answer = None
        except BaseException:
            if self._race is not None:
                await self._race.abandon(superseded=self._superseded)
            raise
        return answer if self._race is None else await self._race.finish(answer)

    async def _try_targets(
        self, targets: Sequence[Target], start: _Start, *, last_resort: bool = False
    ) -> ProviderAnswer | None:
        """Return the first answer of the targets in this order; None: none so far, branches may be out."""
        # A request with side effects that is sent twice has them twice: it is never raced.
        has_side_effects = self._context.request.has_side_effects
        for i, target in enumerate(targets):
            now_s = clock.now()
            if self._context.progress.given_up or not has_time(self._timeouts, now_s):
                return None
            if has_side_effects and not last_resort and self._fleet.probe_due(target, now_s):
                self._last_resorts.append(target)
                continue
            rest = targets[i + 1 :]
            if rest and not last_resort and self._fleet.is_crowded(target) and self._any_healthy(rest, now_s):
                self._last_resorts.append(target)
                continue
            permit = self._acquire(target, now_s, start.charge, last_resort)
            if permit is None:
                if start.charge is BudgetCharge.NONE or self._is_hedge:  # its target has no room any more
                    start = FIRST
                continue
            # A single target is not looked at: there is nothing to ask in its place.
            if (rest or permit.probe) and self._needs_branch(target, permit, rest, now_s):
                self._start_probe(target, permit, rest, now_s)
                return None
            attempts = self._attempts(target, rest, last_resort=last_resort)
            if rest and not has_side_effects:
                self._schedule_hedge(attempts, rest, now_s)
            try:
                answer = await attempts.run(permit, start.kind)
            finally:
                if attempts.timer is not None:
                    attempts.timer.close()
            if answer is not None or self._race is not None:  # a hedge tries the rest of the targets
                return answer
            start = FIRST
            if not last_resort and self._fleet.has_key_in_reserve(target, clock.now()):
                self._last_resorts.append(target)
        return None

    def _acquire(
        self, target: Target, now_s: float, charge: BudgetCharge, last_resort: bool
    ) -> Permit | None:
        caller = self._context.request.caller
        permit = self._fleet.try_acquire(target, now_s, charge, last_resort=last_resort, caller=caller)
        if isinstance(permit, Permit):
            return permit
        at_s = now_s - self._context.started_s
        self._context.progress.trail.append(
            AttemptRecord(target.name, at_s, at_s, permit.reason, tried=False)
        )
        if permit.usable_as_last_resort and not last_resort:
            self._last_resorts.append(target)
        return None

    def _attempts(
        self, target: Target, rest: Sequence[Target], *, last_resort: bool = False
    ) -> TargetAttempts:
        dependencies, context, timeouts = self._failover.dependencies, self._context, self._timeouts
        return TargetAttempts(
            dependencies, context, timeouts, target, rest, self._others, self._branch, last_resort
        )

    def _others(self, rest: Sequence[Target]) -> Sequence[Target] | None:
        if self._race is not None and self._race.won_by_branch:
            return None
        return *rest, *self._last_resorts

    def _schedule_hedge(self, attempts: TargetAttempts, rest: Sequence[Target], now_s: float) -> None:
        failover, context, timeouts = self._failover, self._context, self._timeouts
        start, target = partial(self._branch_off, Purpose.HEDGE), attempts.target
        timer = HedgeTimer(failover.dependencies, context, timeouts, target, rest, start)
        attempts.timer = timer
        if self._branch is None:  # a branch is hedged only where its target is silent
            timer.schedule(now_s)

    def _needs_branch(self, target: Target, permit: Permit, rest: Sequence[Target], now_s: float) -> bool:
        """Return whether the target may be down or degraded while another one can be asked in parallel."""
        if self._context.request.has_side_effects:
            return False
        if permit.probe:
            others, caller = (*rest, *self._last_resorts), self._context.request.caller
            return self._has_fallback() or self._fleet.may_ask_any(others, now_s, caller)
        return not self._fleet.is_healthy(target, now_s) and self._any_healthy(rest, now_s)

    def _has_fallback(self) -> bool:
        """Return whether an answer can be given at once: a fallback, or that a target lacks a feature."""
        context, upstreams = self._context, self._failover.dependencies.upstreams
        if context.has_fallback is None:
            context.has_fallback = not all(upstreams[t].supports(context.request) for t in context.targets)
        return context.has_fallback

    def _start_probe(self, target: Target, permit: Permit, rest: Sequence[Target], now_s: float) -> None:
        """Start two branches: a probe or canary request at this target, and the rest of the targets."""
        failover, context, is_probe = self._failover, self._context, permit.probe
        cheap = context.request.stream and not context.deliver_whole  # it ends at its first content
        kind, why = ("probe", "probe") if is_probe else ("first", "degraded")

        def may_finish() -> bool:  # an expensive canary only until enough successes are recorded
            few = failover.branches.in_background < SUCCESSES_REQUIRED
            return is_probe or cheap or (self._fleet.on_probation(target) and few)

        async def work(branch: Branch, timeouts: Timeouts) -> ProviderAnswer | None:
            if not has_time(
                self._timeouts, clock.now()
            ):  # the event loop stood still before the branch began
                return None
            loop = _FailoverLoop(failover, failover.fleet, context, timeouts, branch)
            return await loop._attempts(target, rest).run(permit, kind)

        emit_hedged(failover.dependencies.events, context, target, why)
        purpose = Purpose.PROBE if is_probe else Purpose.CANARY
        alone_s = context.timeout_options.connect_s + context.timeout_options.first_token_s
        deadline_s = max(self._timeouts.deadline_s, now_s + alone_s)  # it may outlive the request
        self._join_race(Branch(context, purpose, deadline_s, work, may_finish, permit))
        # Healthy targets go first: each of the others would need a branch of its own.
        targets = sorted(rest, key=lambda other: not self._fleet.is_healthy(other, now_s))
        self._branch_off(Purpose.REST, targets, DEPOSIT)

    def _branch_off(self, purpose: Purpose, targets: Sequence[Target], charge: BudgetCharge) -> None:
        """Try the rest of the targets, then the last resorts, in a branch."""
        last_resorts, self._last_resorts = self._last_resorts, []

        def work(branch: Branch, timeouts: Timeouts) -> Awaitable[ProviderAnswer | None]:
            loop = _FailoverLoop(self._failover, self._fleet, self._context, timeouts, branch)
            return loop.run(targets, _Start("hedge", charge), last_resorts)

        self._join_race(Branch(self._context, purpose, self._timeouts.deadline_s, work))

    def _join_race(self, branch: Branch) -> None:
        if self._race is None:
            self._race = Race(self._failover.branches, self._context, self._timeouts, self._branch)
        self._race.add(branch)

    def _any_healthy(self, targets: Sequence[Target], now_s: float) -> bool:
        """Return whether a healthy target can be asked."""
        fleet, caller = self._fleet, self._context.request.caller
        return any(fleet.is_healthy(t, now_s) and fleet.may_ask(t, now_s, caller) for t in targets)

    @property
    def _is_hedge(self) -> bool:
        return self._branch is not None and self._branch.purpose is Purpose.HEDGE

    @property
    def _superseded(self) -> bool:
        """Whether this is a branch that was ended because another part of the race was faster."""
        return self._branch is not None and self._branch.superseded
