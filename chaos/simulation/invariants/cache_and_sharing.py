"""The cache and shared calls: answers stay with their caller, and equal questions are sent once.

    rule                       says
    cache_and_sharing_correct  an answer from the cache was stored for the same caller, route and question,
                               recently enough; a fresh stored answer is found; a call is shared only between
                               equal requests of one caller; no second call is sent while an equal one is in
                               flight; a stale answer is refreshed by one request at a time

    cache key   a caller, a route, a question              what was stored, and when
    call key    a cache key, streamed or not, settings ..  the call that is in flight

The record here is independent of the service's cache: a hit without a stored answer is a violation, and so is
a second call in parallel with an equal one.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable

from dub5.chaos.simulation.invariants.record import FINISHES_IN_BACKGROUND, RequestRecord, RunRecord
from dub5.chaos.simulation.world.model import World

CLAIM_S = 30.0  # how long one request's claim to refresh a stale answer lasts
EPSILON_S = 1e-6


class CacheAndSharing:
    """Receives cache look-ups, shared calls and attempts, and checks them."""

    def __init__(self, world: World, record: RunRecord, now: Callable[[], float]) -> None:
        self._world = world
        self._record = record
        self._now = now
        self._kept_s: dict[Hashable, list[float]] = defaultdict(list)
        self._surely_s: dict[Hashable, float] = {}
        self._calls: dict[Hashable, RequestRecord] = {}
        # By request number: the call that was in flight when the request came, and that it may join.
        self._joinable: dict[int, RequestRecord] = {}
        self._rejoined: dict[Hashable, list[RequestRecord]] = defaultdict(list)  # joined for the second time
        self._refreshing: dict[Hashable, RequestRecord] = {}

    def kept(self, request: RequestRecord, now_s: float) -> None:
        """Record a complete answer that may be stored. After a hedge it is uncertain which answer was
        stored."""
        if request.plan.cacheable:
            self._kept_s[_cache_key(request)].append(now_s)
            self._refreshing.pop(_cache_key(request), None)
            if not request.hedged:
                self._surely_s[_cache_key(request)] = now_s

    def on_cache_looked(self, request: RequestRecord, result: str) -> None:
        """Check a look-up: the first of a request, or the last one after every provider failed."""
        self._record.log(f"#{request.plan.number} looks: {result}")
        if result != "miss":
            self._record.happened[f"cache_{result}"] += 1
        options, now_s = self._world.route(request.plan.route).cache, self._now()
        # An answer is stored a few turns after its attempt ended: a stall may lie between.
        ages_s = [self._record.ran_s(at_s, now_s) for at_s in self._kept_s[_cache_key(request)]]
        if request.cache_result:
            self._check_was_kept(
                request,
                ages_s,
                f"{result} after all providers failed",
                options.ttl_s + options.stale_if_error_s,
            )
            return
        request.cache_result, request.cache_looked_s = result, now_s
        self._record.sometimes[f"cache: {result}"] += 1
        if not request.plan.cacheable:
            self._record.violated(
                "cache_and_sharing_correct",
                f"#{request.plan.number} is looked up although it may not be cached",
            )
        if result == "hit":
            self._check_was_kept(request, ages_s, result, options.ttl_s)
        elif result == "stale":
            self._check_was_kept(request, ages_s, result, options.ttl_s + options.stale_while_revalidate_s)
        if result != "hit":
            surely_s = self._surely_s.get(_cache_key(request))
            is_stored = surely_s is not None and self._record.ran_s(surely_s, now_s) > 0.0
            if is_stored and now_s - (surely_s or 0.0) < options.ttl_s - EPSILON_S:
                self._record.violated(
                    "cache_and_sharing_correct",
                    f"#{request.plan.number} is a {result} although a fresh answer was stored",
                )
        if result == "miss" and options.share:
            self._join_or_begin(request)

    def _join_or_begin(self, request: RequestRecord) -> None:
        """Record that a request begins a call, and which call it may join instead."""
        key = _call_key(request)
        if (before := self._calls.get(key)) is not None:
            self._joinable[request.plan.number] = before
        self._calls[key] = request

    def _check_was_kept(
        self, request: RequestRecord, ages_s: list[float], result: str, age_max_s: float
    ) -> None:
        if not any(age_s < age_max_s + EPSILON_S for age_s in ages_s):
            self._record.violated(
                "cache_and_sharing_correct",
                f"#{request.plan.number} is a {result}, but caller {request.plan.caller} has nothing stored",
            )

    def shared(self, request: RequestRecord, what: str) -> None:
        """Record that a request joined a shared call, or handed its own call over."""
        self._record.log(f"#{request.plan.number} {what}")
        self._record.happened["shared" if what == "joined" else what] += 1
        self._record.sometimes[f"shared call: {what}"] += 1
        if what == "renewed" and self._world.route(request.plan.route).cache.share:
            self._join_or_begin(request)
        if what != "joined":
            return
        key = _call_key(request)
        if request.leader is not None:
            self._rejoined[key].append(request)
            return
        leader = self._joinable.pop(request.plan.number, None)
        if leader is None:
            self._record.violated(
                "cache_and_sharing_correct",
                f"#{request.plan.number} joins a call that no request of its caller began",
            )
            return
        self._calls[key] = leader
        request.leader = leader
        leader.subscribers.append(request)

    def ended(self, request: RequestRecord) -> None:
        """Restore the earlier call if this request was rejected before it called or joined anything."""
        if request.is_refresh:
            return  # its own answer came from the cache: its call may only begin now
        key, before = _call_key(request), self._joinable.pop(request.plan.number, None)
        rejected = not (request.leader or request.subscribers or request.attempts or request.waits)
        if before is not None and rejected and self._calls.get(key) is request:
            self._calls[key] = before

    def waited(self, request: RequestRecord) -> None:
        """Record that a request waited in the queue for itself."""
        if request.leader is not None:
            self._leave_shared_call(request, request.leader, self._now())

    def on_attempt_sent(self, request: RequestRecord, now_s: float) -> None:
        """Check whether the request that sends an attempt is the one that may."""
        number = request.plan.number
        if request.cache_result == "hit":
            self._record.violated(
                "cache_and_sharing_correct",
                f"#{number} calls a provider although it was answered from the cache",
            )
        elif request.is_refresh:
            other = self._refreshing.setdefault(_cache_key(request), request)
            if (
                other is not request
                and now_s < other.cache_looked_s + CLAIM_S
                and _attempt_in_flight(other, now_s)
            ):
                self._record.violated(
                    "cache_and_sharing_correct",
                    f"#{number} refreshes a stale answer in parallel with #{other.plan.number}",
                )
            self._refreshing[_cache_key(request)] = request
            if request.leader is not None:
                self._leave_shared_call(request, request.leader, now_s)
        elif request.leader is not None:
            self._leave_shared_call(request, request.leader, now_s)
        elif not request.attempts and (before := self._joinable.pop(number, None)) is not None:
            self._check_no_duplicate_call(request, before, now_s)

    def _check_no_duplicate_call(self, request: RequestRecord, before: RequestRecord, now_s: float) -> None:
        """Check a request that calls by itself instead of joining the call that was in flight."""
        over = before.has_ended() or before.all_left_s() is not None  # whose attempts are cancelled now
        if _attempt_in_flight(before, now_s) and not over:
            self._record.violated(
                "cache_and_sharing_correct",
                f"#{request.plan.number} calls in parallel with the equal call of #{before.plan.number}",
            )

    def _leave_shared_call(self, request: RequestRecord, leader: RequestRecord, now_s: float) -> None:
        """Record that a request left a call with too little time, and calls for itself and later requests."""
        route = self._world.route(leader.plan.route)
        within_s = route.degraded.answer_within_s if route.degraded.enabled else None
        until_s = (
            leader.deadline_s
            if within_s is None
            else min(leader.deadline_s, leader.cache_looked_s + within_s)
        )
        dropped = bool(leader.waits) and leader.waits[-1].how == "expired"
        if now_s < until_s - EPSILON_S and not dropped:
            self._record.violated(
                "cache_and_sharing_correct",
                f"#{request.plan.number} calls in parallel with its shared call of #{leader.plan.number}",
            )
        self._record.sometimes["left a shared call for one with more time"] += 1
        leader.subscribers.remove(request)
        request.leader = None
        key = _call_key(request)
        self._calls[key] = request
        ended_s = leader.waits[-1].to_s if dropped else until_s
        rejoined = self._rejoined.pop(key, [])
        for other in list(leader.subscribers):
            if other in rejoined or other.cache_looked_s > ended_s:
                leader.subscribers.remove(other)
                other.leader = request
                request.subscribers.append(other)


def _cache_key(request: RequestRecord) -> Hashable:
    return request.plan.caller, request.plan.route, request.plan.prompt


def _call_key(request: RequestRecord) -> Hashable:
    return (
        _cache_key(request),
        request.plan.stream,
        request.plan.whole and not request.is_refresh,
        request.generation,
    )


def _attempt_in_flight(request: RequestRecord, now_s: float) -> bool:
    """Say whether a request's call is surely in flight: an attempt that it waits for has not ended."""
    return any(
        attempt.reported is None
        and attempt.began_s < now_s
        and request.hedged.get(attempt.target) not in FINISHES_IN_BACKGROUND
        for attempt in request.attempts
    )
