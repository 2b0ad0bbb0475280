"""`cache_and_sharing_correct`: what one caller was told is told to no other; and
equal questions of one caller are asked once.

    cache key   a caller, a route, a question         what was kept there, and when
    call key    a cache key, as a stream or not, ..   the call that is under way

What the service looks up is held against this record: a hit without an answer before it is a violation,
and so is a second call for the same beside another one.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable

from dub5.chaos.simulation.invariants.record import FINISHES_IN_BACKGROUND, RequestRecord, RunRecord
from dub5.chaos.simulation.world.model import World

CLAIM_S = 30.0  # whoever asks anew for a stale answer is believed to be at it for so long
NEVER = float("inf")
EPSILON_S = 1e-6


class CacheAndSharing:
    """Hears of looks into the cache, of shared calls, and of each try."""

    def __init__(self, world: World, record: RunRecord, now: Callable[[], float]) -> None:
        self._world = world
        self._record = record
        self._now = now
        self._kept_s: dict[Hashable, list[float]] = defaultdict(list)
        self._surely_s: dict[Hashable, float] = {}
        self._calls: dict[Hashable, RequestRecord] = {}
        self._joinable: dict[
            int, RequestRecord
        ] = {}  # by request: the call that was there when it came, and that it may join
        self._rejoined: dict[Hashable, list[RequestRecord]] = defaultdict(list)  # had joined before
        self._refreshing: dict[Hashable, RequestRecord] = {}

    def kept(self, request: RequestRecord, now_s: float) -> None:
        """A whole answer came, for a request whose answer may be kept. One that was raced may be nobody's."""
        if request.plan.cacheable:
            self._kept_s[_cache_key(request)].append(now_s)
            self._refreshing.pop(_cache_key(request), None)
            if not request.hedged:
                self._surely_s[_cache_key(request)] = now_s

    def on_cache_looked(self, request: RequestRecord, result: str) -> None:
        """The cache was asked: first what it has, then, when nobody could answer, whether it has anything at all."""
        self._record.log(f"#{request.plan.number} looks: {result}")
        if result != "miss":
            self._record.happened[f"cache_{result}"] += 1
        options, now_s = self._world.route(request.plan.route).cache, self._now()
        ages_s = [now_s - at_s for at_s in self._kept_s[_cache_key(request)]]
        if request.cache_result:
            self._check_was_kept(
                request, ages_s, f"{result} at last", options.ttl_s + options.stale_if_error_s
            )
            return
        request.cache_result, request.cache_looked_s = result, now_s
        self._record.sometimes[f"cache: {result}"] += 1
        if not request.plan.cacheable:
            self._record.violated(
                "cache_and_sharing_correct", f"#{request.plan.number} is looked up, and may not be kept"
            )
        if result == "hit":
            self._check_was_kept(request, ages_s, result, options.ttl_s)
        elif result == "stale":
            self._check_was_kept(request, ages_s, result, options.ttl_s + options.stale_while_revalidate_s)
        if result != "hit":
            age_s = now_s - self._surely_s.get(_cache_key(request), -NEVER)
            if 0.0 < age_s < options.ttl_s - EPSILON_S:
                self._record.violated(
                    "cache_and_sharing_correct",
                    f"#{request.plan.number} is a {result}, and a fresh answer was kept",
                )
        if result == "miss" and options.share:
            self._join_or_begin(request)

    def _join_or_begin(self, request: RequestRecord) -> None:
        """It joins the call that is there, or begins another one."""
        kind = _call_key(request)
        if (before := self._calls.get(kind)) is not None:
            self._joinable[request.plan.number] = before
        self._calls[kind] = request

    def _check_was_kept(
        self, request: RequestRecord, ages_s: list[float], result: str, age_max_s: float
    ) -> None:
        if not any(age_s < age_max_s + EPSILON_S for age_s in ages_s):
            self._record.violated(
                "cache_and_sharing_correct",
                f"#{request.plan.number} of caller {request.plan.caller} is a {result}, and nothing was kept for it",
            )

    def shared(self, request: RequestRecord, what: str) -> None:
        """It takes part in the call of another one, or leaves its own to the others."""
        self._record.log(f"#{request.plan.number} {what}")
        self._record.happened["shared" if what == "joined" else what] += 1
        self._record.sometimes[f"shared call: {what}"] += 1
        if what == "renewed" and self._world.route(request.plan.route).cache.share:
            self._join_or_begin(request)
        if what != "joined":
            return
        kind = _call_key(request)
        if request.leader is not None:
            self._rejoined[kind].append(request)
            return
        leader = self._joinable.pop(request.plan.number, None)
        if leader is None:
            self._record.violated(
                "cache_and_sharing_correct",
                f"#{request.plan.number} joins a call that nobody made for its caller",
            )
            return
        self._calls[kind] = leader
        request.leader = leader
        leader.subscribers.append(request)

    def ended(self, request: RequestRecord) -> None:
        """Who was sent away at the door has neither asked nor joined: the call that was there is there still."""
        kind, before = _call_key(request), self._joinable.pop(request.plan.number, None)
        at_the_door = request.leader is None and not request.attempts and not request.waits
        if before is not None and at_the_door and self._calls.get(kind) is request:
            self._calls[kind] = before

    def waited(self, request: RequestRecord) -> None:
        """It stood in line itself."""
        if request.leader is not None:
            self._leave_shared_call(request, request.leader, self._now())

    def on_attempt_sent(self, request: RequestRecord, now_s: float) -> None:
        """A try goes out for it: is it the one who asks?"""
        number = request.plan.number
        if request.cache_result == "hit":
            self._record.violated(
                "cache_and_sharing_correct", f"#{number} has its answer from the cache, and asks all the same"
            )
        elif request.is_refresh:
            other = self._refreshing.setdefault(_cache_key(request), request)
            if (
                other is not request
                and now_s < other.cache_looked_s + CLAIM_S
                and _attempt_in_flight(other, now_s)
            ):
                self._record.violated(
                    "cache_and_sharing_correct", f"#{number} asks anew, and #{other.plan.number} is at it"
                )
            self._refreshing[_cache_key(request)] = request
            if request.leader is not None:
                self._leave_shared_call(request, request.leader, now_s)
        elif request.leader is not None:
            self._leave_shared_call(request, request.leader, now_s)
        elif not request.attempts and (before := self._joinable.pop(number, None)) is not None:
            self._check_no_duplicate_call(request, before, now_s)

    def _check_no_duplicate_call(self, request: RequestRecord, before: RequestRecord, now_s: float) -> None:
        """It asks, and did not join the call that was there when it came."""
        if _attempt_in_flight(before, now_s) and not before.has_ended():
            self._record.violated(
                "cache_and_sharing_correct",
                f"#{request.plan.number} asks what #{before.plan.number} is asking",
            )

    def _leave_shared_call(self, request: RequestRecord, leader: RequestRecord, now_s: float) -> None:
        """It shared a call that had too little time, and asks by itself now, for whoever has come along."""
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
                f"#{request.plan.number} asks what #{leader.plan.number} is asking for both",
            )
        self._record.sometimes["asked again, with more time"] += 1
        leader.subscribers.remove(request)
        request.leader = None
        kind = _call_key(request)
        self._calls[kind] = request
        ended_s = leader.waits[-1].to_s if dropped else until_s
        again = self._rejoined.pop(kind, [])
        for other in list(leader.subscribers):
            if other in again or other.cache_looked_s > ended_s:
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
    """Whether its call has surely not ended: a try is out that it waits for."""
    return any(
        attempt.reported is None
        and attempt.began_s < now_s
        and request.hedged.get(attempt.target) not in FINISHES_IN_BACKGROUND
        for attempt in request.attempts
    )
