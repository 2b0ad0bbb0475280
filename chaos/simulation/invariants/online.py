"""The safety invariants that are checked while a world runs: at each attempt and at each event.

    service --attempt sent-----> OnlineInvariants.sent      (through observed_wire.py)
            --reply head-------> OnlineInvariants.answered
            --connection closed> OnlineInvariants.closed
            --event------------> OnlineInvariants.on_event

    rule                          says
    only_permitted_attempts       no attempt after the deadline, after the end, or after the client has left
    permits_accounted_for         no provider has more attempts in flight than its concurrency limit
    retry_after_respected         no key and target is called before the end of its Retry-After
    final_refusal_respected       a request is not sent again to a target that refused it for good
    reloaded_keys_used            requests after a reload use the new keys
    retry_budget_respected        one request has at most one attempt in flight at one target
    cancelled_when_client_leaves  an attempt ends within 100 ms of the last client that waits for it
    queue_fair_and_timely         a request that the queue dropped is not sent
    one_agreed_end                each request ends once; nothing in the service crashes
    attempts_counted_once         each attempt is reported once, and none that was not sent

The invariants keep their own record; of the service's state they read only the concurrency limit of a
provider.
"""

import asyncio
import math
from collections.abc import Callable

import msgspec

from dub5.chaos.simulation.invariants.audience import LEAVE_S
from dub5.chaos.simulation.invariants.breakers import ObservedBreakers
from dub5.chaos.simulation.invariants.cache_and_sharing import CacheAndSharing
from dub5.chaos.simulation.invariants.people_linger import check_linger, is_whole
from dub5.chaos.simulation.invariants.record import (
    CURRENT_REQUEST,
    FINISHES_IN_BACKGROUND,
    ObservedAttempt,
    ObservedHedge,
    QueueWait,
    RequestRecord,
    RunRecord,
    provider_of,
)
from dub5.chaos.simulation.invariants.trail_headers import (
    answered_elsewhere,
    background_until_s,
    parse_retry_after,
    repeated_in_background,
)
from dub5.chaos.simulation.world.build import keys
from dub5.chaos.simulation.world.model import Reload, World
from dub5.service.events import (
    AttemptEnded,
    BreakerChanged,
    BudgetSpent,
    CacheLooked,
    Crashed,
    Event,
    HealthChanged,
    Hedged,
    LimitLowered,
    QueueLeft,
    RateLimitHit,
    RequestEnded,
    SettingsReloaded,
    Shared,
)
from dub5.service.failover.final_error import UNSUPPORTED
from dub5.service.model import AttemptRecord
from dub5.service.resilience.classify import WAIT_MAX_S
from dub5.service.wire.base import WireRequest, WireResponse

EPSILON_S = 1e-6
FINAL_STATUSES = frozenset({400, 404, 405, 413, 422})  # repeating the request at that target cannot help
KEY_REFUSED = frozenset({401, 402, 403})
MAY_SAY_RETRY_AFTER = frozenset({429, 498, 500, 502, 503, 504, 529})


class _Model(msgspec.Struct):
    model: str


_MODEL = msgspec.json.Decoder(_Model)


class OnlineInvariants:
    """Observes wire and events. `limit` returns the concurrency limit of a provider."""

    def __init__(
        self, world: World, record: RunRecord, now: Callable[[], float], limit: Callable[[str], int]
    ) -> None:
        self._world = world
        self._record = record
        self._now = now
        self._limit = limit
        self._open: dict[tuple[object, str], ObservedAttempt] = {}
        self.in_flight = dict.fromkeys((p.name for p in world.providers), 0)
        self.breakers = ObservedBreakers(world, record)
        self.cool_until_s: dict[tuple[str, str], float] = {}  # by key and target
        self._cool_since_s: dict[tuple[str, str], float] = {}  # when the service learned of it
        self._waiting: set[tuple[str, str]] = set()  # those whose Retry-After came with no rate limit
        self._lowered_s: dict[str, float] = {}
        self._recovered: set[str] = set()  # targets whose breaker has closed, and that work since then
        self._sharing = CacheAndSharing(world, record, now)

    # on the wire

    def sent(self, request: WireRequest) -> ObservedAttempt:
        """Record an attempt that is being sent, and check that it is permitted."""
        now_s, origin = self._now(), request.origin
        provider = origin.removeprefix("http://").partition(".")[0]
        target = f"{provider}/{_MODEL.decode(request.body).model}"
        key = request.headers.get("authorization") or request.headers.get("x-api-key", "")
        attempt = ObservedAttempt(CURRENT_REQUEST.get(), target, key, now_s)
        self._record.log(f"#{attempt.number} -> {target}")
        if attempt.number is None:
            self._record.probes.append(attempt)
        else:
            self._check_request(attempt, self._record.requests[attempt.number], now_s)
        self.breakers.check_attempt(attempt, origin, now_s)
        self._check_concurrency_limit(attempt, now_s)
        until_s = self.cool_until_s.get((key, target), 0.0)
        # A permit that was given earlier within this instant is used.
        just_learned = self._record.ran_s(self._cool_since_s.get((key, target), -1.0), now_s) <= 0.0
        if now_s < until_s - EPSILON_S and not just_learned:
            self._record.violated(
                "retry_after_respected",
                f"#{attempt.number} calls {target} {until_s - now_s:.3f} s before the end of its Retry-After",
            )
        if self._world.reload is not None:
            self._check_reloaded_keys(attempt, self._world.reload, now_s)
        owner = self._owner(attempt.number)
        if (owner, target) in self._open:
            self._record.violated(
                "retry_budget_respected", f"#{attempt.number} has two attempts in flight at {target}"
            )
        self._open[owner, target] = attempt
        return attempt

    def _check_reloaded_keys(self, attempt: ObservedAttempt, reload: Reload, now_s: float) -> None:
        """`reloaded_keys_used`: check that a request that began after a reload uses a new key."""
        since_s = now_s if attempt.number is None else self._record.requests[attempt.number].began_s
        if attempt.provider not in reload.rotated or since_s <= reload.at_s:
            return
        self._record.sometimes["attempt with a reloaded key"] += 1
        if attempt.key.removeprefix("Bearer ") not in keys(
            self._world.provider(attempt.provider), rotated=True
        ):
            self._record.violated(
                "reloaded_keys_used",
                f"#{attempt.number} calls {attempt.target} with a key that the reload removed",
            )

    def answered(self, attempt: ObservedAttempt, response: WireResponse) -> None:
        """Record status and headers of a reply."""
        attempt.head_s, attempt.status = self._now(), response.status
        if response.status in MAY_SAY_RETRY_AFTER:
            attempt.retry_after_s = parse_retry_after(response.headers)

    def closed(self, attempt: ObservedAttempt) -> None:
        """Record that an attempt's connection is free or closed, and check `cancelled_when_client_leaves`."""
        if attempt.closed_s is not None:
            return
        attempt.closed_s = now_s = self._now()
        self._record.log(f"#{attempt.number} -| {attempt.target}")
        if attempt.number is None:
            return
        request = self._record.requests[attempt.number]
        timeouts = self._world.tunings[request.generation].timeouts
        all_left_s = request.all_left_s()
        if request.hedged.get(attempt.target) in FINISHES_IN_BACKGROUND and answered_elsewhere(
            request, attempt
        ):
            until_s = max(request.until_s(timeouts.total_s), background_until_s(attempt, timeouts))
            if self._record.ran_s(until_s, now_s) > LEAVE_S:
                self._record.violated(
                    "cancelled_when_client_leaves",
                    f"#{attempt.number}: {attempt.target} ran in the background for too long",
                )
        elif (
            all_left_s is not None
            and self._record.ran_s(all_left_s, now_s) > LEAVE_S
            and not (request.audience is not None and is_whole(attempt))  # the end is being written
        ):
            self._record.violated(
                "cancelled_when_client_leaves",
                f"#{attempt.number}: {attempt.target} ran {now_s - all_left_s:.3f} s after the client left",
            )

    def _check_request(self, attempt: ObservedAttempt, request: RequestRecord, now_s: float) -> None:
        self._sharing.on_attempt_sent(request, now_s)
        request.attempts.append(attempt)
        self._note_branch(request, attempt.target)
        timeouts = self._world.tunings[request.generation].timeouts
        until_s, repeated = request.until_s(timeouts.total_s), repeated_in_background(request, attempt)
        if repeated is not None and request.has_ended():
            until_s = max(until_s, background_until_s(repeated, timeouts))
        if now_s > until_s - EPSILON_S:
            self._record.violated(
                "only_permitted_attempts",
                f"#{attempt.number} calls {attempt.target} at or after its deadline",
            )
        all_left_s = request.all_left_s()
        if request.has_ended() and repeated is None:
            self._record.violated(
                "only_permitted_attempts", f"#{attempt.number} calls {attempt.target} after it has ended"
            )
        elif (
            not request.has_ended()
            and all_left_s is not None
            and self._record.ran_s(all_left_s, now_s) > LEAVE_S
        ):
            self._record.violated(
                "only_permitted_attempts",
                f"#{attempt.number} calls {attempt.target} after its client has left",
            )
        if request.waits and request.waits[-1].how not in ("served", "left"):
            self._record.violated(
                "queue_fair_and_timely",
                f"#{attempt.number} calls {attempt.target}, but was {request.waits[-1].how} in the queue",
            )
        if {(attempt.target, ""), (attempt.target, attempt.key)} & request.refused_by:
            self._record.violated(
                "final_refusal_respected",
                f"#{attempt.number} calls {attempt.target} again, which refused it for good",
            )

    def _check_concurrency_limit(self, attempt: ObservedAttempt, now_s: float) -> None:
        name = attempt.provider
        self.in_flight[name] += 1
        limit = self._limit(name)
        just_lowered = self._record.ran_s(self._lowered_s.get(name, -1.0), now_s) <= 0.0
        if self.in_flight[name] > limit and not just_lowered:
            self._record.violated(
                "permits_accounted_for",
                f"{self.in_flight[name]} attempts are in flight at {name}, whose limit is {limit}",
            )

    # events

    def on_event(self, event: Event) -> None:
        """Record one event of the service."""
        match event:
            case AttemptEnded():
                self._on_attempt_ended(event)
            case RequestEnded():
                self._on_request_ended(event)
            case CacheLooked(result=result):
                self._sharing.on_cache_looked(self._request_record(CURRENT_REQUEST.get()), result)
            case Shared(what=what):
                self._sharing.shared(self._request_record(CURRENT_REQUEST.get()), what)
            case QueueLeft():
                self._on_queue_left(event)
            case RateLimitHit(by=by, blocked=blocked):
                self._record.log(f"#{CURRENT_REQUEST.get()} over the limit of its {by}, blocked: {blocked}")
                self._record.happened["rate_limited"] += 1
            case SettingsReloaded():
                self._record.log("other settings")
                for scope in self._waiting:  # a reload forgets what is no limit's
                    self.cool_until_s.pop(scope, None)
                self._record.sometimes["settings reloaded"] += 1
            case BreakerChanged():
                self._record.log(f"breaker {event.scope}: {event.before} -> {event.after} ({event.why})")
                self.breakers.on_breaker_changed(event, self._now())
                if event.before == "half_open" and event.after == "closed":
                    self._recovered.add(event.scope)
            case LimitLowered(provider=provider, before=was, after=now, why=why):
                self._record.log(f"limit of {provider}: {was} -> {now}")
                self._lowered_s[provider] = self._now()
                self._record.sometimes["limit lowered"] += 1
                self._record.sometimes[f"limit lowered: {why}"] += 1
            case HealthChanged(target=target, before=before, after=after):
                self._record.log(f"health of {target}: {after}")
                self._record.sometimes[f"health {before} -> {after}"] += 1
                if after == "degraded":
                    self._recovered.discard(target)
            case BudgetSpent(provider=provider):
                self._record.log(f"budget of {provider} is spent")
                self._record.happened["budget_spent"] += 1
                self._record.sometimes["budget spent"] += 1
            case Hedged(target=target, why=why):
                number = CURRENT_REQUEST.get()
                self._record.log(f"#{number} hedges {target}: {why}")
                self._record.sometimes[f"hedged: {why}"] += 1
                self._record.happened["hedged"] += 1
                if why == "degraded" and target in self._recovered:
                    self._record.sometimes["hedged: on probation"] += 1
                if number is not None:
                    self._on_hedged(self._record.requests[number], target, why)
            case Crashed(where=where):
                self._record.violated("one_agreed_end", f"a defect inside the service: {where}")

    def _on_hedged(self, request: RequestRecord, target: str, why: str) -> None:
        request.hedged[target] = why
        if asyncio.current_task() is not None:  # no timer: a task hedges the target that it asks
            self._note_branch(request, target)
        request.hedges.append(ObservedHedge(target, why, self._now()))
        if why == "slow":
            self._record.hedges.append((self._now(), request.generation))

    def _note_branch(self, request: RequestRecord, target: str) -> None:
        """Note the first target of a task, if it is the branch of a hedge. Branches run in order."""
        task, now_s = asyncio.current_task(), self._now()
        if task in request.tasks:
            return
        request.tasks.add(task)
        for hedge in request.hedges:
            if not hedge.target and self._record.ran_s(hedge.at_s, now_s) <= 0.0:
                hedge.target = target
                return

    def _on_queue_left(self, event: QueueLeft) -> None:
        request, now_s, how = self._request_record(CURRENT_REQUEST.get()), self._now(), event.how
        self._record.log(f"#{request.plan.number} {how} after {event.waited_s:.3f} s in line")
        self._sharing.waited(request)
        request.waits.append(QueueWait(now_s - event.waited_s, now_s, how))
        self._record.happened["queued"] += 1
        self._record.sometimes[f"queue: {how}"] += 1
        if how not in ("served", "left"):
            self._record.happened[f"shed_{how}"] += 1

    def _request_record(self, number: int | None) -> RequestRecord:
        assert number is not None, "only requests use the cache, share calls and queue"
        return self._record.requests[number]

    def _on_attempt_ended(self, event: AttemptEnded) -> None:
        number, reported = CURRENT_REQUEST.get(), event.attempt
        self._record.log(f"#{number} <- {reported.target} {reported.kind} {reported.reason}")
        attempt = self._open.pop((self._owner(number), reported.target), None)
        if attempt is None and reported.reason.startswith(UNSUPPORTED):
            self._record.unsent.append((provider_of(reported.target), self._now()))
            if number is not None:
                self._note_branch(self._record.requests[number], reported.target)
            return  # the target lacks a feature: the attempt was not sent
        if attempt is None:
            self._record.violated(
                "attempts_counted_once",
                f"#{number}: an attempt at {reported.target} is reported twice, or was not sent",
            )
            return
        attempt.reported, attempt.ended_s = reported, self._now()
        if reported.ok and number is not None:
            self._sharing.kept(self._record.requests[number], attempt.ended_s)
        self.in_flight[attempt.provider] -= 1
        self.breakers.ended(attempt)
        if reported.reason in ("cancelled", "hedge_lost"):
            return
        if attempt.retry_after_s is not None and attempt.head_s is not None:
            scope = attempt.key, attempt.target
            limited = attempt.status == 429
            until_s = attempt.head_s + min(attempt.retry_after_s, math.inf if limited else WAIT_MAX_S)
            (self._waiting.discard if limited else self._waiting.add)(scope)
            if until_s > self.cool_until_s.get(scope, 0.0):
                self.cool_until_s[scope], self._cool_since_s[scope] = until_s, self._now()
            self._record.sometimes["Retry-After received"] += 1
        if number is not None and reported.status is not None:
            self._remember_refusal(self._record.requests[number], attempt, reported)

    def _remember_refusal(
        self, request: RequestRecord, attempt: ObservedAttempt, reported: AttemptRecord
    ) -> None:
        if reported.status in FINAL_STATUSES and not request.plan.odd:  # it may speak of the key
            request.refused_by.add((attempt.target, ""))
        elif reported.status in FINAL_STATUSES | KEY_REFUSED:
            request.refused_by.add((attempt.target, attempt.key))

    def _on_request_ended(self, event: RequestEnded) -> None:
        number = CURRENT_REQUEST.get()
        self._record.log(f"#{number} ended {event.outcome} {event.code}")
        if number is None:
            self._record.violated("one_agreed_end", "a request ended that no client had sent")
            return
        request = self._record.requests[number]
        if request.ended is not None:
            self._record.violated("one_agreed_end", f"#{number} has ended twice")
        request.ended, request.ended_s = event, self._now()
        if request.audience is not None and request.attempts:
            assert self._world.people is not None, "they ask turns"
            check_linger(self._world.people, self._record, request)
        self.breakers.check_last_resort(request, event)
        self._sharing.ended(request)

    def _owner(self, number: int | None) -> object:
        """Return what owns an attempt: a request's number, or the task of an active probe."""
        return asyncio.current_task() if number is None else number

    def open_attempts(self) -> list[ObservedAttempt]:
        """Return the attempts whose end was never reported."""
        return list(self._open.values())
