"""Failover: one answer from many attempts. The only loop over targets. Call `Failover.run(context, targets)`.

    run             the targets in order, then the last resorts, then the error that says why
    _try_targets    acquire    a permit for the target, or go on to the next one
                    branch     a target that may be down is asked in parallel with the rest of the targets
                    hedge      a target that is slow, or late, gets the rest of the targets in parallel
                    attempt    one attempt; retry here if `decide_retry` says so and the budget covers it

A failure is classified once; the resilience state, the trail and this loop all use that classification.
Before the commit point nothing has been sent to the client and any target may still answer. After it, none
may. race.py owns the branches.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import NamedTuple, TypeVar

from dub5.service import clock
from dub5.service.config.options import RetryOptions
from dub5.service.errors import GatewayError
from dub5.service.events import Hedged
from dub5.service.failover.attempt import (
    ATTEMPT_ERRORS,
    CANCELLED,
    PLAIN,
    SUPERSEDED,
    Attempt,
    ProviderAnswer,
    StreamedAnswer,
)
from dub5.service.failover.context import Dependencies, RequestContext
from dub5.service.failover.final_error import UNSUPPORTED, exhausted_error
from dub5.service.failover.hedging import LATE, SILENT, hedge_delays_s, hedge_target, latency_class
from dub5.service.failover.race import Branch, BranchPool, Purpose, Race
from dub5.service.model import AnyRequest, AttemptRecord, ChatRequest, EmbedRequest, Target
from dub5.service.resilience.circuit_breaker import SUCCESSES_REQUIRED
from dub5.service.resilience.classify import Blame, Classification, Then, classify
from dub5.service.resilience.fleet import Fleet
from dub5.service.resilience.permit import Permit
from dub5.service.resilience.retry import BudgetCharge, RetryDecision, RetryState, decide_retry
from dub5.service.resilience.target import NotPermitted
from dub5.service.timeouts import NEVER, CutShort, TimedOut, Timeouts

T = TypeVar("T")
DEPOSIT = BudgetCharge.DEPOSIT
OURS = "stream_options"  # a field that we add to each stream
ATTEMPT_MIN_S = 0.05  # an attempt with less time left cannot bring an answer
ASK_AGAIN_S = 1.0  # after a silent target could not be hedged


class Failover:
    """Tries targets until one answers."""

    def __init__(self, dependencies: Dependencies, fleet: Fleet, options: RetryOptions, rng: Random) -> None:
        self.dependencies = dependencies
        self.fleet = fleet
        self.options = options
        self.rng = rng
        self.branches = BranchPool()

    async def run(self, context: RequestContext, targets: Sequence[Target]) -> ProviderAnswer:
        """Return the first answer. The trail in `context` lists the attempts. Raises GatewayError."""
        self.dependencies.hedges.note_request(clock.now())
        context.latency_class = latency_class(context.request)
        answer = await _FailoverLoop(self, context, context.timeouts).run(targets)
        if answer is None:
            raise self._exhausted_error(context, targets)
        context.progress.answered = True
        for _, permit in context.progress.refusals:
            permit.contradict(context.request.caller, clock.now())
        return answer

    async def probe(self, context: RequestContext, target: Target) -> None:
        """Ask one target whether it is back. Its circuit breaker and health record the answer."""
        context.latency_class = latency_class(context.request)
        loop = _FailoverLoop(self, context, context.timeouts)
        answer = await loop._try_targets([target], _Start("probe", DEPOSIT))
        if isinstance(answer, StreamedAnswer):
            await answer.aclose(SUPERSEDED)
        for _, permit in context.progress.refusals:
            permit.contradict(None, clock.now())

    def emit_hedged(self, context: RequestContext, target: Target, why: str) -> None:
        """Emit that a second target is asked in parallel with this one."""
        self.dependencies.events.emit(Hedged(context.request.id, context.route, target.name, why))

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
        wait_s = min(self.fleet.wait_s(target, now_s) for target in capable or targets)
        out_of_time = context.timeouts.deadline_s - now_s < ATTEMPT_MIN_S
        return exhausted_error(context, wait_s, out_of_time=out_of_time, feature_available=bool(capable))


class _Start(NamedTuple):
    """How the first attempt of a loop is named in the trail, and charged."""

    kind: str
    charge: BudgetCharge


FIRST = _Start("first", DEPOSIT)


class _FailoverLoop:
    """The loop over targets, for one request or one of its branches. `timeouts` are those of its task."""

    def __init__(
        self, failover: Failover, context: RequestContext, timeouts: Timeouts, branch: Branch | None = None
    ) -> None:
        self._branch = branch  # None: the request's main attempts
        self._failover = failover
        self._fleet = failover.fleet
        self._context = context
        self._timeouts = timeouts
        self._race: Race | None = None
        self._last_resorts: list[Target] = []  # skipped, though better than no target
        self._current: Attempt | None = None
        self._on_silence: Callable[[], None] | None = None  # of the current target
        self._timers: list[asyncio.TimerHandle] = []

    async def run(
        self, targets: Sequence[Target], start: _Start = FIRST, last_resorts: Sequence[Target] = ()
    ) -> ProviderAnswer | None:
        """Return the first answer of the targets, then of the last resorts."""
        self._last_resorts += last_resorts
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
            if self._context.progress.given_up or self._timeouts.deadline_s - now_s < ATTEMPT_MIN_S:
                return None
            if has_side_effects and not last_resort and self._fleet.probe_due(target, now_s):
                self._last_resorts.append(target)
                continue
            rest = targets[i + 1 :]
            if (
                rest
                and not last_resort
                and self._fleet.is_crowded(target)
                and _any_healthy(self._fleet, rest, now_s)
            ):
                self._last_resorts.append(target)
                continue
            permit = self._acquire(target, now_s, start.charge, last_resort)
            if permit is None:
                if start.charge is BudgetCharge.NONE or self._is_hedge:  # its target has no room any more
                    start = FIRST
                continue
            if self._needs_branch(target, permit, rest, now_s):
                self._start_probe(target, permit, rest, now_s)
                return None
            if rest and not has_side_effects:
                self._schedule_hedge(target, rest)
            try:
                answer = await self._attempt_target(target, permit, start.kind, rest)
            finally:
                self._on_silence = None
                while self._timers:
                    self._timers.pop().cancel()
            if answer is not None or self._race is not None:  # a hedge tries the rest of the targets
                return answer
            start = FIRST
        return None

    def _acquire(
        self, target: Target, now_s: float, charge: BudgetCharge, last_resort: bool
    ) -> Permit | None:
        permit = self._fleet.try_acquire(target, now_s, charge, last_resort=last_resort)
        if isinstance(permit, Permit):
            return permit
        at_s = now_s - self._context.started_s
        self._context.progress.trail.append(
            AttemptRecord(target.name, at_s, at_s, permit.reason, tried=False)
        )
        if permit.usable_as_last_resort and not last_resort:
            self._last_resorts.append(target)
        return None

    def _is_last(self, rest: Sequence[Target]) -> bool:
        """Return whether no other target can be asked now."""
        now_s = clock.now()
        return not any(self._fleet.may_ask(other, now_s) for other in (*rest, *self._last_resorts))

    async def _attempt_target(
        self, target: Target, permit: Permit, kind: str, rest: Sequence[Target]
    ) -> ProviderAnswer | None:
        """Attempt one target, and retry there while `decide_retry` says so. `rest`: the targets after it."""
        context, retry_state = self._context, RetryState()
        doubted: tuple[Permit, ...] = ()
        while True:
            outcome = await self._attempt_once(target, permit, kind, fresh=retry_state.fresh)
            if not isinstance(outcome, Classification):
                if doubted or kind == PLAIN:
                    self._believe(target, doubted, kind)
                return outcome
            if self._race is not None and self._race.won_by_branch:
                return None
            context.progress.classifications.append(outcome)
            context.progress.given_up = context.progress.given_up or outcome.then is Then.GIVE_UP
            last = self._is_last(rest)
            if kind != PLAIN and _refuses_ours(context.request, outcome):
                decision: RetryDecision | None = RetryDecision(PLAIN)
            else:
                if outcome.then is Then.ASK_ANOTHER:
                    self._note_refusal(target, permit, outcome, rest)
                decision = _decide_retry(self._failover, context.request, target, outcome, retry_state, last)
            if decision is None or not self._has_time(decision.wait_s):
                return None
            if decision.wait_s and not await self._back_off(decision.wait_s):
                return None
            in_background = self._branch is not None and self._branch.in_background
            if in_background and decision.why != "fresh":
                return None  # nobody waits for it: only a dead connection says nothing about the target
            if permit.doubted_key is not None:
                doubted += (permit,)
            acquired = self._fleet.try_acquire(
                target, clock.now(), decision.charge, last_resort=last, doubted=doubted
            )
            if isinstance(acquired, NotPermitted):
                return None
            permit, kind = acquired, decision.why
            retry_state.note(decision)

    def _believe(self, target: Target, doubted: Sequence[Permit], kind: str) -> None:
        """Believe what this target refused before: another key, or no field of our own, was taken."""
        for permit in doubted:
            permit.believe(clock.now())
        if kind == PLAIN:
            self._failover.dependencies.plain_targets.add(target)

    def _note_refusal(
        self, target: Target, permit: Permit, refusal: Classification, rest: Sequence[Target]
    ) -> None:
        """Remember who refused the request itself. Give up if one more target has refused it, too."""
        progress, request = self._context.progress, self._context.request
        progress.refusals += ((target, permit),)
        if progress.answered:
            permit.contradict(request.caller, clock.now())
        may_have_acted = refusal.maybe_billed and request.has_side_effects
        providers = {target.provider for target, _ in progress.refusals}
        # A second model of the same provider proves less than another provider, if there is one.
        others = any(other.provider not in providers for other in (*rest, *self._last_resorts))
        confirmed = len(progress.refusals) > 1 and (len(providers) > 1 or not others)
        progress.given_up = progress.given_up or may_have_acted or confirmed

    async def _back_off(self, wait_s: float) -> bool:
        """Wait before the target is asked again. Return whether there is time left: the loop may stall."""
        try:
            await self._await_provider(self._timeouts.run("backoff", NEVER, asyncio.sleep(wait_s)))
        except TimedOut:
            return False
        return self._has_time(0.0)

    async def _attempt_once(
        self, target: Target, permit: Permit, kind: str, *, fresh: bool
    ) -> ProviderAnswer | Classification:
        dependencies = self._failover.dependencies
        self._current = attempt = Attempt(dependencies, self._context, target, permit, self._timeouts, kind)
        attempt.on_silence = self._on_silence
        try:
            return await self._await_provider(attempt.open(fresh))
        except ATTEMPT_ERRORS as error:
            classification = classify(error)
            if classification.status == 404 and isinstance(self._context.request, EmbedRequest):
                # A provider may have chats and no embeddings: its chats must not suffer.
                classification = replace(classification, blame=Blame.NOBODY)
            attempt.end(classification)
            await attempt.close()
            return classification
        except CutShort:
            permit.record_inconclusive(clock.now())
            attempt.end(SUPERSEDED)
            await attempt.close()
            raise
        except BaseException:  # cancelled, or a defect of ours: the permit goes back all the same
            attempt.end(SUPERSEDED if self._superseded else CANCELLED)
            await attempt.close()
            raise

    def _schedule_hedge(self, target: Target, rest: Sequence[Target]) -> None:
        """Hedge this attempt when there is a reason. A branch is hedged only where its target is silent."""
        self._on_silence = partial(self._start_hedge, target, rest, SILENT)
        if self._branch is not None:
            return
        context, left_s = self._context, self._timeouts.deadline_s - clock.now()
        hedges, options = self._failover.dependencies.hedges, context.timeout_options
        stream = context.request.stream
        delays_s = hedge_delays_s(hedges, target, context.latency_class, stream, options, left_s)
        for why, delay_s in delays_s.items():
            self._hedge_later(delay_s, target, rest, why)

    def _hedge_later(self, delay_s: float, target: Target, rest: Sequence[Target], why: str) -> None:
        call_later = asyncio.get_running_loop().call_later
        self._timers.append(call_later(delay_s, self._start_hedge, target, rest, why))

    def _start_hedge(self, target: Target, rest: Sequence[Target], why: str) -> None:
        """Start a branch over the rest of the targets, if the attempt at this target still needs one."""
        hedges, now_s, attempt = self._failover.dependencies.hedges, clock.now(), self._current
        began = attempt is not None and attempt.first_token_s is not None
        if self._race is not None or not self._has_time(0.0) or (began and why != LATE):
            return  # a stream that is held until it is whole may take long, and still begin as soon as usual
        other, free = hedge_target(self._fleet, target, rest, why, now_s)
        if why == SILENT:
            free = free and self._is_stalled(target, now_s)
        within_share = free or why == LATE or hedges.may_send(now_s, least=why == SILENT)
        if other is None or not within_share or not (free or self._fleet.withdraw(other, now_s)):
            if why == SILENT:
                self._hedge_later(ASK_AGAIN_S, target, rest, why)
            return
        if why != LATE:
            hedges.note_hedge(now_s)
        self._failover.emit_hedged(self._context, target, why)
        charge = DEPOSIT if free else BudgetCharge.NONE
        # The other models of the same provider may be as slow: they go last.
        others = sorted((o for o in rest if o is not other), key=lambda o: o.provider == target.provider)
        self._branch_off(Purpose.HEDGE, [other, *others], charge)

    def _is_stalled(self, target: Target, now_s: float) -> bool:
        """Return whether a silent target has answered nobody meanwhile, or is not healthy."""
        attempt = self._current
        answers = attempt is not None and self._fleet.answered_since(target, attempt.started_s)
        return not (answers and self._fleet.is_healthy(target, now_s))

    def _needs_branch(self, target: Target, permit: Permit, rest: Sequence[Target], now_s: float) -> bool:
        """Return whether the target may be down or degraded while another one can be asked in parallel."""
        if self._context.request.has_side_effects:
            return False
        if permit.probe:
            return self._context.has_fallback or not self._is_last(rest)
        return not self._fleet.is_healthy(target, now_s) and _any_healthy(self._fleet, rest, now_s)

    def _start_probe(self, target: Target, permit: Permit, rest: Sequence[Target], now_s: float) -> None:
        """Start two branches: a probe or canary request at this target, and the rest of the targets."""
        failover, context, is_probe = self._failover, self._context, permit.probe
        cheap = context.request.stream and not context.deliver_whole  # it ends at its first content
        kind, why = ("probe", "probe") if is_probe else ("first", "degraded")

        def may_finish() -> bool:  # an expensive canary only until enough successes are recorded
            few = failover.branches.in_background < SUCCESSES_REQUIRED
            return is_probe or cheap or (self._fleet.on_probation(target) and few)

        async def work(branch: Branch, timeouts: Timeouts) -> ProviderAnswer | None:
            if not self._has_time(0.0):  # the event loop stood still before the branch began
                return None
            loop = _FailoverLoop(failover, context, timeouts, branch)
            return await loop._attempt_target(target, permit, kind, rest)

        failover.emit_hedged(context, target, why)
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
            loop = _FailoverLoop(self._failover, self._context, timeouts, branch)
            return loop.run(targets, _Start("hedge", charge), last_resorts)

        self._join_race(Branch(self._context, purpose, self._timeouts.deadline_s, work))

    def _join_race(self, branch: Branch) -> None:
        if self._race is None:
            self._race = Race(self._failover.branches, self._context, self._timeouts)
        self._race.add(branch)

    def _has_time(self, wait_s: float) -> bool:
        return self._timeouts.deadline_s - clock.now() >= wait_s + ATTEMPT_MIN_S

    @property
    def _is_hedge(self) -> bool:
        return self._branch is not None and self._branch.purpose is Purpose.HEDGE

    @property
    def _superseded(self) -> bool:
        """Whether this is a branch that was ended because another part of the race was faster."""
        return self._branch is not None and self._branch.superseded

    async def _await_provider(self, awaitable: Awaitable[T]) -> T:
        """Await, and count the time as the providers', not as our overhead."""
        context, before_ns = self._context, clock.tick_ns()
        try:
            return await awaitable
        finally:
            if self._timeouts is context.timeouts:
                context.progress.upstream_ns += clock.tick_ns() - before_ns


def _decide_retry(
    failover: Failover,
    request: AnyRequest,
    target: Target,
    classification: Classification,
    retry_state: RetryState,
    last: bool,
) -> RetryDecision | None:
    fleet, now_s = failover.fleet, clock.now()
    return decide_retry(
        classification,
        retry_state,
        has_side_effects=request.has_side_effects,
        last=last,
        other_key=retry_state.keys < fleet.keys(target) - 1 and fleet.has_free_key(target, now_s),
        healthy=fleet.is_healthy(target, now_s),
        options=failover.options,
        rng=failover.rng,
    )


def _refuses_ours(request: AnyRequest, classification: Classification) -> bool:
    """Return whether a field that we added is refused: the only one that the client may not have sent."""
    return (
        classification.then is Then.ASK_ANOTHER
        and not classification.maybe_billed
        and isinstance(request, ChatRequest)
        and request.stream
        and OURS in classification.message
        and OURS not in request.fields
    )


def _any_healthy(fleet: Fleet, targets: Sequence[Target], now_s: float) -> bool:
    """Return whether a healthy target can be asked."""
    return any(fleet.is_healthy(target, now_s) and fleet.may_ask(target, now_s) for target in targets)
